"""Names of uploaded files, which are labels for people and never paths."""

from __future__ import annotations

import re
import unicodedata

from core.data.messages import data_error

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm", ".xls", ".xlsb", ".ods",
            ".parquet", ".json", ".jsonl", ".ndjson",
            ".html", ".htm",
            # questions (question_formats.py)
            ".xml", ".qti", ".zip", ".imscc", ".mbz", ".gift", ".aiken", ".md", ".markdown",
            ".text", ".apkg", ".colpkg", ".anki2", ".anki21", ".yml", ".yaml", ".docx", ".docm",
            ".pdf", ".rmd", ".rnw")  # fmt: skip
ACCEPTED = (
    "CSV, TSV, XLSX, XLS, ODS, JSON, JSONL, Parquet, Moodle XML, GIFT, Aiken, QTI, Anki packages, "
    "Word documents (DOCX), Markdown, PDF and text"
)
LONGEST = 120  # characters of a label

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean_label(name: str) -> str:
    """Return the last part of an upload's name, safe to show in one line.

    The name is data of the person who uploads: it is not decoded, and nothing is opened by it.

    Raises:
        DataError: if its ending is not one of a class file (hidden files and programs are not).
    """
    last = re.split(r"[/\\]", name)[-1]
    visible = "".join(c for c in last if unicodedata.category(c) not in _INVISIBLE)
    label = " ".join(visible.split()).rstrip(". ")
    suffix = suffix_of(label)
    if suffix not in ("", *SUFFIXES):
        raise data_error("file.type", _cut(label, suffix), suffix=suffix, accepted=ACCEPTED)
    return _cut(label, suffix) or "class"


def suffix_of(name: str) -> str:
    """Return the ending in lower case with its dot, empty if there is none (``.env`` is one)."""
    dot = name.rfind(".")
    return name[dot:].casefold() if dot >= 0 else ""


def _cut(label: str, suffix: str) -> str:
    if len(label) <= LONGEST:
        return label
    stem = label[: len(label) - len(suffix)]
    return stem[: LONGEST - len(suffix[:12]) - 1] + "…" + suffix[:12]
