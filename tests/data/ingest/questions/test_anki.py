from __future__ import annotations

import io
import json
import sqlite3
import zipfile
from collections.abc import Callable

import pytest
import zstandard

from core.data.types import ReadResult
from core.errors import DataError

Read = Callable[..., ReadResult]
BASIC = {
    "1": {
        "name": "Basic",
        "flds": [{"name": "Front"}, {"name": "Back"}, {"name": "Source"}],
        "tmpls": [{"qfmt": "{{Front}}", "afmt": "{{FrontSide}}<hr id=answer>{{Back}}"}],
    }
}


def text_field(number: int, text: str) -> bytes:
    return bytes([number << 3 | 2, len(text)]) + text.encode()


def collection(notes: list[tuple[str, ...]], *, newer: bool = False, kind: int = 1) -> bytes:
    """Return a collection of Anki's older schema (JSON) or its newer one (tables)."""
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, mid INTEGER, tags TEXT, flds TEXT)"
    )
    rows = [(kind, " unit1 ", "\x1f".join(fields)) for fields in notes]
    database.executemany("INSERT INTO notes (mid, tags, flds) VALUES (?, ?, ?)", rows)
    if newer:
        database.create_collation("unicase", lambda a, b: (a > b) - (a < b))
        database.execute("CREATE TABLE notetypes (id INTEGER, name TEXT COLLATE unicase)")
        database.execute(
            "CREATE TABLE fields (ntid INTEGER, ord INTEGER, name TEXT COLLATE unicase)"
        )
        database.execute("CREATE TABLE templates (ntid INTEGER, ord INTEGER, config BLOB)")
        database.execute("INSERT INTO notetypes VALUES (1, 'Basic')")
        names = [(0, "Front"), (1, "Back"), (2, "Source")]
        database.executemany("INSERT INTO fields VALUES (1, ?, ?)", names)
        config = text_field(1, "{{Front}}") + text_field(2, "{{FrontSide}} {{Back}}")
        database.execute("INSERT INTO templates VALUES (1, 0, ?)", [config])
    else:
        database.execute("CREATE TABLE col (models TEXT)")
        database.execute("INSERT INTO col VALUES (?)", [json.dumps(BASIC)])
    data = database.serialize()
    database.close()
    return data


def package(parts: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return data.getvalue()


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in result.examples]


NOTES = [("<b>Bonjour</b>", "hello&nbsp;[sound:a.mp3]", "book"), ("chat", "cat", "")]


@pytest.mark.parametrize("newer", [False, True])
def test_the_templates_say_what_is_asked_and_what_is_told(newer: bool, read: Read) -> None:
    content = collection(NOTES, newer=newer)
    if newer:
        dummy = collection([("Please update Anki", "", "")])
        packed = zstandard.compress(content)
        data = package({"collection.anki2": dummy, "collection.anki21b": packed, "media": b"{}"})
    else:
        data = package({"collection.anki2": content, "media": b"{}"})
    result = read("deck.apkg", data)
    assert pairs(result) == [("Bonjour", "hello"), ("chat", "cat")]
    assert result.columns == ("question", "answer", "Source", "tags")
    assert result.rows[0] == ("Bonjour", "hello", "book", "unit1")
    assert result.row_where == ("note 1", "note 2")


def test_a_cloze_is_one_question_for_each_number(read: Read) -> None:
    text = "{{c1::Ottawa}} is in {{c2::Canada::country}}, {{c1::too}}"
    result = read("deck.apkg", package({"collection.anki21": collection([(text, "", "")])}))
    assert pairs(result) == [
        ("____ is in Canada, ____", "(1) Ottawa\n(2) too"),
        ("Ottawa is in ____ [country], too", "Canada"),
    ]


def test_notes_of_an_unknown_type_have_their_fields_in_order(read: Read) -> None:
    result = read("deck.colpkg", package({"collection.anki2": collection(NOTES, kind=9)}))
    assert pairs(result) == [("Bonjour", "hello"), ("chat", "cat")]


def test_a_collection_written_ahead_is_read(read: Read) -> None:
    data = bytearray(collection(NOTES))
    data[18:20] = b"\2\2"
    assert len(read("collection.anki2", bytes(data)).examples) == 2


@pytest.mark.parametrize("content", [
    b"SQLite format 3\0" + b"x" * 500, collection(NOTES)[:3000], b"no database at all",
])  # fmt: skip
def test_a_damaged_collection_is_refused_in_a_sentence(content: bytes, read: Read) -> None:
    with pytest.raises(DataError, match="collection is damaged") as caught:
        read("deck.apkg", package({"collection.anki2": content}))
    assert caught.value.code == "anki.damaged"


def test_a_view_in_place_of_the_notes_is_not_asked(read: Read) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE col (models)")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    database.execute(
        f"CREATE VIEW notes AS SELECT i AS mid, 'x' AS flds, '' AS tags FROM ({endless})"
    )
    with pytest.raises(DataError, match="collection is damaged"):
        read("deck.apkg", package({"collection.anki2": database.serialize()}))


def test_a_text_export_is_read_by_its_headers(read: Read) -> None:
    text = (
        "#separator:tab\n#html:true\n#tags column:3\n"
        'one<br>two\t"eins\nzwei"\tunit1\n&lt;p&gt;\ttag\t\n'
    )
    result = read("notes.txt", text)
    assert pairs(result) == [("one\ntwo", "eins\nzwei"), ("<p>", "tag")]
    assert result.columns == ("question", "answer", "tags")


def test_an_export_without_headers_keeps_its_first_note(read: Read) -> None:
    result = read("deck.csv", "docker ps\tList&nbsp;containers\t\ndocker rm\t<div>Remove</div>\t\n")
    assert pairs(result) == [("docker ps", "List containers"), ("docker rm", "Remove")]
