"""Files of strangers are read in a child process with limits: a crash there is a sentence here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from core.data.messages import data_error
from core.data.types import Candidate, Example, ReadResult
from core.errors import DataError, Problem
from core.home import CHECKOUT

TIME_LIMIT = 30.0  # seconds
MEMORY_LIMIT = 768 * 2**20  # bytes of address space; a reader needs about 100 MB of memory
_BODY = ("rows", "examples", "problems")
MEMORY_EXIT = 3  # how the child says that it ran out of memory


def read_isolated(
    path: str | Path,
    *,
    question: str = "",
    answer: str = "",
    sheet: str = "",
    encoding: str = "",
    label: str = "",
    columns: Mapping[str, Sequence[str]] | None = None,
    time_limit: float = TIME_LIMIT,
) -> ReadResult:
    """Read a class file as :func:`~core.data.ingest.read_file` does, in a child process.

    Args:
        path: the file.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.
        sheet: sheet of a workbook; empty: the first one with something to learn.
        encoding: of the text; empty: recognised.
        label: how the file is called in messages; empty: its name.
        columns: the columns of every part, as in :func:`~core.data.ingest.read_file`.
        time_limit: seconds after which the reader is stopped.

    Raises:
        DataError: if nothing in the file can be used, or its reader crashed or took too long.
    """
    options = {
        "question": question,
        "answer": answer,
        "sheet": sheet,
        "encoding": encoding,
        "label": label,
        "columns": None if columns is None else {p: list(names) for p, names in columns.items()},
    }
    request = {
        "path": str(Path(path).absolute()),
        "options": options,
        "memory_limit": MEMORY_LIMIT,
    }
    where = label or Path(path).name
    command = [sys.executable, "-X", "utf8", "-m", "core.data.ingest.child"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=CHECKOUT,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise data_error("file.timeout", where, seconds=f"{time_limit:g}") from error
    if done.returncode == MEMORY_EXIT:
        raise data_error("file.memory", where)
    if done.returncode != 0:
        raise data_error("file.crashed", where)
    return _answer(map(json.loads, io.BytesIO(done.stdout)))


def result_to_lines(result: ReadResult) -> Iterator[str]:
    """Yield everything that a result holds as JSON lines: the head, the rows, the examples.

    Line by line, since a whole document would take the memory of the class once more.
    """
    head = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in _BODY}
    head["problems"] = [p.to_json() for p in result.problems]
    head["encodings"] = [asdict(c) for c in result.encodings]
    yield json.dumps({"result": head, "rows": len(result.rows)})
    yield from map(json.dumps, result.rows)
    yield from (json.dumps(e.to_json()) for e in result.examples)


def result_from_lines(head: dict[str, Any], lines: Iterator[Any]) -> ReadResult:
    """Rebuild a result from the parsed lines of :func:`result_to_lines`."""
    tree = head["result"]
    return ReadResult(
        **{
            **tree,
            **{k: tuple(tree[k]) for k in ("columns", "sheets", "row_where")},
            "parts": {part: tuple(names) for part, names in tree["parts"].items()},
            "encodings": tuple(Candidate(**c) for c in tree["encodings"]),
            "problems": tuple(map(problem_from_json, tree["problems"])),
            "rows": tuple(tuple(next(lines)) for _ in range(head["rows"])),
            "examples": tuple(map(Example.from_json, lines)),
        }
    )


def error_to_json(error: DataError) -> dict[str, Any]:
    """Return a data error with its findings."""
    return {"problems": [p.to_json() for p in error.problems]}


def error_from_json(tree: dict[str, Any]) -> DataError:
    """Rebuild an error from :func:`error_to_json`."""
    first, *others = map(problem_from_json, tree["problems"])
    return DataError(
        first.what, where=first.where, action=first.action, code=first.code, problems=others
    )


def problem_from_json(tree: dict[str, Any]) -> Problem:
    """Rebuild a problem from ``Problem.to_json``."""
    return Problem(**{**tree, "values": tuple(tree["values"].items())})


def _answer(lines: Iterator[Any]) -> ReadResult:
    head = next(lines)
    if "error" not in head:
        return result_from_lines(head, lines)
    raise error_from_json(head["error"])
