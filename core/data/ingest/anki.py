"""Anki's packages (.apkg, .colpkg) and its text exports.

After the Anki manual ("Exporting", "Text files") and the schema of its collections: notes hold
their fields in one text with U+001F between them; the card templates of a note type say which
fields are asked and which are the answer. Packages since 2.1.50 hold ``collection.anki21b``, packed
by Zstandard.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from core.data.ingest.archive import opened, part
from core.data.ingest.markup import plain
from core.data.ingest.package import LARGEST
from core.data.ingest.questions import GAP, Found, Question, numbered
from core.data.ingest.table import MOST_ROWS, Row, column_letter
from core.data.messages import Findings, data_error

COLLECTIONS = ("collection.anki21b", "collection.anki21", "collection.anki2")  # the newest first
SECONDS = 20.0  # a query of a made-up database is ended after this

_FIELD = re.compile(r"\{\{(?![#/^!])(?:[\w-]{1,40}:)*\s*([^{}]{1,200}?)\s*\}\}")
_CLOZE = re.compile(r"\{\{c(\d{1,3})::(.*?)(?:::([^{}]*?))?\}\}", re.DOTALL)
_SOUND = re.compile(r"\[sound:[^\[\]]{1,300}\]|\[anki:play:[^\[\]]{1,100}\]")
_LATEX = re.compile(r"\[(?:latex|\$\$?)\](.*?)\[/(?:latex|\$\$?)\]", re.DOTALL)
_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "colon": ":"}


@dataclass(frozen=True)
class _Kind:
    """A note type: its name, its fields, and which of them its first card asks and answers."""

    name: str
    fields: tuple[str, ...]
    asked: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def read_package(data: bytes, findings: Findings) -> Found:
    """Return the notes of a package.

    Raises:
        DataError: if it cannot be opened safely or holds no notes.
    """
    with opened(data) as package:
        name = next((n for n in COLLECTIONS if n in package.namelist()), "")
        if not name:
            raise data_error("anki.damaged")
        content = part(package, name)
    if name.endswith("b"):
        content = _unpacked(content)
    return read_collection(content, findings)


def read_collection(data: bytes, findings: Findings) -> Found:
    """Return the notes of a collection, which is an SQLite database.

    Raises:
        DataError: if it is damaged or no collection of Anki.
    """
    if data[18:20] == b"\2\2":  # written ahead (WAL), which a database in memory cannot be
        data = data[:18] + b"\1\1" + data[20:]
    database = sqlite3.connect(":memory:")
    try:
        ends = time.monotonic() + SECONDS
        database.set_progress_handler(lambda: time.monotonic() > ends, 100_000)
        database.deserialize(data)
        database.execute("PRAGMA query_only = ON")
        database.execute("PRAGMA trusted_schema = OFF")
        database.create_collation("unicase", _unicase)
        questions = list(_notes(database, findings))
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, RecursionError) as error:
        raise data_error("anki.damaged") from error
    finally:
        database.close()
    return Found("anki", tuple(questions))


def _unicase(one: str, other: str) -> int:
    return (one.casefold() > other.casefold()) - (one.casefold() < other.casefold())


def _unpacked(data: bytes) -> bytes:
    import zstandard  # only for new packages

    unpacked = io.BytesIO()
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data) as stream:
            while piece := stream.read(1 << 20):
                unpacked.write(piece)
                if unpacked.tell() > LARGEST:
                    raise data_error("package.too_large", size=unpacked.tell() >> 20)
    except zstandard.ZstdError as error:
        raise data_error("anki.damaged") from error
    return unpacked.getvalue()


def _notes(database: sqlite3.Connection, findings: Findings) -> Iterator[Question]:
    tables = {n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "notes" not in tables:
        raise data_error("anki.damaged")
    kinds = _new_kinds(database) if "notetypes" in tables else _old_kinds(database)
    rows = database.execute("SELECT mid, flds, tags FROM notes ORDER BY id")
    for number, (mid, values, tags) in enumerate(rows, 1):
        if number > MOST_ROWS:
            findings.add("table.too_many_rows", limit=MOST_ROWS)
            return
        where = f"note {number}"
        fields = str(values).split("\x1f")
        kind = kinds.get(str(mid), _Kind("", tuple(map(column_letter, range(len(fields))))))
        named = dict(zip(kind.fields, fields, strict=False))
        yield from _cards(kind, named, str(tags or "").strip(), where, findings)


def _old_kinds(database: sqlite3.Connection) -> dict[str, _Kind]:
    """Return the note types of the schema before 2.1.28: JSON in one cell."""
    row = database.execute("SELECT models FROM col").fetchone()
    models = json.loads(row[0]) if row and row[0] else {}
    kinds = {}
    for key, model in models.items() if isinstance(models, dict) else ():
        if not isinstance(model, dict):
            continue
        names = tuple(str(f.get("name", "")) for f in _objects(model.get("flds")))
        template = next(iter(_objects(model.get("tmpls"))), {})
        asked = _named(str(template.get("qfmt", "")), names)
        told = tuple(n for n in _named(str(template.get("afmt", "")), names) if n not in asked)
        kinds[str(key)] = _Kind(str(model.get("name", "")), names, asked, told)
    return kinds


def _objects(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _new_kinds(database: sqlite3.Connection) -> dict[str, _Kind]:
    """Return the note types of the newer schema: a table each for types, fields and templates."""
    names: dict[str, list[str]] = {}
    for kind, name in database.execute("SELECT ntid, name FROM fields ORDER BY ntid, ord"):
        names.setdefault(str(kind), []).append(str(name))
    templates: dict[str, bytes] = {}
    for kind, config in database.execute("SELECT ntid, config FROM templates ORDER BY ntid, ord"):
        templates.setdefault(str(kind), bytes(config or b""))
    kinds = {}
    for kind, name in database.execute("SELECT id, name FROM notetypes"):
        fields = tuple(names.get(str(kind), ()))
        front, back = _sides(templates.get(str(kind), b""))
        asked = _named(front, fields)
        told = tuple(n for n in _named(back, fields) if n not in asked)
        kinds[str(kind)] = _Kind(str(name), fields, asked, told)
    return kinds


def _sides(config: bytes) -> tuple[str, str]:
    """Return front and back of a template: the texts 1 and 2 of a protocol buffer."""
    texts = {1: "", 2: ""}
    at = 0
    while at < len(config):
        key, at = _varint(config, at)
        field, wire = key >> 3, key & 7
        if wire == 2:
            size, at = _varint(config, at)
            if field in texts:
                texts[field] = config[at : at + size].decode("utf-8", "replace")
            at += size
        elif wire == 0:
            _, at = _varint(config, at)
        else:
            at += {1: 8, 5: 4}.get(wire, len(config))
    return texts[1], texts[2]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
        shift += 7
    return value, at


def _named(template: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields that a template shows, in its order."""
    found = [f.strip() for f in _FIELD.findall(template)]
    return tuple(dict.fromkeys(f for f in found if f in fields))


