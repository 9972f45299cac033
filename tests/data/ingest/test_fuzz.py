"""Whatever a file holds, a reader returns examples or says why not: never anything else."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.data.edit import Version, to_csv, to_xlsx
from core.data.ingest import large, read_file, stream
from core.data.ingest.choices import labelled, options_in, right_options
from core.data.ingest.columns import PARTS, choose_columns
from core.data.ingest.isolated import result_from_lines, result_to_lines
from core.data.ingest.stream import import_rows
from core.errors import StudioError

TIMES = int(os.environ.get("FUZZ_EXAMPLES", "12")) / 12  # as for the readers of questions
QUICK = settings(
    max_examples=int(60 * TIMES),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = ["question", "answer", "A", "B", "C", "选项A", "选项B", "选项", "答案", "题干", "Option 1",
         "Correct 1", "Option 2", "Correct 2", "topic", "context", "question1", "answer1",
         "question2", "answer2", "rejected", "chosen", "", "id"]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CELL = st.one_of(TEXT, st.sampled_from([*NAMES, "A", "AB", "1,3", "x", "['a', 'b']", "A.x B.y"]))
ROWS = st.lists(st.lists(CELL, min_size=1, max_size=7), min_size=1, max_size=6)
PIECES = st.sampled_from([
    ",", ";", "\t", "|", '"', "'", "\\", "\n", "\r", "\r\n", "\0", "question", "answer", "sep=;",
    "[", "]", "{", "}", ":", "<table>", "<tr>", "<td>", "</table>", "PAR1", "PK\x03\x04", "null",
    "NaN", "-1e999", '"messages"', '"role"', '"content"', "user", "assistant", "\ufeff", "=1+1",
    "问题", "答案", "A.", "\u2028", "\ud800", "9" * 400, "[" * 60, "::", "','", "'\n'", "},\n",
])  # fmt: skip
BYTES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(PIECES, TEXT), max_size=30).map(
        lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
    ),
)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CELL),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["messages", "conversations", "role", "content", "from", "value",
                                 "question", "answer", "options", "choices", "chosen", "rejected",
                                 "prompt", "completion", "history", "paragraphs", "qas", "text"]),
                TEXT,
            ), inner, max_size=5),
    ),
    max_leaves=12,
)  # fmt: skip


def is_read_or_refused(path: Path, **options: object) -> None:
    """Read a file; check that the result survives the way between processes and an edit."""
    try:
        result = read_file(path, **options)  # type: ignore[arg-type]
    except StudioError as error:
        assert str(error)
        assert all(p.what for p in error.problems)
        return
    assert result.examples
    assert all(e.question.strip() and e.answer.strip() for e in result.examples)
    assert all(len(row) == len(result.columns) for row in result.rows)
    assert set(result.mapping.values()) <= set(result.columns)
    assert all(0 < sure <= 1 for sure in result.confidence.values())
    written = list(result_to_lines(result))
    "\n".join(written).encode()
    lines = map(json.loads, written)
    assert result_from_lines(next(lines), lines) == result


@QUICK
@given(BYTES, st.sampled_from([".csv", ".json", ".jsonl", ".html", ".xlsx", ".parquet", ""]))
@example(b'[["a"],{"messages":[[]]}]', ".json")
@example(b"{}", ".jsonl")
def test_any_bytes(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"class{suffix}"
    path.write_bytes(data)
    is_read_or_refused(path)
    try:
        import_rows(path, tmp_path / "out.arrow")
    except StudioError:
        assert not (tmp_path / "out.arrow").exists()


@QUICK
@given(VALUE, st.sampled_from([".json", ".jsonl"]))
@example({"question": {"a": {"question": {}}}}, ".json")
@example([["question", "answer"], ["a"], []], ".json")
def test_any_json(tmp_path: Path, value: object, suffix: str) -> None:
    path = tmp_path / f"class{suffix}"
    path.write_text(json.dumps(value), "utf-8")
    is_read_or_refused(path)


@QUICK
@given(ROWS)
def test_any_table(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "class.csv"
    columns = tuple(f"c{i}" for i in range(max(map(len, rows))))
    square = tuple(tuple(r) + ("",) * (len(columns) - len(r)) for r in rows)
    mapping = {"question": "c0", "answer": columns[-1]}
    version = Version(columns, square, mapping, ("",) * len(rows), (None,) * len(rows))
    path.write_bytes(to_csv(version).split(b"\r\n", 1)[1])  # without a header of our own
    is_read_or_refused(path)


@settings(QUICK, max_examples=int(25 * TIMES))
@given(ROWS, st.data())
def test_any_workbook(tmp_path: Path, rows: list[list[str]], data: st.DataObject) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([*map(_in_xml, row)])
    if data.draw(st.booleans()):
        a, b = sorted(data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6))))
        book.active.merge_cells(start_row=a, end_row=b, start_column=1, end_column=2)
    book.save(tmp_path / "class.xlsx")
    is_read_or_refused(tmp_path / "class.xlsx")


def _in_xml(text: str) -> str:
    """Return a text without what a workbook cannot hold, and no formula."""
    kept = "".join(c for c in text if c.isprintable() and c not in "\ufffe\uffff")
    return f"'{kept}" if kept.startswith("=") else kept


@pytest.fixture(scope="module")
def workbook() -> bytes:
    """Return a good workbook; damaged Parquet files are read in a child only."""
    mapping = {"question": "question", "answer": "answer"}
    rows = (("a?", "b"),) * 3
    return to_xlsx(Version(("question", "answer"), rows, mapping, ("",) * 3, (None,) * 3))


@QUICK
@given(st.data())
def test_a_damaged_package(tmp_path: Path, workbook: bytes, data: st.DataObject) -> None:
    whole = bytearray(workbook)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "class.xlsx"
    path.write_bytes(bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))
    is_read_or_refused(path)


@QUICK
@given(st.data())
def test_damaged_xml_inside_a_workbook(
    tmp_path: Path, workbook: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "class.xlsx"
    with zipfile.ZipFile(io.BytesIO(workbook)) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        broken = data.draw(st.sampled_from(names))
        for name in names:
            text = old.read(name)
            if name == broken:
                at = data.draw(st.integers(0, len(text)))
                text = text[:at] + data.draw(st.binary(max_size=6)) + text[at + 2 :]
            new.writestr(name, text)
    is_read_or_refused(path)


@QUICK
@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=9), ROWS, st.booleans())
def test_any_columns(names: list[str], rows: list[list[str]], named: bool) -> None:
    unique = [f"{n} ({i})" if n in names[:i] else n for i, n in enumerate(names)]
    found = choose_columns(unique, rows, named=named)
    used = [name for columns in found.parts.values() for name in columns]
    assert len(used) == len(set(used))
    assert set(used) <= set(unique)
    assert set(found.parts) <= set(PARTS)
    assert found.parts["question"]


@QUICK
@given(st.lists(TEXT, min_size=2, max_size=5), CELL)
def test_an_answer_names_options_that_are_there(options: list[str], answer: str) -> None:
    found = right_options(answer, options)
    assert found is None or all(options[i] for i in found)
    stem, inside = labelled(answer)
    assert answer.startswith(stem)
    assert len(inside) != 1
    assert len(options_in(answer)) != 1


@settings(QUICK, max_examples=int(20 * TIMES))
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=30), st.integers(3, 9))
def test_a_stream_in_any_windows_reads_what_the_whole_file_reads(
    tmp_path: Path, pairs: list[tuple[str, str]], size: int
) -> None:
    mapping = {"question": "question", "answer": "answer"}
    n = len(pairs)
    version = Version(("question", "answer"), tuple(pairs), mapping, ("",) * n, (None,) * n)
    path = tmp_path / "class.csv"
    path.write_bytes(to_csv(version))
    try:
        whole = read_file(path).examples
    except StudioError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", size)
        import_rows(path, tmp_path / "out.arrow", question="question", answer="answer")
    assert tuple(large.ArrowExamples(tmp_path / "out.arrow")) == whole
