"""What a file is, by its content; its name is only a hint for people."""

from __future__ import annotations

import json
import re

from core.data.ingest.label import ACCEPTED
from core.data.messages import data_error

ZIP, OLE, PARQUET = b"PK", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PAR1"

# Files that people choose by mistake, by their first bytes.
_OTHERS = (
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a compressed file (gzip)"),
    (b"7z\xbc\xaf", "a compressed file (7z)"),
    (b"Rar!", "a compressed file (RAR)"),
    (b"BZh", "a compressed file (bzip2)"),
    (b"\xfd7zXZ", "a compressed file (xz)"),
    (b"{\\rtf", "an RTF document"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a model (GGUF)"),
    (b"\x80\x02", "a pickle, which is never opened"),
    (b"\x80\x04", "a pickle, which is never opened"),
    (b"\x80\x05", "a pickle, which is never opened"),
)
_HTML = re.compile(r"<(!doctype\s+html|html|head|body|table|meta|style)\b", re.IGNORECASE)


def binary_kind(data: bytes) -> str:
    """Return ``zip``, ``ole``, ``parquet`` or, for what may be text, an empty string.

    Raises:
        DataError: if the file is empty, damaged or of a kind that holds no class.
    """
    if not data.strip():
        raise data_error("file.empty")
    if not data.strip(b"\0 \t\r\n"):
        raise data_error("file.damaged")
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return "zip"
    if data.startswith(OLE):
        return "ole"
    if data.startswith(PARQUET):
        return "parquet"
    for start, kind in _OTHERS:
        if data.startswith(start):
            raise data_error("file.kind", kind=kind, accepted=ACCEPTED)
    return ""


def text_kind(text: str, suffix: str) -> str:
    """Return ``html``, ``json``, ``jsonl`` or ``delimited``.

    Raises:
        DataError: if the text is empty, XML, or hardly any text at all.
    """
    start = text[:4096].lstrip("\ufeff \t\r\n")
    if not text.strip("\ufeff \t\r\n\0"):
        raise data_error("file.empty")
    strange = sum(c < " " and c not in "\t\r\n\x1b\x07\x08" for c in text[:4096])
    if strange > max(3, 0.05 * len(text[:4096])):
        raise data_error("file.damaged")
    if start.startswith("<?xml") or (start.startswith("<") and suffix == ".xml"):
        raise data_error("file.kind", kind="an XML file", accepted=ACCEPTED)
    if _HTML.match(start) or (start.startswith("<") and "<table" in text[:65536].casefold()):
        return "html"
    return _json_kind(text, start, suffix)


def _json_kind(text: str, start: str, suffix: str) -> str:
    named = suffix in (".json", ".jsonl", ".ndjson")
    if start[:1] not in ("[", "{") and not named:
        return "json" if _is_json_value(text) else "delimited"
    if suffix in (".csv", ".tsv", ".txt", ".tab") and not re.match(r'[\[{]\s*["\[{\]}\']', start):
        return "delimited"
    line = start.split("\n", 1)[0].strip()
    lines = start.startswith("{") and line.endswith("}")
    return "jsonl" if lines or suffix in (".jsonl", ".ndjson") else "json"


def _is_json_value(text: str) -> bool:
    """Say whether a short text is one bare JSON value (a string, a number)."""
    if len(text) > 4096 or "\n" in text.strip():
        return False
    try:
        return isinstance(json.loads(text), str | int | float) and text.lstrip()[:1] == '"'
    except (ValueError, RecursionError):
        return False
