"""XML that is safe to parse, with line numbers; and HTML as the text that a reader sees."""

from __future__ import annotations

import io
import re
from html.entities import html5
from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

from core.data.ingest.encoding import BAD
from core.data.messages import Findings, data_error
from core.errors import DataError

DEEPEST = 200  # elements inside each other
LINE = " line"  # no XML attribute can have this name

_DOCTYPE = re.compile(r"<!DOCTYPE\s[^<>\[\]]*>")  # one that only names what it is: never fetched
_PROLOG = 4096  # characters in which it is looked for
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,31});")
_XML_ENTITIES = {"amp", "lt", "gt", "quot", "apos"}
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_PRIVATE = 0xF700 - 0xDC00  # where bytes that are no text wait while XML is parsed
_DECLARED = re.compile(rb"""<\?xml[^<>]*?encoding\s*=\s*["']([A-Za-z][\w.-]{0,30})["']""")
_MARKED_UP = re.compile(r"</?[A-Za-z][^<>]*>|<!--|&(?:#\d|#x[0-9a-fA-F]|[A-Za-z])\w{0,31};")


def declared_encoding(data: bytes) -> str:
    """Return the encoding that an XML declaration names, empty where bytes tell it themselves."""
    found = _DECLARED.match(data[:200].lstrip())
    name = found[1].decode().casefold() if found else ""
    if name.startswith(("utf", "us-ascii", "ucs")):
        return ""
    try:
        "a".encode(name)
    except (LookupError, ValueError, TypeError):
        return ""
    return name


def parse_xml(text: str, findings: Findings) -> Element:
    """Return the root of an XML document; names come without their namespaces.

    Every element knows its line (:func:`line_of`). Nothing outside is fetched; bytes that are no
    text stay in it as lone surrogates.

    Raises:
        DataError: if it is no XML, nested too deeply, or defines entities.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.sax import parse  # only for XML

    clean = _NOT_XML.sub("", text)
    if clean != text:
        findings.add("text.control")
    handler = _handler(bool(BAD.search(clean)))
    try:
        parse(_prepared(clean), handler, forbid_dtd=True)
    except DefusedXmlException as error:
        raise data_error("xml.not_safe") from error
    except DataError:
        raise
    except Exception as error:  # SAXParseException, and what damaged markup makes of it
        line = getattr(error, "getLineNumber", lambda: 0)() or 1
        fault = getattr(error, "getMessage", lambda: "it ends too early")()
        raise data_error("xml.syntax", f"line {line}", fault=fault) from error
    root: Element = handler.root()
    return root


def line_of(element: Element) -> int:
    """Return the line of the file on which an element begins."""
    return int(element.get(LINE, "1"))


def _prepared(text: str) -> io.StringIO:
    """Take away what a parser need not see: a bare DOCTYPE, names of HTML characters."""
    head = _DOCTYPE.sub(lambda m: "\n" * m[0].count("\n"), text[:_PROLOG], count=1)
    text = head + text[_PROLOG:]
    text = re.sub(r"^\s*<\?xml[^<>]*\?>", lambda m: "\n" * m[0].count("\n"), text.lstrip("\ufeff"))
    text = _ENTITY.sub(_character, text)
    return io.StringIO(BAD.sub(lambda m: chr(ord(m[0]) + _PRIVATE), text))


def _character(name: re.Match[str]) -> str:
    known = html5.get(f"{name[1]};") if name[1] not in _XML_ENTITIES else None
    return known if known and known not in "<>&" else name[0]


def _handler(bad_bytes: bool) -> Any:
    from xml.sax.handler import ContentHandler  # only for XML

    class Handler(ContentHandler):
        """Builds a tree whose elements know their lines."""

        def __init__(self) -> None:
            super().__init__()
            self._builder, self._depth, self._locator = TreeBuilder(), 0, None

        def setDocumentLocator(self, locator: Any) -> None:  # noqa: N802  (SAX names it so)
            self._locator = locator

        def startElement(self, name: str, attrs: Any) -> None:  # noqa: N802
            self._depth += 1
            line = self._locator.getLineNumber() if self._locator else 1
            if self._depth > DEEPEST:
                raise data_error("xml.too_deep", f"line {line}")
            known = {k.rpartition(":")[2]: v for k, v in attrs.items()}
            self._builder.start(name.rpartition(":")[2], {**known, LINE: str(line)})

        def endElement(self, name: str) -> None:  # noqa: N802
            self._depth -= 1
            self._builder.end(name.rpartition(":")[2])

        def characters(self, content: str) -> None:
            self._builder.data(_bytes_back(content) if bad_bytes else content)

        def root(self) -> Element:
            return self._builder.close()

    return Handler()


def _bytes_back(text: str) -> str:
    return re.sub("[\uf780-\uf7ff]", lambda m: chr(ord(m[0]) - _PRIVATE), text)


class _Text(HTMLParser):
    """Collects what a browser would show; scripts and styles are no text."""

    _SILENT = frozenset(
        {"script", "style", "template", "noscript", "title", "annotation", "iframe", "object"}
    )
    _BLOCKS = frozenset(
        {"br", "p", "div", "li", "ul", "ol", "tr", "table", "pre", "blockquote", "hr", "dt", "dd"}
        | {"section", "article", "details", "summary", *(f"h{i}" for i in range(1, 7))}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.pictures = 0
        self._silent = self._preserved = 0
        self._raised = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent += 1
        elif tag in self._BLOCKS:
            self.parts.append("\n")
            self._preserved += tag == "pre"
        elif tag in ("td", "th"):
            self.parts.append(" | " if self.parts and self.parts[-1] != "\n" else "")
        elif tag == "sup":
            self._raised = True
        elif tag in ("img", "svg", "audio", "video", "canvas"):
            self.pictures += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self._SILENT:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in self._BLOCKS:
            self.parts.append("\n")
            self._preserved = max(0, self._preserved - (tag == "pre"))
        elif tag == "sup":
            self._raised = False

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._raised and re.match(r"[+-−]?\d|[a-z]$", data):
            data = f"^{data}"  # a power, not the "st" of "1st"
        self._raised = False
        self.parts.append(data if self._preserved else re.sub(r"[ \t\r\n\f]+", " ", data))


def feed(parser: HTMLParser, text: str) -> None:
    """Let a parser read all of a page but its declarations, some of which ``html.parser`` refuses.

    Browsers show nothing for them.
    """
    parser.feed(re.sub(r"<!(?!--)[^<>]*>?", "", text))
    parser.close()


def plain(text: str, findings: Findings, where: str) -> str:
    """Return HTML as the text that a browser shows, without pictures.

    A text without tags or entities is returned as it is, but for space around it.

    Args:
        text: HTML or plain text.
        findings: is told that there were tags, or pictures.
        where: the place that is told.
    """
    if not _MARKED_UP.search(text):
        return tidied(text)
    parser = _Text()
    feed(parser, text)
    if "<" in text:
        findings.add("question.html", where)
    if parser.pictures:
        findings.add("question.picture", where)
    shown = re.sub(r"^(?: *\| *)+(?=\S)", "", "".join(parser.parts), flags=re.MULTILINE)
    return tidied(shown)


def tidied(text: str) -> str:
    """Return a text without space around it or its lines' ends, and at most one blank line."""
    lines = [line.rstrip() for line in text.replace("\xa0", " ").split("\n")]
    lines = [re.sub(r"^ (?! )", "", line) for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
