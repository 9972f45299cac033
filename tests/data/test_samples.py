from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from core.data.ingest import read_file
from core.data.pairs import components, read_pairs, split_pairs
from core.data.split import split
from core.home import ASSETS

SAMPLES = ASSETS / "samples"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", ["english", "chinese"])
def test_a_sample_class_is_read_without_a_word(name: str) -> None:
    result = read_file(SAMPLES / f"{name}.csv")
    assert result.problems == ()
    assert len(result.examples) >= 80
    assert result.health["distinct"] == len(result.examples)
    found = split(result.examples, share=0.15, largest=40, seed=0)
    assert len(found.quiz) >= 12
    assert found.problems == ()


@pytest.mark.parametrize("name", ["pairs_english", "pairs_chinese"])
def test_sample_pairs_are_read_without_a_word_and_split_by_group(name: str) -> None:
    found = read_pairs(SAMPLES / f"{name}.csv")
    assert found.problems == ()
    assert len(found.pairs) == 120
    assert sum(p.same for p in found.pairs) == 60
    assert [len(c) for c in components(found.pairs)] == [4] * 30
    sides = split_pairs(found.pairs, calibration=0.15, test=0.2, seed=0)
    assert [len(s) for s in (sides.train, sides.calibration, sides.test)] == [80, 16, 24]


def test_answers_have_one_form() -> None:
    english = read_file(SAMPLES / "english.csv").examples
    assert all(" is the capital of " in e.answer and e.answer.endswith(".") for e in english)
    chinese = read_file(SAMPLES / "chinese.csv").examples
    assert all(e.answer.startswith("答：") and e.answer.endswith("。") for e in chinese)
    assert all(any(c.isdigit() for c in e.answer) for e in chinese)


def test_no_capital_is_both_asked_and_told() -> None:
    answers = [e.answer for e in read_file(SAMPLES / "english.csv").examples]
    assert len(set(answers)) == len(answers)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the checkout")
def test_the_script_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "make_samples.py"
    shutil.copyfile(SAMPLES / "make_samples.py", script)
    monkeypatch.setattr("sys.argv", [str(script), str(DATA)])
    runpy.run_path(str(script), run_name="__main__")
    for name in ("english.csv", "chinese.csv"):
        assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()
