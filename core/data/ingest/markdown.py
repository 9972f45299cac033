"""Questions in Markdown: lists with marked answers, headings that ask, tables; and other lists.

The list with ``!`` before what is right is that of markdown-to-moodle; ``[x]`` is the task list of
GitHub's Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.data.ingest.choices import joined
from core.data.ingest.question_text import Line, looks_like_questions, read_questions
from core.data.ingest.questions import Found, Question
from core.data.ingest.table import Row
from core.data.messages import Findings

_BULLET = re.compile(r"(\s*)([-*+•◦▪–—])\s+(\S.*)")
_BOX = re.compile(r"\[([ xX✓√])\]\s*")
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+(.+?)\s*#*\s*$")
_RULE = re.compile(r"\s*\|?\s*:?-{1,100}:?\s*(\|\s*:?-{1,100}:?\s*)+\|?\s*")
_PICTURE = re.compile(r"!\[([^\[\]]*)\]\([^()]*\)")
_FENCE = re.compile(r"\s*(```|~~~)")


def read_markdown(lines: Sequence[Line], findings: Findings, form: str = "markdown") -> Found:
    """Return the questions of a Markdown document, or the rows of its table.

    Args:
        lines: of the document.
        findings: is told what belongs to no question.
        form: the format's name.

    Raises:
        DataError: if there is no question.
    """
    text = "\n".join(line.text for line in lines)
    if looks_like_questions(text):
        return read_questions(lines, findings, form)
    if rows := _table(lines):
        return Found(form, rows=tuple(rows))
    if len(_levels(lines)) > 1:
        return Found(form, tuple(_bullets(lines, findings)))
    if questions := _headings(lines, findings):
        return Found(form, tuple(questions))
    return read_questions(lines, findings, form)


def looks_like_markdown(text: str) -> bool:
    """Say whether a text is a list of questions with marked answers."""
    sample = text[: 1 << 16]
    marked = re.search(r"^\s+[-*+]\s+(?:!\S|\[[xX]\]\s)", sample, re.MULTILINE)
    asked = re.search(r"^[-*+]\s+\S", sample, re.MULTILINE)
    return bool(marked and asked)


def _levels(lines: Sequence[Line]) -> list[tuple[int, str]]:
    """Return the kinds of bullets, by indentation and sign, in the order in which they come."""
    kinds: dict[tuple[int, str], None] = {}
    for line in lines:
        if found := _BULLET.match(line.text):
            kinds[len(found[1].expandtabs(4)), found[2]] = None
    return list(kinds)


def _bullets(lines: Sequence[Line], findings: Findings) -> list[Question]:
    """Read a list of questions with a list of answers below each."""
    outer = _levels(lines)[0]
    stems: list[tuple[Line, list[str], list[tuple[bool, str]]]] = []
    topic, topics, fenced = "", [], False
    for line in lines:
        fenced ^= bool(_FENCE.match(line.text))
        found = None if fenced else _BULLET.match(line.text)
        if found and (len(found[1].expandtabs(4)), found[2]) == outer:
            stems.append((line, [found[3]], []))
            topics.append(topic)
        elif found and stems:
            stems[-1][2].append(_marked(found[3]))
        elif not fenced and (heading := _HEADING.match(line.text)):
            topic = heading[2]
        elif stems and not stems[-1][2] and (fenced or line.text.strip()):
            stems[-1][1].append(line.text.rstrip())
    questions = []
    for (line, stem, options), named in zip(stems, topics, strict=True):
        answer = joined([o for right, o in options if right])
        offered = tuple(o for _, o in options)
        text, pictures = _PICTURE.subn(r"\1", "\n".join(stem))
        if pictures:
            findings.add("question.picture", line.where)
        questions.append(Question(text, answer, line.where, offered, topic=named))
    return questions


def _marked(option: str) -> tuple[bool, str]:
    if box := _BOX.match(option):
        return box[1] != " ", option[box.end() :].strip()
    if option.startswith("!") and not option.startswith("!["):
        return True, option[1:].strip()
    return False, option.strip()


def _headings(lines: Sequence[Line], findings: Findings) -> list[Question]:
    """Read headings (or bold lines) that end in a question mark, and the text below each."""
    questions: list[Question] = []
    stem, where, answer = "", "", list[str]()

    def end() -> None:
        text = "\n".join(answer).strip()
        if stem:
            questions.append(Question(stem, text, where))
        elif text and where:
            findings.add("question.stray", where)

    for line in lines:
        found = _HEADING.match(line.text)
        title = found[2] if found else ""
        if bold := re.fullmatch(r"\s*(?:\*\*|__)(.{2,500}?)(?:\*\*|__)\s*", line.text):
            title = bold[1]
        if title:
            end()
            stem, where, answer = title if title.endswith(("?", "？")) else "", line.where, []
        else:
            answer.append(line.text.rstrip())
    end()
    return questions


def _table(lines: Sequence[Line]) -> list[Row]:
    """Return the rows of the first pipe table, header first."""
    at = next((i for i, line in enumerate(lines) if _RULE.fullmatch(line.text)), 0)
    if at == 0 or "|" not in lines[at - 1].text:
        return []
    rows = []
    for line in (lines[at - 1], *lines[at + 1 :]):
        if "|" not in line.text:
            break
        inside = line.text.strip().removeprefix("|").removesuffix("|")
        cells = re.split(r"(?<!\\)\|", inside)
        rows.append(Row(tuple(c.strip().replace("\\|", "|") for c in cells), line.where))
    return rows if len(rows) > 1 else []
