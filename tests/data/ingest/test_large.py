"""Files of any length: the same examples as from a small file, in steady memory, with an end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.data.arrow import ArrowExamples, Chosen, ExampleWriter
from core.data.ingest import large, read_file, stream
from core.data.ingest.large import import_isolated, is_imported, load
from core.data.ingest.stream import Progress, import_rows
from core.data.types import Example
from core.errors import DataError, Stopped

ROWS = [(f"What is {i} + {i}?", f"{2 * i}\nor, in words, twice {i}") for i in range(700)]
ODD = ["\n", "only one cell\n", 'open,"quote\n', "a,b,c,too many\n", "no answer,\n"]


def table(path: Path, rows: list[tuple[str, str]] = ROWS, odd: bool = True) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "answer"))
        for i, row in enumerate(rows):
            writer.writerow(row)
            if odd and i % 97 == 0:
                file.write(ODD[i // 97 % len(ODD)])
    return path


def lines(path: Path, odd: bool = True) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for i, (question, answer) in enumerate(ROWS):
            record = {"instruction": question, "output": answer, "extra": i}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if odd and i % 97 == 0:
                file.write('{"broken": \n\n[1, 2]\n')
    return path


def chats(path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for i, (question, answer) in enumerate(ROWS):
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": turns if i % 50 else turns[:1]}) + "\n")
    return path


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every limit small, so that a short file crosses all of them."""
    monkeypatch.setattr(stream, "WINDOW", 60)
    monkeypatch.setattr(stream, "MARGIN", 20)
    monkeypatch.setattr(stream, "CHUNK", 500)
    monkeypatch.setattr(stream, "HEAD", 30)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("make", [table, lines, chats])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_stream_teaches_what_the_whole_file_teaches(
    make: object, encoding: str, tmp_path: Path
) -> None:
    path = make(tmp_path / ("class.csv" if make is table else "class.jsonl"))  # type: ignore[operator]
    text = path.read_bytes().decode().replace("twice", "两倍")
    path.write_bytes(text.encode(encoding))
    whole = read_file(path)
    found = import_rows(path, tmp_path / "out.arrow")
    examples = ArrowExamples(tmp_path / "out.arrow")
    assert tuple(examples) == whole.examples
    assert (found.examples, found.encoding) == (len(whole.examples), whole.encoding)
    assert (found.columns or whole.columns, found.format) == (whole.columns, whole.format)
    told = {p.code: p.where for p in found.problems}
    expected = {p.code: p.where for p in whole.problems if p.code.split(".")[0] != "health"}
    assert told == expected


def test_parquet_streams_too(tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a} for q, a in ROWS]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=100)
    import_rows(tmp_path / "c.parquet", tmp_path / "out.arrow")
    examples = ArrowExamples(tmp_path / "out.arrow")
    assert tuple(examples) == read_file(tmp_path / "c.parquet").examples


def test_what_is_left_out_is_counted_and_only_the_first_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_KEPT", 20)
    path = table(tmp_path / "c.csv", [("q", "")] * 300 + [("a", "b")], odd=False)
    (problem,) = import_rows(path, tmp_path / "out.arrow").problems
    assert problem.where.startswith("row 2, row 3,")
    assert problem.where.endswith("and 290 more")


def test_a_quotation_mark_that_never_closes_costs_one_row(
    tmp_path: Path, small_windows: None
) -> None:
    path = tmp_path / "c.csv"
    rows = "".join(f"q{i},a{i}\n" for i in range(500))
    path.write_text(f'question,answer\nopen,"never closed\n{rows}', "utf-8")
    found = import_rows(path, tmp_path / "out.arrow")
    assert found.examples == 500
    assert [(p.code, p.where) for p in found.problems] == [("table.open_quote", "row 2")]


def test_progress_goes_up_to_the_end_and_knows_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "EVERY", 0.0)
    seen: list[Progress] = []
    path = table(tmp_path / "c.csv")
    found = import_rows(path, tmp_path / "out.arrow", progress=seen.append)
    assert [p.rows for p in seen] == sorted(p.rows for p in seen)
    assert seen[-1].rows == found.rows
    assert seen[-1].done == seen[-1].total == path.stat().st_size
    assert seen[-1].rate > 0
    assert seen[-1].seconds_left == 0


