"""Parquet files: the same examples as the same records have in JSON."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.data.ingest import read_file
from core.data.types import ReadResult
from core.errors import DataError

RECORDS: list[list[dict[str, object]]] = [
    [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": None}],
    [{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}],
    [{"instruction": "Translate", "input": "Hund", "output": "dog"}],
    [{"question": "Sky?", "choices": ["red", "blue"], "answer": k} for k in (1, 0)],
    [{"id": "1", "context": "c", "question": "q?", "answers": {"text": ["x"], "start": [0]}}],
    [{"question": "half?", "answer": 0.5}, {"question": "two?", "answer": 2.0}],
]


def written(records: list[dict[str, object]], folder: Path) -> ReadResult:
    path = folder / "class.parquet"
    parquet.write_table(pa.Table.from_pylist(records), path)
    return read_file(path)


@pytest.mark.parametrize("records", RECORDS)
def test_a_table_teaches_what_the_same_json_teaches(
    records: list[dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "class.json"
    path.write_text(json.dumps(records).replace("2.0", "2"), "utf-8")
    turns = [e.turns for e in read_file(path).examples]
    result = written(records, tmp_path)
    assert [e.turns for e in result.examples] == turns
    assert all(e.where.startswith("row ") for e in result.examples)
    assert result.encoding == ""


def test_dates_are_texts_and_pictures_are_left_aside(tmp_path: Path) -> None:
    record = {"question": "When?", "answer": dt.date(2024, 2, 29), "image": b"\x89PNG"}
    result = written([record], tmp_path)
    assert result.examples[0].answer == "2024-02-29"
    assert result.columns == ("question", "answer")


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "class.parquet"
    parquet.write_table(pa.table({"question": ["a?"], "answer": ["b"]}), path)
    data = path.read_bytes()
    for broken in (data[:40], data[:-8], data[:4] + b"\0" * 40 + data[44:], b"PAR1", b"PAR1PAR1"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            read_file(path)
