from __future__ import annotations

from pathlib import Path

import pytest

from core.data import frozen
from core.data.split import Split, split
from core.data.types import Example
from core.errors import DataError


@pytest.fixture
def examples() -> list[Example]:
    texts = [f"question {word} \u2028 光" for word in ("root", "leaf", "sun", "bud", "bark")]
    return [Example.pair(t, f"answer to {t}", f"row {i}") for i, t in enumerate(texts)]


@pytest.fixture
def sides(examples: list[Example]) -> Split:
    return split(examples, share=0.3, largest=40, seed=0)


def test_what_was_frozen_is_read_back(
    examples: list[Example], sides: Split, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "data"
    sha256 = frozen.freeze(examples, sides, folder)
    assert frozen.load_frozen(folder) == sides
    assert sha256 == sides.sha256
    assert frozen.is_frozen(folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["data"]


def test_problems_of_a_small_class_come_back(examples: list[Example], tmp_path: Path) -> None:
    small = split(examples[:4], share=0.3, largest=40, seed=0)
    frozen.freeze(examples[:4], small, tmp_path / "data")
    assert frozen.load_frozen(tmp_path / "data").problems == small.problems != ()


@pytest.mark.parametrize("name", ["train.jsonl", "quiz.jsonl", "manifest.json"])
def test_an_edit_is_detected(
    examples: list[Example], sides: Split, tmp_path: Path, name: str
) -> None:
    frozen.freeze(examples, sides, tmp_path / "data")
    path = tmp_path / "data" / name
    path.write_bytes(path.read_bytes().replace(b"e", b"3", 1))
    with pytest.raises(DataError) as caught:
        frozen.load_frozen(tmp_path / "data")
    assert caught.value.code in ("frozen.damaged", "frozen.version")


@pytest.mark.parametrize("name", ["train.jsonl", "quiz.jsonl", "manifest.json"])
def test_a_missing_file_is_a_sentence(
    examples: list[Example], sides: Split, tmp_path: Path, name: str
) -> None:
    frozen.freeze(examples, sides, tmp_path / "data")
    (tmp_path / "data" / name).unlink()
    with pytest.raises(DataError, match="changed or damaged"):
        frozen.load_frozen(tmp_path / "data")


def test_freezing_the_same_again_changes_nothing(
    examples: list[Example], sides: Split, tmp_path: Path
) -> None:
    first = frozen.freeze(examples, sides, tmp_path / "data")
    before = (tmp_path / "data" / "manifest.json").stat().st_mtime_ns
    assert frozen.freeze(examples, sides, tmp_path / "data") == first
    assert (tmp_path / "data" / "manifest.json").stat().st_mtime_ns == before


def test_other_data_is_not_overwritten(
    examples: list[Example], sides: Split, tmp_path: Path
) -> None:
    frozen.freeze(examples, sides, tmp_path / "data")
    other = split(examples, share=0.3, largest=40, seed=5)
    with pytest.raises(DataError, match="already holds other data"):
        frozen.freeze(examples, other, tmp_path / "data")
    assert frozen.load_frozen(tmp_path / "data") == sides


def test_a_failure_half_way_leaves_nothing(
    examples: list[Example], sides: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        frozen.freeze(examples, sides, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_places_in_the_file_do_not_count(examples: list[Example], sides: Split) -> None:
    moved = Split(tuple(Example(e.turns, "row 99") for e in sides.train), sides.quiz)
    assert moved.sha256 == sides.sha256
    assert Split(sides.quiz, sides.train).sha256 != sides.sha256
