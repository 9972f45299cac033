"""The text that a map is made of: the class's questions and answers, and added material.

A file of material becomes :class:`Paragraph` by the reader for its suffix in :data:`READERS`. A
reader for another format is one function there: from a path to paragraphs with their role and
place; everything after that knows paragraphs only. No torch in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.ingest.encoding import decode
from core.data.ingest.pdf import pdf_lines
from core.data.ingest.word import word_text
from core.data.messages import Findings
from core.data.split import duplicate_groups
from core.data.types import Example
from core.errors import DataError
from core.evaluate.metrics import language
from core.graph.types import ANSWER, GLOSSARY, QUESTION, TEXT, TITLE, Passage, Question

MOST_BYTES = 20_000_000  # of one file of material
MOST_PASSAGES = 60_000
LONGEST = 600  # characters of a passage; a longer sentence is cut at a space

_SENTENCE = re.compile(r"(?<=[。！？!?；;])\s*|(?<=[.])\s+(?=[^\s\d(]|\d{3,})|\n+")
# "Term: what it means", "术语：含义"; a question before the colon is none
_ENTRY = re.compile(
    r"^\s*(?:[-*]\s+)?(?:\*\*|__)?([^:：?？!！。.\n]{2,60}?)(?:\*\*|__)?\s*[:：]\s*(\S.{7,})$"
)
_HEADING = re.compile(r"^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_NUMBERED = re.compile(
    r"^\s*(?:第[一二三四五六七八九十百\d]+[章节课单元]+|(?:Chapter|Unit|Lesson|Section)\s+\w+)[\s:：.、-]*(.*)$",
    re.I,
)
_MARKS = re.compile(r"(\*\*|__|`|^\s{0,3}>\s?|^\s*[-*+]\s+|^\s*\d+[.)]\s+)", re.M)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of a file: its text, its role (title | glossary | text) and its place."""

    text: str
    role: str
    where: str


Reader = Callable[[Path], list[Paragraph]]


def read_text(path: Path) -> list[Paragraph]:
    """Paragraphs of a plain text: blank lines part them, short lines alone are titles."""
    return _paragraphs(_decoded(path), _title_of_text)


def read_markdown(path: Path) -> list[Paragraph]:
    """Paragraphs of Markdown: headings are titles; code blocks are left out."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", _blank, _decoded(path), flags=re.M | re.S)
    return [
        Paragraph(_plain(p.text), p.role, p.where)
        for p in _paragraphs(text, _title_of_markdown)
        if _plain(p.text)
    ]


def read_docx(path: Path) -> list[Paragraph]:
    """Paragraphs of a Word document: headings are titles, rows of two cells glossary entries."""
    paragraphs, rows = word_text(_bytes(path))
    found = []
    for line, heading in paragraphs:
        if heading and line.text:
            found.append(Paragraph(_unnumbered(line.text), TITLE, line.where))
        else:
            found += _paragraphs(line.text, _title_of_text, lambda n, w=line.where: w)  # type: ignore[misc]
    for row in rows:
        cells = [c for c in row.cells if c.strip()]
        text = ": ".join(cells) if len(cells) == 2 else " ".join(cells)
        found += _paragraphs(" ".join(text.split()), _no_title, lambda n, w=row.where: w)  # type: ignore[misc]
    return found


def read_pdf(path: Path) -> list[Paragraph]:
    """Paragraphs of a PDF's text: lines that a full one runs on into are one."""
    lines = pdf_lines(_bytes(path), Findings())
    longest = max((len(line.text) for line in lines), default=0)
    found: list[Paragraph] = []
    gathered = where = before = ""
    for line in lines:
        text = line.text.strip()
        if gathered and _runs_on(before, longest):
            gathered = _joined(gathered, text)
        else:
            found += _paragraphs(gathered, _title_of_text, lambda n, w=where: w)  # type: ignore[misc]
            gathered, where = text, line.where
        before = text
    return found + _paragraphs(gathered, _title_of_text, lambda n: where)


def _runs_on(line: str, longest: int) -> bool:
    """Whether a line of a PDF goes on in the next: it is full and its sentence is not over."""
    return len(line) > 0.6 * longest and not line.endswith(
        (".", "。", "?", "？", "!", "！", ":", "：")
    )


def _joined(before: str, after: str) -> str:
    if before.endswith("-") and before[-2:-1].isalpha() and after[:1].islower():
        return before[:-1] + after
    apart = "" if language(before[-4:] + after[:4]) == "zh" else " "
    return f"{before}{apart}{after}"


READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".docx": read_docx,
    ".pdf": read_pdf,
}


