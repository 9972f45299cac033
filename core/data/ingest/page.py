"""Saved web pages without a table: lists of terms, folded answers, and questions in their text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from core.data.ingest.markdown import read_markdown
from core.data.ingest.markup import feed, plain
from core.data.ingest.question_text import lines_of
from core.data.ingest.questions import Found, Question
from core.data.messages import Findings, data_error
from core.errors import DataError

_TEMPLATE = re.compile(r"<var\b[^<>]*\bid\s*=|class\s*=\s*[\"'](?:exercise|problems)[\"']", re.I)


def read_page(text: str, findings: Findings) -> Found:
    """Return the questions of a page.

    Raises:
        DataError: if it makes its questions by a program, or has none.
    """
    if re.search(r"<var\b", text, re.IGNORECASE) and _TEMPLATE.search(text):
        raise data_error("html.template")
    parser = _Pairs()
    feed(parser, text)
    if len(parser.pairs) > 1:
        told = Findings()
        pairs = [(plain(q, told, ""), plain(a, told, ""), line) for q, a, line in parser.pairs]
        return Found("html", tuple(Question(q, a, f"line {n}") for q, a, n in pairs if q))
    headed = re.sub(r"<h([1-6])\b[^<>]*>", r"\n<p>## ", text, flags=re.IGNORECASE)
    shown = plain(headed, Findings(), "")
    try:
        return read_markdown(lines_of(shown), findings, "html")
    except DataError as error:
        raise data_error("html.no_table") from error


class _Pairs(HTMLParser):
    """Collects terms with definitions (dt, dd) and summaries with what they unfold (details)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pairs: list[list[str]] = []
        self._side = -1  # 0 question, 1 answer

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("dt", "summary"):
            self.pairs.append(["", "", str(self.getpos()[0])])
            self._side = 0
        elif tag == "dd" and self.pairs:
            self._side = 1
        elif tag in ("script", "style"):
            self._side = -1
        elif self._side >= 0 and tag in ("br", "p", "div", "li"):
            self.pairs[-1][self._side] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag == "summary" and self.pairs:
            self._side = 1
        elif tag in ("dd", "dl", "details", "dt"):
            self._side = -1

    def handle_data(self, data: str) -> None:
        if self._side >= 0:
            self.pairs[-1][self._side] += re.sub(r"\s+", " ", data)
