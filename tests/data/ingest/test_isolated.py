from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.data.ingest import isolated, read_file, read_isolated
from core.data.ingest.isolated import result_from_lines, result_to_lines
from core.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "class.csv"
    path.write_text("问题,答案\n甲？,乙\n丙？,\n", "utf-8")
    return path


def test_the_child_reads_the_same(path: Path) -> None:
    assert read_isolated(path) == read_file(path)
    swapped = read_isolated(path, question="答案", answer="问题")
    assert swapped == read_file(path, question="答案", answer="问题")


def test_a_refusal_comes_back_with_every_finding(tmp_path: Path) -> None:
    path = tmp_path / "class.csv"
    path.write_text("question,answer\na?,\n,b\n", "utf-8")
    with pytest.raises(DataError) as inside:
        read_file(path, label="My class.csv")
    with pytest.raises(DataError) as outside:
        read_isolated(path, label="My class.csv")
    assert outside.value.problems == inside.value.problems
    assert [p.code for p in outside.value.problems] == [
        "table.no_examples", "table.no_answer", "table.no_question",
    ]  # fmt: skip
    assert str(outside.value).startswith("My class.csv: ")


def test_results_survive_json(path: Path) -> None:
    result = read_file(path)
    lines = map(json.loads, result_to_lines(result))
    assert result_from_lines(next(lines), lines) == result


def test_too_slow_is_a_sentence(path: Path) -> None:
    with pytest.raises(DataError, match=r"longer than 0\.01 seconds"):
        read_isolated(path, time_limit=0.01)


def child_that(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def instead(_command: list[str], **options: object) -> object:
        return run([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(isolated.subprocess, "run", instead)


@pytest.mark.parametrize(("code", "said"), [
    ("import os; os.abort()", "made its reader stop"),
    ("raise ValueError", "made its reader stop"),
    ("raise SystemExit(3)", "too much memory"),
])  # fmt: skip
def test_a_crash_is_a_sentence(
    code: str, said: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_that(code, monkeypatch)
    with pytest.raises(DataError, match=said) as caught:
        read_isolated(path)
    assert str(path.parent) not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_memory_is_limited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MEMORY_LIMIT", 330 * 2**20)
    row = "q" * 1000 + "," + "a" * 1000 + "\n"
    path.write_text("question,answer\n" + row * 22_000, "utf-8")
    with pytest.raises(DataError, match="too much memory"):
        read_isolated(path)


def test_the_reader_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pandas", "gradio", "openpyxl"}
    code = f"import sys, core.data.ingest.child; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
