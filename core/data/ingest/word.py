"""Word documents as lines of text, numbered as Word shows them, and their tables."""

from __future__ import annotations

import io
import re
from typing import Any

from core.data.ingest.markdown import read_markdown
from core.data.ingest.package import check_parts
from core.data.ingest.question_text import Line, is_option
from core.data.ingest.questions import Found
from core.data.ingest.table import Row
from core.data.messages import Findings, data_error
from core.errors import DataError

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"),
          (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip
_HAN = "〇一二三四五六七八九十"


def read_word(data: bytes, findings: Findings) -> Found:
    """Return the questions of a Word document: of its text, else the rows of its largest table.

    Raises:
        DataError: if it cannot be opened safely or holds no question.
    """
    document = _opened(data)
    try:
        numbering = _Numbering(document)
        lines = [
            Line(text, f"paragraph {i}")
            for i, p in enumerate(document.paragraphs, 1)
            for text in _text(p, numbering, findings, f"paragraph {i}")
        ]
        tables = [_rows(t) for t in document.tables]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes python-docx stumble over
        raise data_error("word.damaged") from error
    rows = max(tables, key=len, default=[])
    if rows and len(rows) * 2 > len([line for line in lines if line.text.strip()]):
        return Found("docx", rows=tuple(rows))
    try:
        return read_markdown(lines, findings, "docx")
    except DataError:
        if not rows:
            raise
    return Found("docx", rows=tuple(rows))


def _opened(data: bytes) -> Any:
    """Open a document.

    Raises:
        DataError: if it cannot be opened safely.
    """
    check_parts(data)
    import docx  # heavy; only for Word documents

    try:
        return docx.Document(io.BytesIO(data))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes python-docx stumble over
        raise data_error("word.damaged") from error


def word_text(data: bytes) -> tuple[list[tuple[Line, bool]], list[Row]]:
    """Return a Word document as running text.

    Returns:
        Paragraphs, each with whether it is a heading, and the rows of all tables.

    Raises:
        DataError: if it cannot be opened safely.
    """
    document = _opened(data)
    try:
        paragraphs = [
            (Line(p.text.strip(), f"paragraph {i}"), _is_heading(p))
            for i, p in enumerate(document.paragraphs, 1)
        ]
        return paragraphs, [row for table in document.tables for row in _rows(table)]
    except MemoryError:
        raise
    except Exception as error:
        raise data_error("word.damaged") from error


def _is_heading(paragraph: Any) -> bool:
    style = str(getattr(paragraph.style, "name", "") or "")
    return style.lower().startswith(("heading", "title"))


def _rows(table: Any) -> list[Row]:
    rows = []
    for number, row in enumerate(table.rows, 1):
        cells: list[str] = []
        seen: set[int] = set()
        for cell in row.cells:  # a merged cell comes once for each of its columns
            cells.append("" if id(cell._tc) in seen else cell.text.strip())
            seen.add(id(cell._tc))
        if len(cells) > 1 and any(cells):
            rows.append(Row(tuple(cells), f"row {number}"))
    return rows


def _text(paragraph: Any, numbering: _Numbering, findings: Findings, where: str) -> list[str]:
    """Return the lines of a paragraph, its number before the first."""
    element = paragraph._p
    if element.find(f".//{_W}drawing") is not None or element.find(f".//{_W}pict") is not None:
        findings.add("question.picture", where)
    parts = []
    copies = {n for copy in element.iter(f"{_MC}Fallback") for n in copy.iter()}
    for node in element.iter():
        if node in copies:  # what older programs show instead of a text box
            continue
        if node.tag in (f"{_W}t", f"{_M}t"):
            parts.append(_raised(node) + (node.text or ""))
        elif node.tag == f"{_W}tab":
            parts.append("" if node.getparent().tag == f"{_W}tabs" else "\t")
        elif node.tag in (f"{_W}br", f"{_W}cr"):
            parts.append("\n")
    text = f"{numbering.label(paragraph)}{''.join(parts)}"
    if is_option(text) and _stands_out(paragraph):
        findings.add("word.emphasis", where)
        text = f"{text} *"
    return text.split("\n")


def _stands_out(paragraph: Any) -> bool:
    """Say whether all of a paragraph is bold or highlighted, as right options often are."""
    runs = [r for r in paragraph.runs if r.text.strip()]
    return bool(runs) and all(r.bold or r.font.highlight_color for r in runs)


def _raised(node: Any) -> str:
    """Return ``^`` before a power, which would otherwise be read as digits of its base."""
    run = node.getparent()
    place = run.find(f"{_W}rPr/{_W}vertAlign") if run is not None else None
    power = place is not None and place.get(f"{_W}val") == "superscript"
    return "^" if power and re.match(r"[+\-−]?\d", node.text or "") else ""


class _Numbering:
    """What Word writes before the paragraphs of its lists; the text itself does not hold it."""

    def __init__(self, document: Any) -> None:
        self._levels: dict[tuple[str, int], tuple[str, str, int]] = {}
        self._abstract: dict[str, str] = {}
        self._counts: dict[tuple[str, int], int] = {}
        part = next((r.target_part for r in document.part.rels.values()
                     if r.reltype.endswith("/numbering") and not r.is_external), None)  # fmt: skip
        if part is None:
            return
        root = part.element
        for abstract in root.iter(f"{_W}abstractNum"):
            key = abstract.get(f"{_W}abstractNumId", "")
            for level in abstract.iter(f"{_W}lvl"):
                self._levels[key, int(level.get(f"{_W}ilvl", "0"))] = (
                    _value(level, "numFmt", "decimal"),
                    _value(level, "lvlText", ""),
                    int(_value(level, "start", "1")),
                )
        for number in root.iter(f"{_W}num"):
            self._abstract[number.get(f"{_W}numId", "")] = _value(number, "abstractNumId", "")

    def label(self, paragraph: Any) -> str:
        """Return the number of a paragraph and a space; empty if it is in no list."""
        place = self._place(paragraph)
        if place is None:
            return ""
        number, level = place
        key = self._abstract.get(number, "")
        form, text, start = self._levels.get((key, level), ("bullet", "", 1))
        if form in ("bullet", "none"):
            return f"{'  ' * level}- " if form == "bullet" else ""
        for other in [k for k in self._counts if k[0] == number and k[1] > level]:
            del self._counts[other]  # a deeper list begins anew
        self._counts[number, level] = self._counts.get((number, level), start - 1) + 1

        def written(found: re.Match[str]) -> str:
            at = int(found[1]) - 1
            shape, _, first = self._levels.get((key, at), ("decimal", "", 1))
            return _counted(self._counts.get((number, at), first), shape)

        return f"{re.sub('%([1-9])', written, text)} "

    def _place(self, paragraph: Any) -> tuple[str, int] | None:
        """Return list and level, of the paragraph itself or of its style."""
        style, depth = paragraph.style, 0
        properties = [paragraph._p.pPr]
        while style is not None and depth < 10:
            properties.append(style.element.find(f"{_W}pPr"))
            style, depth = style.base_style, depth + 1
        for found in properties:
            if found is not None and (num := found.find(f"{_W}numPr")) is not None:
                number = _value(num, "numId", "0")
                return None if number == "0" else (number, int(_value(num, "ilvl", "0")))
        return None


def _value(element: Any, name: str, default: str) -> str:
    child = element.find(f"{_W}{name}")
    return default if child is None else str(child.get(f"{_W}val", default))


def _counted(number: int, form: str) -> str:
    """Write a number as Word's numbering formats do."""
    if form.endswith("Letter"):
        letter = chr(97 + (number - 1) % 26) * min(5, 1 + (number - 1) // 26)
        return letter.upper() if form.startswith("upper") else letter
    if form.endswith("Roman"):
        rest, roman = min(number, 3999), ""
        for value, sign in _ROMAN:
            roman += sign * (rest // value)
            rest %= value
        return roman.upper() if form.startswith("upper") else roman
    if form.startswith(("chinese", "japanese", "ideograph")) and 0 < number <= 10:
        return _HAN[number]
    return str(number)
