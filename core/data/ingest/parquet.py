"""Parquet files, through pyarrow: rows become records, as those of a JSON file."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.data.ingest.json_text import Number, Record
from core.data.ingest.table import MOST_ROWS
from core.data.messages import Findings, data_error

BATCH = 256  # rows that are in memory beside the records


def read_parquet(data: bytes, findings: Findings) -> list[Record]:
    """Return the rows of a Parquet file, at most as many as a class may have.

    Raises:
        DataError: if it is damaged or protected.
    """
    records = list(itertools.islice(records_of(io.BytesIO(data)), MOST_ROWS + 1))
    if len(records) > MOST_ROWS:
        findings.add("table.too_many_rows", limit=MOST_ROWS)
    return records[:MOST_ROWS]


def records_of(file: Path | io.BytesIO) -> Iterator[Record]:
    """Yield the rows of a Parquet file, a few of them in memory at a time.

    Raises:
        DataError: if it is damaged or protected.
    """
    import pyarrow as pa  # heavy; only for these files
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            columns = [f.name for f in opened.schema_arrow if not _is_opaque(pa, f.type)]
            for batch in opened.iter_batches(BATCH, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield Record({k: _plain(v) for k, v in row.items()}, f"row {number}")
    except (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise data_error("parquet.damaged") from error


def _is_opaque(pa: Any, kind: Any) -> bool:
    """Say whether a column holds pictures or other bytes, which are no text."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _plain(value: Any) -> Any:
    """Return a value as the JSON reader has it: numbers as they are written."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return Number(int(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return "" if isinstance(value, bytes) else Number(value)
