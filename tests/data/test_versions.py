"""Every version of a class is kept, hashed, comparable and can be deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.config import DataConfig, RunConfig, columns_text
from core.data import versions
from core.data.edit import Version
from core.data.health import check
from core.data.ingest import read_file
from core.errors import ConfigError, DataError


@pytest.fixture
def first(tmp_path: Path) -> Version:
    path = tmp_path / "class.csv"
    path.write_text("question,answer,topic\na?,b,x\nc?,,x\ne?,f,y\n", "utf-8")
    return Version.of(read_file(path))


def kept(version: Version, folder: Path, *codes: str) -> versions.Kept:
    notes = tuple((code, 1) for code in codes)
    return versions.keep(version, folder, origin="class.csv", parent={"path": "p"}, notes=notes)


def test_a_version_comes_back_with_every_row(first: Version, tmp_path: Path) -> None:
    saved = kept(first, tmp_path / "v", "edited")
    found = versions.load(saved)
    assert found.rows == first.rows
    assert found.mapping == first.mapping
    assert found.id == first.id == saved.id
    assert (saved.rows, saved.examples, saved.notes) == (3, 2, (("edited", 1),))
    assert [e.where for e in read_file(saved.path).examples] == ["row 2", "row 4"]
    assert found.where == ("row 2", "row 3", "row 4")
    assert versions.version_at(saved.path) == saved


def test_findings_of_the_saved_file_name_rows_of_the_version(
    first: Version, tmp_path: Path
) -> None:
    version = first.add({"question": "mail?", "answer": "a@example.org"}, at=1)
    saved = kept(version, tmp_path / "v")
    (problem,) = check(read_file(saved.path).examples)[1]
    assert versions.load(saved).where.index(problem.where) == 1


def test_versions_are_listed_in_the_order_of_making(first: Version, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    made = [kept(first.edit(0, "answer", text), folder) for text in ("z", "a", "m")]
    assert versions.versions(folder, "class.csv") == made
    assert [k.number for k in made] == [1, 2, 3]
    assert versions.versions(folder, "other.csv") == []


def test_the_same_rows_are_kept_once(first: Version, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    assert kept(first, folder) == kept(first, folder)
    assert len(list(folder.iterdir())) == 1


def test_a_deleted_version_leaves_nothing_and_the_others(first: Version, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    one, two = kept(first, folder), kept(first.edit(0, "answer", "SECRET"), folder)
    versions.delete(two)
    assert versions.versions(folder, "class.csv") == [one]
    assert not [p for p in folder.rglob("*") if p.is_file() and "SECRET" in p.read_text("utf-8")]


@pytest.mark.parametrize("name", ["class", "rows.jsonl"])
def test_a_changed_version_is_refused(first: Version, tmp_path: Path, name: str) -> None:
    saved = kept(first, tmp_path / "v")
    path = saved.path if name == "class" else saved.folder / name
    path.write_text(path.read_text("utf-8").replace("b", "z"), "utf-8")
    with pytest.raises(DataError, match="changed or damaged"):
        versions.load(saved)


def test_an_unfinished_version_does_not_exist(first: Version, tmp_path: Path) -> None:
    saved = kept(first, tmp_path / "v")
    (saved.folder / "about.json").unlink()
    assert versions.versions(tmp_path / "v", "class.csv") == []
    assert kept(first, tmp_path / "v").id == saved.id
    (saved.folder / "about.json").write_text(json.dumps({"id": 1}), "utf-8")
    assert versions.version_at(saved.path) is None


def test_a_version_without_an_example_is_not_kept(first: Version, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No row has both"):
        kept(first.remove([0, 2]), tmp_path / "v")
    assert versions.versions(tmp_path / "v", "class.csv") == []


def test_versions_are_compared_row_by_row(first: Version) -> None:
    newer = first.edit(1, "answer", "d").remove([2]).add({"question": "g?", "answer": "h"})
    newer = newer.edit(0, "question", "A?")
    found = versions.diff(first, newer)
    assert found.added == (("g?", "h", ""),)
    assert found.removed == (("e?", "f", "y"),)
    assert set(found.changed) == {
        (("c?", "", "x"), ("c?", "d", "x")),
        (("a?", "b", "x"), ("A?", "b", "x")),
    }
    assert found.same == 0


def test_equal_versions_have_no_difference_wherever_rows_stand(first: Version) -> None:
    moved = first.remove([0]).add(dict(zip(first.columns, first.rows[0], strict=True)))
    found = versions.diff(first, moved)
    assert (found.added, found.removed, found.changed, found.same) == ((), (), (), 3)


def test_of_rows_that_repeat_only_the_surplus_differs(first: Version) -> None:
    twice = first.add(dict(zip(first.columns, first.rows[0], strict=True)))
    assert versions.diff(first, twice).added == (first.rows[0],)
    assert versions.diff(twice, first).removed == (first.rows[0],)


def test_a_version_keeps_the_columns_of_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "class.csv"
    path.write_text("Q,More,Text,A,Rolle\na?,really?,x,b,Be kind.\n", "utf-8")
    parts = {"question": ("Q", "More"), "context": ("Text",), "answer": ("A",), "system": ()}
    first = Version.of(read_file(path, columns=parts))
    saved = kept(first, tmp_path / "v")
    again = versions.load(saved)
    assert (again.parts, again.id, saved.parts) == (first.parts, first.id, first.parts)
    data = DataConfig(columns=columns_text(saved.parts))
    learned = read_file(saved.path, **data.reading()).examples
    assert [e.turns for e in learned] == [e.turns for e in first.examples()[0]]
    assert learned[0].turns[0].content == "x\n\na?\nreally?"


def test_columns_are_settings_of_one_line_each() -> None:
    parts = {"question": ("Frage", "a=b, c"), "system": (), "topic": ("Thema",)}
    data = DataConfig(columns=columns_text(parts))
    assert data.parts == parts
    assert RunConfig.from_json(RunConfig(data=data).to_json()).data == data
    with pytest.raises(ConfigError, match="does not name the column"):
        _ = DataConfig(columns="Frage").parts
