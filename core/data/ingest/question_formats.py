"""The formats that hold questions instead of tables: how each is recognised, and its reader."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from core.data.ingest import anki, backup, cards, delimited, dialogue, gift, moodle, qti, rexams
from core.data.ingest.archive import names_in
from core.data.ingest.columns import names_pair
from core.data.ingest.conversations import conversation
from core.data.ingest.markdown import looks_like_markdown, read_markdown
from core.data.ingest.markup import declared_encoding, parse_xml
from core.data.ingest.page import read_page
from core.data.ingest.question_text import lines_of, looks_like_questions, read_questions
from core.data.ingest.questions import Found
from core.data.messages import Findings, data_error

Reader = Callable[[bytes, str, Findings], Found]

__all__ = ["FORMATS", "QuestionFormat", "binary_kind", "declared_encoding", "text_kind"]


@dataclass(frozen=True)
class QuestionFormat:
    """A kind of file with questions: how it is called, its endings, and its reader.

    ``read`` is given the bytes (of a binary format) and the text (of the others).
    """

    title: str
    suffixes: tuple[str, ...]
    read: Reader


def binary_kind(data: bytes) -> str:
    """Return the kind of a package, database or PDF with questions; empty for anything else."""
    if data.startswith(b"%PDF"):
        return "pdf"
    if data.startswith(b"SQLite format 3\0"):
        return "anki_collection"
    if backup.is_backup(data):
        return "moodle_backup"
    if not data.startswith(b"PK"):
        return ""
    names = names_in(data)
    if "word/document.xml" in names:
        return "docx"
    if names & set(anki.COLLECTIONS):
        return "anki"
    xml = any(n.casefold().endswith((".xml", ".qti")) for n in names)
    office = any(n.startswith(("xl/", "ppt/")) for n in names) or "content.xml" in names
    return "qti_package" if xml and not office else ""


def text_kind(text: str, suffix: str) -> str:
    """Return the kind of a text with questions; empty for tables, JSON and whatever else.

    What looks like a table with a header of known names is one, whatever its cells hold.
    """
    start = text[:4096].lstrip("\ufeff \t\r\n")
    if start.startswith(("<?xml", "<quiz", "<questestinterop", "<assessmentItem", "<qti-")) or (
        suffix in (".xml", ".qti") and start.startswith("<")
    ):
        return "" if "<html" in start.casefold() else "xml"
    if re.match(r"<[!?A-Za-z]", start):
        table = re.search(r"<table\b", text, re.IGNORECASE)
        return "page" if _is_page(start) and not table else ""
    if start[:1] in ("{", "[") and suffix in ("", ".json", ".jsonl", ".ndjson"):
        return ""
    for kind, test in _TESTS.items():
        if test(text):
            return kind
    if _is_table(text):
        return ""
    if gift.looks_like_gift(text):
        return "gift"
    if kind := looks_like_questions(text):
        return "markdown" if kind == "text" and suffix in (".md", ".markdown") else kind
    if suffix in (".md", ".markdown") or looks_like_markdown(text):
        return "markdown"
    if suffix in (".yml", ".yaml"):
        return "yaml"
    if suffix in (".gift",):
        return "gift"
    if suffix in (".csv", ".tsv", ".tab"):
        return ""
    return "quizlet" if cards.card_separator(text) else ""


_TESTS: dict[str, Callable[[str], bool]] = {
    "opentriviaqa": cards.looks_like_trivia,
    "rexams": rexams.looks_like_exercise,
    "chatterbot": dialogue.looks_like_dialogue,
    "anki_text": lambda text: anki.looks_like_export(text) and not _is_table(text),
}


def _is_page(start: str) -> bool:
    return "<html" in start.casefold() or "<!doctype html" in start.casefold()


def _is_table(text: str) -> bool:
    """Say whether the first line with text names a question and an answer column."""
    for line in text[:4096].lstrip("\ufeff").splitlines():
        if line.strip():
            cells = [line.split(d) for d in delimited.DELIMITERS]
            return any(names_pair([c.strip(' "') for c in row]) for row in cells)
    return False


def _xml(_data: bytes, text: str, findings: Findings) -> Found:
    """Read an XML document by its root.

    Raises:
        DataError: if it holds no questions.
    """
    root = parse_xml(text, findings)
    if root.tag == "quiz":
        return moodle.read_moodle(root, findings)
    if root.tag == "manifest":
        raise data_error("xml.manifest")
    found = qti.read_qti(root, findings)
    if not found.questions and not qti.holds_items(root):
        raise data_error("xml.unknown", root=root.tag)
    return found


def _dialogue(_data: bytes, text: str, findings: Findings) -> Found:
    records = dialogue.read_dialogue(text, findings)
    found = [conversation(r, "messages", findings) for r in records]
    return Found("chatterbot", examples=tuple(e for e in found if e))


def _yaml(_data: bytes, text: str, _findings: Findings) -> Found:
    dialogue.refuse_yaml(text)
    return Found("yaml")


def _word(data: bytes, _text: str, findings: Findings) -> Found:
    from core.data.ingest.word import read_word  # python-docx is heavy

    return read_word(data, findings)


def _pdf(data: bytes, _text: str, findings: Findings) -> Found:
    from core.data.ingest.pdf import read_pdf

    return read_pdf(data, findings)


def _of_text(read: Callable[[str, Findings], Found]) -> Reader:
    return lambda _data, text, findings: read(text, findings)


def _of_bytes(read: Callable[[bytes, Findings], Found]) -> Reader:
    return lambda data, _text, findings: read(data, findings)


def _of_lines(form: str) -> Reader:
    return lambda _data, text, findings: read_questions(lines_of(text), findings, form)


FORMATS: dict[str, QuestionFormat] = {
    "xml": QuestionFormat("an XML file of questions", (".xml", ".qti"), _xml),
    "qti_package": QuestionFormat(
        "a package of questions (QTI)", (".zip", ".imscc"), _of_bytes(qti.read_package)
    ),
    "moodle_backup": QuestionFormat(
        "a Moodle backup", (".mbz", ".tgz", ".gz"), _of_bytes(backup.read_backup)
    ),
    "gift": QuestionFormat("GIFT", (".gift", ".txt"), _of_text(gift.read_gift)),
    "aiken": QuestionFormat("Aiken", (".txt", ".aiken"), _of_lines("aiken")),
    "text": QuestionFormat("a list of questions", (".txt", ".text"), _of_lines("text")),
    "markdown": QuestionFormat(
        "Markdown",
        (".md", ".markdown", ".txt"),
        lambda _data, text, findings: read_markdown(lines_of(text), findings),
    ),
    "anki": QuestionFormat(
        "an Anki package", (".apkg", ".colpkg", ".zip"), _of_bytes(anki.read_package)
    ),
    "anki_collection": QuestionFormat(
        "an Anki collection", (".anki2", ".anki21"), _of_bytes(anki.read_collection)
    ),
    "anki_text": QuestionFormat(
        "notes of Anki", (".txt", ".csv", ".tsv"), _of_text(anki.read_export)
    ),
    "quizlet": QuestionFormat("a list of cards", (".txt", ".text"), _of_text(cards.read_cards)),
    "opentriviaqa": QuestionFormat(
        "trivia with #Q and ^", (".txt", ".text"), _of_text(cards.read_trivia)
    ),
    "chatterbot": QuestionFormat("conversations in YAML", (".yml", ".yaml"), _dialogue),
    "yaml": QuestionFormat("YAML", (".yml", ".yaml"), _yaml),
    "docx": QuestionFormat("a Word document (DOCX)", (".docx", ".docm"), _word),
    "pdf": QuestionFormat("a PDF file", (".pdf",), _pdf),
    "rexams": QuestionFormat(
        "an exercise of R/exams", (".rmd", ".rnw", ".md", ".tex"), _of_text(rexams.read_exercise)
    ),
    "page": QuestionFormat("an HTML page", (".html", ".htm"), _of_text(read_page)),
}