def _cards(
    kind: _Kind, named: dict[str, str], tags: str, where: str, findings: Findings
) -> Iterator[Question]:
    """Yield a note as its first card asks it; a cloze note as one question for each number."""

    def shown(name: str) -> str:
        return _shown(named.get(name, ""), findings, where)

    more = [("tags", tags)] if tags else []
    hidden = next((n for n in named if _CLOZE.search(named[n])), "")
    if hidden:
        rest = [(n, shown(n)) for n in named if n != hidden]
        for number in sorted({int(c[1]) for c in _CLOZE.finditer(named[hidden])}):
            text, answer = _hidden(named[hidden], number)
            place = f"{where}, card {number}"
            yield Question(_shown(text, findings, where), _shown(answer, findings, where), place,
                           more=(*rest, *more))  # fmt: skip
        return
    asked = kind.asked or kind.fields[:1]
    told = [n for n in kind.told if shown(n)] or [n for n in kind.fields if n not in asked][:1]
    rest = [(n, shown(n)) for n in kind.fields if n not in (*asked, *told)]
    question = "\n".join(filter(None, map(shown, asked)))
    answer = "\n".join(filter(None, map(shown, told)))
    yield Question(question, answer, where, more=(*rest, *more))


def _hidden(text: str, number: int) -> tuple[str, str]:
    """Return a text with one number of its clozes hidden, and what is hidden."""
    answers = [c[2] for c in _CLOZE.finditer(text) if int(c[1]) == number]

    def mark(cloze: re.Match[str]) -> str:
        if int(cloze[1]) != number:
            return cloze[2]
        return f"{GAP} [{cloze[3]}]" if cloze[3] else GAP

    return _CLOZE.sub(mark, text), numbered(answers)


def _shown(text: str, findings: Findings, where: str) -> str:
    text = _LATEX.sub(r"$\1$", _SOUND.sub("", text))
    return plain(text, findings, where)


def looks_like_export(text: str) -> bool:
    """Say whether a text is an Anki export: headers with ``#``, or HTML between tabs."""
    if re.match(r"\ufeff?(?:#[a-z ]+:[^\n]*\r?\n)*#(?:separator|html):", text):
        return True
    lines = [line for line in text[: 1 << 16].splitlines() if line.strip()]
    tabs = {line.count("\t") for line in lines[:-1] or lines}
    marked = re.search(r"&nbsp;|<(?:div|br ?/?|b|i|img|span)\b[^<>]*>", text[: 1 << 16])
    return len(tabs) == 1 and min(tabs) > 0 and marked is not None


def read_export(text: str, findings: Findings) -> Found:
    """Return the rows of a text export under the columns that its headers name.

    Raises:
        DataError: if it holds no notes.
    """
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    head: dict[str, str] = {}
    while lines and (found := re.match(r"#([a-z ]{1,40}):(.*)", lines[0].rstrip("\r\n"))):
        head[found[1]] = found[2]
        lines.pop(0)
    named = head.get("separator", "tab").strip()
    separator = _SEPARATORS.get(named.casefold(), named if len(named) == 1 else "\t")
    reader = csv.reader(lines, delimiter=separator)
    rows: list[Row] = []
    try:
        for cells in reader:
            where = f"line {len(head) + reader.line_num}"
            if any(c.strip() for c in cells):
                rows.append(Row(tuple(_shown(c, findings, where) for c in cells), where))
    except csv.Error as error:
        raise data_error("anki.damaged") from error
    if not rows:
        raise data_error("question.none")
    return Found("anki", rows=(Row(_columns(head, rows), "header"), *rows))


def _columns(head: dict[str, str], rows: list[Row]) -> tuple[str, ...]:
    """Return the names of the columns; the first two that hold fields are question and answer."""
    width = max(len(r.cells) for r in rows)
    given = re.split(r"[\t,;]", head["columns"]) if head.get("columns") else []
    special = {}
    for name in ("guid", "notetype", "deck", "tags"):
        place = head.get(f"{name} column", "").strip()
        if place.isdecimal() and place.isascii() and len(place) < 6:
            special[int(place) - 1] = name
    names = [special.get(i) or (given[i] if i < len(given) else "") or column_letter(i)
             for i in range(width)]  # fmt: skip
    full = [i for i in range(width) if i not in special
            and any(i < len(r.cells) and r.cells[i].strip() for r in rows)]  # fmt: skip
    if "question" not in names and "answer" not in names:
        for i, part_name in zip(full, ("question", "answer"), strict=False):
            names[i] = part_name
    return tuple(names)
