"""Records of JSON and Parquet files that hold no messages: nested values to columns of text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from core.data.ingest.choices import values_of
from core.data.ingest.columns import names_pair
from core.data.ingest.json_text import Number, Record
from core.data.ingest.names import ANSWER, OPTIONS, QUESTION, WRONG, normal_name
from core.data.ingest.table import Row

_NO_TEXT = re.compile(r"\s*(?:[-+]?[\d.]+(?:[eE][-+]?\d+)?|true|false|\S*[/\\]\S*\.\w+)?\s*")
MOST_ITEMS = 20  # of a list that is shown as text; longer ones are vectors, not words
DEEPEST = 4  # levels of objects inside each other


def flat_rows(records: Sequence[Record]) -> tuple[tuple[str, ...], list[Row]]:
    """Return records as columns and rows of text.

    Options stay a list in their cell, of several accepted answers the first is taken, and objects
    inside an object give columns of their own.
    """
    flat = [dict(_leaves(r.value)) for r in records]
    columns: dict[str, None] = {}
    for record in flat:
        columns.update(dict.fromkeys(record))
    names = tuple(columns)
    rows = [
        Row(tuple(cells.get(n, "") for n in names), r.where)
        for cells, r in zip(flat, records, strict=True)
    ]
    return names, rows


def hold_texts(columns: Sequence[str], rows: Sequence[Row]) -> bool:
    """Say whether rows can hold questions and answers: known names, or a text in some cell.

    Numbers and names of files are none (a quiz that only lists where its questions are).
    """
    if len(columns) < 2 or names_pair(columns):
        return bool(columns)  # of a single column the table says that one is missing
    return any(not _NO_TEXT.fullmatch(cell) for row in rows for cell in row.cells)


def _leaves(value: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield keys and texts; an inner key that is taken gets the outer one in front of it."""
    seen = set(value)
    for key, inner in value.items():
        text = _text(key, inner)
        if text is not None:
            yield key, text
            continue
        if depth == DEEPEST:
            continue
        for name, leaf in _inner(inner, depth + 1):
            unique = f"{key}.{name}" if name in seen else name
            seen.add(unique)
            yield unique, leaf


def _inner(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Yield what an object says, or a few of them: their different texts, joined under each key.

    Objects that are questions with answers themselves are not mixed with each other.
    """
    objects = value if isinstance(value, list) else [value]
    if len(objects) > MOST_ITEMS or not all(isinstance(o, dict) for o in objects):
        return
    if len(objects) > 1 and any(names_pair([*o]) for o in objects):
        return
    said: dict[str, dict[str, None]] = {}
    for one in objects:
        for name, leaf in _leaves(one, depth):
            said.setdefault(name, {})[leaf] = None
    for name, texts in said.items():
        yield name, "; ".join(filter(None, texts))


def _text(key: str, value: Any) -> str | None:
    """Return a value as a cell; ``None`` if it is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    name = normal_name(key)
    options = values_of(value) if isinstance(value, list | dict) else []
    if name in (*OPTIONS, *WRONG) and options:
        return json.dumps(options, ensure_ascii=False)
    texts = isinstance(value, list) or (isinstance(value, dict) and "text" in value)
    if name in (*QUESTION, *ANSWER) and options and texts:
        return options[0] if name in ANSWER else "\n".join(options)
    if isinstance(value, list) and len(value) <= MOST_ITEMS and all(map(_is_word, value)):
        return "; ".join(map(str, value))
    return None


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)
