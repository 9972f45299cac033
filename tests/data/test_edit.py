from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.edit import Version, places, save, template, to_csv, to_jsonl, to_xlsx
from core.data.formula import protected, unprotected
from core.data.ingest import read_file
from core.data.types import ReadResult
from core.errors import DataError


def read_text(text: str, tmp_path: Path, name: str = "class.csv") -> ReadResult:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return read_file(path)


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return Version.of(read_text("question,answer\na?,b\nc?,\ne?,f\n", tmp_path))


def asked(version: Version) -> list[tuple[str, str, str]]:
    return [(e.question, e.answer, e.where) for e in version.examples()[0]]


def test_the_first_version_teaches_what_was_read(version: Version) -> None:
    assert asked(version) == [("a?", "b", "row 2"), ("e?", "f", "row 4")]
    assert [p.code for p in version.examples()[1]] == ["table.no_answer"]


def test_a_change_is_a_new_version_and_leaves_the_old_one(version: Version) -> None:
    before = version.rows
    filled = version.edit(1, "answer", "d")
    assert ("c?", "d", "row 3") in asked(filled)
    assert version.rows == before
    assert filled.id != version.id
    assert filled.edit(1, "answer", "").id == version.id


def test_rows_are_added_and_removed(version: Version) -> None:
    longer = version.add({"question": "g?", "answer": "h"}).add({"question": "i?"}, at=0)
    assert [r[0] for r in longer.rows] == ["i?", "a?", "c?", "e?", "g?"]
    assert asked(longer)[-1] == ("g?", "h", "added row 5")
    shorter = longer.remove([0, 2])
    assert [r[0] for r in shorter.rows] == ["a?", "e?", "g?"]
    assert shorter.where == ("row 2", "row 4", "")


@pytest.mark.parametrize("row", [-1, 3, 99])
def test_an_unknown_row_is_refused(version: Version, row: int) -> None:
    with pytest.raises(DataError, match="There is no row"):
        version.edit(row, "answer", "x")
    with pytest.raises(DataError, match="There is no row"):
        version.remove([row])


def test_an_unknown_column_names_those_there_are(version: Version) -> None:
    with pytest.raises(DataError, match="question, answer"):
        version.edit(0, "note", "x")
    with pytest.raises(DataError, match="question, answer"):
        version.add({"note": "x"})


def test_a_class_without_a_single_example_is_refused(version: Version) -> None:
    with pytest.raises(DataError, match="No row has both"):
        version.remove([0, 2]).examples()


def test_an_edited_conversation_keeps_the_turns_before(tmp_path: Path) -> None:
    line = (
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q1"}, '
        '{"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"}, '
        '{"role": "assistant", "content": "a2"}]}\n'
    )
    version = Version.of(read_text(line, tmp_path, "class.jsonl")).edit(0, "answer", "better")
    turns = version.examples()[0][0].turns
    assert [t.content for t in turns] == ["s", "q1", "a1", "q2", "better"]


FORMULAS = ["=1+1", "+1", "-2", "@SUM(1)", "\t=1", "\r=1", "'=1", "''+x", "'plain", "-", "a=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_protected_and_come_back(text: str, tmp_path: Path) -> None:
    assert protected(text)[0] not in "=+-@\t\r\0"
    version = Version.of(read_text("question,answer\na?,b\n", tmp_path)).edit(0, "answer", text)
    for name, write in (("e.csv", to_csv), ("e.xlsx", to_xlsx), ("e.jsonl", to_jsonl)):
        path = tmp_path / name
        path.write_bytes(write(version))
        answer = read_file(path).examples[0].answer
        assert answer.replace("\r", "\n") == text.replace("\r", "\n")  # XML knows no bare CR


def test_a_workbook_holds_no_formula(tmp_path: Path) -> None:
    version = Version.of(read_text("question,answer\na?,b\n", tmp_path))
    for text in FORMULAS:
        version = version.add({"question": "q", "answer": text})
    sheet = openpyxl.load_workbook(io.BytesIO(to_xlsx(version))).active
    assert {c.data_type for row in sheet.iter_rows() for c in row} == {"s"}


@settings(max_examples=200, deadline=None)
@given(st.text("'=+-@\t\r\0a", max_size=6) | st.text(max_size=9))
def test_one_function_undoes_the_other(text: str) -> None:
    assert unprotected(protected(text)) == text
    assert protected(text)[:1] not in tuple("=+-@\t\r\0")


TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], include_characters="\n\t"), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(TEXTS.filter(str.strip), TEXTS.filter(str.strip)), min_size=1, max_size=5)
)
def test_export_and_import_return_every_text(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("export")
    rows = tuple(pairs)
    names = ("question", "answer")
    mapping = {"question": "question", "answer": "answer"}
    version = Version(names, rows, mapping, ("",) * len(rows), (None,) * len(rows))
    path = save(version, folder)
    found = [(e.question, e.answer) for e in read_file(path).examples]
    assert found == pairs
    assert save(version, folder) == path
    assert [p.name for p in folder.iterdir()] == [path.name]


def conversations(tmp_path: Path) -> Version:
    line = (
        '{"messages": [{"role": "user", "content": "q1"},'
        ' {"role": "assistant", "content": "a1"}, '
        '{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]}\n'
        '{"messages": [{"role": "user", "content": "q3"},'
        ' {"role": "assistant", "content": "a3"}]}\n'
    )
    return Version.of(read_text(line, tmp_path, "talk.jsonl"))


def test_a_saved_conversation_is_read_back_with_all_its_turns(tmp_path: Path) -> None:
    version = conversations(tmp_path).add({"question": "q4", "answer": "'=a4"})
    found = read_file(save(version, tmp_path / "saved")).examples
    assert [[t.content for t in e.turns] for e in found] == [
        ["q1", "a1", "q2", "a2"], ["q3", "a3"], ["q4", "'=a4"]
    ]  # fmt: skip
    assert tuple(e.where for e in found) == places(version)


def test_a_system_column_stays_a_column(tmp_path: Path) -> None:
    text = "system,question,answer\nBe brief.,a?,b\n,c?,d\n"
    version = Version.of(read_text(text, tmp_path)).edit(0, "system", "Be long.")
    path = save(version, tmp_path / "saved")
    assert path.suffix == ".csv"
    assert [e.turns[0].content for e in read_file(path).examples] == ["Be long.", "c?"]
    assert tuple(e.where for e in read_file(path).examples) == places(version)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("name", "write"), [("t.csv", to_csv), ("t.xlsx", to_xlsx)])