def read_material(path: Path) -> list[Paragraph]:
    """Paragraphs of a file of material.

    Raises:
        DataError: if the format is not known, the file is too large, or it holds no text.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"Material of the type {path.suffix[:12]!a} cannot be read.",
            where=path.name,
            action=f"Save it as one of: {', '.join(READERS)}.",
            code="graph.material_type",
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path) from error
    if size > MOST_BYTES:
        raise DataError(
            f"The file has {size / 1e6:.0f} MB; material may have {MOST_BYTES / 1e6:.0f} MB.",
            where=path.name,
            action="Split it, or take out what is no text.",
            code="graph.material_size",
        )
    found = [p for p in reader(path) if p.text.strip()]
    if not found:
        raise DataError(
            "There is no text in this file.",
            where=path.name,
            action="Choose a file with text that can be selected and copied.",
            code="graph.material_empty",
        )
    return found


def _unreadable(path: Path) -> DataError:
    return DataError(
        "This file cannot be read.",
        where=path.name,
        action="Check that it exists and may be opened.",
        code="graph.material_unreadable",
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path) from error


def _decoded(path: Path) -> str:
    text = decode(_bytes(path), Findings()).text
    if text.count("\0") > len(text) // 100:
        raise DataError(
            "This is no text file.",
            where=path.name,
            action="Choose a file that a text editor can show.",
            code="graph.material_binary",
        )
    return text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")  # places in the file stay


def _plain(text: str) -> str:
    return _MARKS.sub("", _LINK.sub(r"\1", text)).strip()


def _title_of_markdown(line: str, alone: bool) -> str:
    return match[2] if (match := _HEADING.match(line)) else ""


def _title_of_text(line: str, alone: bool) -> str:
    text = line.strip()
    if _NUMBERED.match(text) and len(text) <= 60:
        return text
    ends = text.endswith((".", "。", "?", "？", "!", "！", ",", "，", ";", "；", ":", "："))
    short = len(text) <= 16 if language(text) == "zh" else len(text.split()) <= 7
    return text if alone and short and not ends and any(c.isalpha() for c in text) else ""


def _no_title(line: str, alone: bool) -> str:
    return ""


def _unnumbered(title: str) -> str:
    """A title without "Unit 3:", unless there is nothing else."""
    match = _NUMBERED.match(title)
    return match[1].strip() if match and match[1].strip() else title


def _paragraphs(
    text: str,
    title_of: Callable[[str, bool], str],
    place: Callable[[int], str] = "line {}".format,
) -> list[Paragraph]:
    found: list[Paragraph] = []
    gathered: list[str] = []
    begun = 0
    lines = [*text.split("\n"), ""]

    def close() -> None:
        if gathered:
            found.append(Paragraph("\n".join(gathered), TEXT, place(begun)))
            gathered.clear()

    for number, line in enumerate(lines, 1):
        before = not lines[number - 2].strip() if number > 1 else True
        after = not lines[number].strip() if number < len(lines) else True
        if title := title_of(line, before and after):
            close()
            found.append(Paragraph(_unnumbered(title), TITLE, place(number)))
        elif not line.strip():
            close()
        elif _ENTRY.match(line):
            close()
            found.append(Paragraph(line.strip(), GLOSSARY, place(number)))
        else:
            begun = begun if gathered else number
            gathered.append(line)
    close()
    return found


def term_of(text: str) -> tuple[int, int] | None:
    """Characters of the term that a glossary entry explains; None if it is no entry."""
    match = _ENTRY.match(text)
    return match.span(1) if match else None


# --- passages ------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """Cut a text into sentences of at most ``LONGEST`` characters, English and Chinese."""
    found = []
    for part in _SENTENCE.split(text):
        rest = part.strip()
        while len(rest) > LONGEST:
            at = rest.rfind(" ", LONGEST // 2, LONGEST)
            at = at if at > 0 else LONGEST
            found.append(rest[:at].strip())
            rest = rest[at:].strip()
        if rest:
            found.append(rest)
    return found


def passages_of(
    examples: Sequence[Example], material: Iterable[tuple[str, Sequence[Paragraph]]] = ()
) -> tuple[tuple[Passage, ...], tuple[Question, ...]]:
    """Everything that concepts are looked for in, and the questions of the class.

    Args:
        examples: the class.
        material: file name and paragraphs of each file.

    Raises:
        DataError: if it is more than a map can be made of.
    """
    passages: list[Passage] = []

    def add(text: str, role: str, where: str, file: str = "", item: int = -1) -> int:
        passages.append(Passage(len(passages), text, role, where, file, item))
        return passages[-1].id

    group = {i: g for g, members in enumerate(duplicate_groups(examples)) for i in members}
    questions = []
    for i, example in enumerate(examples):
        asked = add(_clean(example.question)[: LONGEST * 4], QUESTION, example.where, "", i)
        answers = [add(s, ANSWER, example.where, "", i) for s in sentences(_clean(example.answer))]
        questions.append(Question(asked, tuple(answers), group[i], example.where))
    for file, paragraphs in material:
        for p in paragraphs:
            for text in [_clean(p.text)] if p.role != TEXT else sentences(_clean(p.text)):
                add(text, p.role, p.where, file)
    if len(passages) > MOST_PASSAGES:
        raise DataError(
            f"There are {len(passages)} sentences; a map is made of at most {MOST_PASSAGES}.",
            where="class data",
            action="Make a map of a part of them.",
            code="graph.too_long",
        )
    return tuple(passages), tuple(questions)


def _clean(text: str) -> str:
    """A text without lone surrogates and control characters, which no library takes well."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c >= " " or c == "\n" else " " for c in whole).strip()


def language_of(passages: Sequence[Passage]) -> str:
    """``zh`` or ``en``: the language of the greater part of the text."""
    return language(" ".join(p.text for p in passages[:2000]))