def test_a_stopped_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "EVERY", 0.0)
    asked = iter([False] * 50 + [True])
    with pytest.raises(Stopped, match="nothing was kept"):
        import_rows(
            table(tmp_path / "c.csv"), tmp_path / "out.arrow", should_stop=lambda: next(asked)
        )
    assert [p.name for p in tmp_path.iterdir()] == ["c.csv"]


@pytest.mark.parametrize(("name", "data", "said"), [
    ("c.csv", b"question,answer\na?,\n", "No row has both"),
    ("c.csv", b"", "empty"),
    ("c.csv", b"%PDF-1.4", "only as CSV"),
    ("c.json", b'[\n{"q": "a", "a": "b"}]', "only as CSV"),
    ("c.xlsx", b"PK\x03\x04rest", "only as CSV"),
    ("c.parquet", b"PAR1nonsense", "damaged"),
    ("c.jsonl", b'{"a": 1}\n{"a": 2}\n', "column"),
])  # fmt: skip
def test_a_refusal_is_a_sentence_and_leaves_nothing(
    name: str, data: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        import_rows(tmp_path / name, tmp_path / "out.arrow")
    assert str(tmp_path) not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_child_imports_into_a_folder_that_is_whole(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv")
    seen: list[Progress] = []
    found = import_isolated(path, tmp_path / "class", progress=seen.append)
    assert tuple(found.examples) == read_file(path).examples
    assert is_imported(tmp_path / "class")
    assert seen[-1].rows == found.about.rows
    again = load(tmp_path / "class", verify=True)
    assert (again.about, len(again.examples)) == (found.about, len(found.examples))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "class"]
    (tmp_path / "class" / large.EXAMPLES).write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path / "class")


def test_a_stopped_or_refused_child_leaves_nothing(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv")
    with pytest.raises(Stopped):
        import_isolated(path, tmp_path / "class", should_stop=lambda: True)
    path.write_text("question,answer\na?,\n,b\n", "utf-8")
    with pytest.raises(DataError, match="My file: No row has both") as caught:
        import_isolated(path, tmp_path / "class", label="My file")
    assert [p.code for p in caught.value.problems] == [
        "table.no_examples", "table.no_answer", "table.no_question",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["c.csv"]


def test_examples_on_disk_are_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.arrow.BATCH", 16)
    made = [Example.pair(q, a, f"row {i}") for i, (q, a) in enumerate(ROWS[:50])]
    with ExampleWriter(tmp_path / "e.arrow") as writer:
        for example in made:
            writer.add(example)
    read = ArrowExamples(tmp_path / "e.arrow")
    assert len(read) == 50
    assert [read[i] for i in range(-50, 50)] == made + made
    assert [*read] == [*read[:]] == made
    assert [*read[40:10:-7]] == made[40:10:-7]
    assert isinstance(read[5:20], Chosen)
    assert [*read[5:20][2:4]] == made[7:9]
    for beyond in (50, -51):
        with pytest.raises(IndexError):
            read[beyond]


def test_the_library_datasets_opens_the_file(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path / "e.arrow") as writer:
        writer.add(Example.pair("a?", "b", "row 2"))
    code = (
        "from datasets import Dataset; import sys\n"
        "d = Dataset.from_file(sys.argv[1])\n"
        "assert d[0]['messages'][1] == {'role': 'assistant', 'content': 'b'}, d[0]\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "e.arrow")], check=True)


@pytest.mark.parametrize("text", [
    '[\n{"question": "a?", "answer": "b"},\n{"question": "c?", "answer": "d"}\n]\n',
    "question::answer\na?::b\nc?::d\n",
    "'question','answer'\n'a?','b'\n'c?','d'\n",
])  # fmt: skip
def test_unusual_dialects_are_imported_as_they_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / ("class.jsonl" if text.startswith("[") else "class.csv")
    path.write_text(text, "utf-8")
    import_rows(path, tmp_path / "out.arrow")
    assert tuple(ArrowExamples(tmp_path / "out.arrow")) == read_file(path).examples
    assert len(read_file(path).examples) == 2