def test_the_template_is_a_class_that_can_be_read(
    language: str, name: str, write: Callable[[Version], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(write(template(language)))
    result = read_file(path)
    assert len(result.examples) == 3
    assert [p for p in result.problems if p.severity != "info"] == []


PASSAGE = (
    "Rolle,Text,Frage,Zusatz,Antwort,Thema\n"
    "Be brief.,Rome fell.,Why?,In two words.,Bad kings.,history\n"
    ",Water boils.,When?,,At 100 C.,physics\n"
)
PARTS = {
    "question": ["Frage", "Zusatz"], "answer": ["Antwort"], "system": ["Rolle"],
    "context": ["Text"], "topic": ["Thema"],
}  # fmt: skip


def test_chosen_parts_outlive_an_edit_and_every_download(tmp_path: Path) -> None:
    path = tmp_path / "class.csv"
    path.write_text(PASSAGE, "utf-8")
    version = Version.of(read_file(path, columns=PARTS)).edit(1, "Thema", "science")
    (first, second), _ = version.examples()
    assert [t.content for t in first.turns] == [
        "Be brief.", "Rome fell.\n\nWhy?\nIn two words.", "Bad kings."
    ]  # fmt: skip
    assert (first.topic, second.topic) == ("history", "science")
    for name, write in (("e.csv", to_csv), ("e.xlsx", to_xlsx), ("e.jsonl", to_jsonl)):
        (tmp_path / name).write_bytes(write(version))
        back = read_file(tmp_path / name, columns=version.parts).examples
        assert [(e.turns, e.topic) for e in back] == [(e.turns, e.topic) for e in (first, second)]


def test_conversations_are_one_wide_row_in_a_table(tmp_path: Path) -> None:
    line = (
        '{"topic": "logic", "messages": [{"role": "system", "content": "s"},'
        ' {"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"},'
        ' {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]}\n'
        '{"messages": [{"role": "user", "content": "q3"},'
        ' {"role": "assistant", "content": "a3"}]}\n'
    )
    version = Version.of(read_text(line, tmp_path, "talk.jsonl")).edit(0, "answer", "better")
    for name, write in (("e.csv", to_csv), ("e.xlsx", to_xlsx), ("e.jsonl", to_jsonl)):
        (tmp_path / name).write_bytes(write(version))
        found = read_file(tmp_path / name).examples
        assert [([t.content for t in e.turns], e.topic) for e in found] == [
            (["s", "q1", "a1", "q2", "better"], "logic"), (["q3", "a3"], "")
        ], name  # fmt: skip


def test_the_names_of_sheets_stay_topics(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Unit 1"
    for sheet in (book.active, book.create_sheet("Unit 2")):
        sheet.append(["question", "answer"])
        sheet.append([f"{sheet.title}?", "yes"])
    book.save(tmp_path / "units.xlsx")
    version = Version.of(read_file(tmp_path / "units.xlsx", sheet="*"))
    saved = save(version.edit(0, "answer", "no"), tmp_path / "saved")
    assert saved.suffix == ".csv"
    found = read_file(saved, columns=version.parts).examples
    assert [(e.answer, e.topic) for e in found] == [("no", "Unit 1"), ("yes", "Unit 2")]
