"""Files of strangers are read in a child process with limits: a crash there is a sentence here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.data.messages import data_error
from core.data.types import Example, ReadResult
from core.errors import DataError, Problem
from core.home import CHECKOUT

TIME_LIMIT = 30.0  # seconds
MEMORY_LIMIT = 768 * 2**20  # bytes of address space; a reader needs about 100 MB of memory
MEMORY_EXIT = 3  # how the child says that it ran out of memory


def read_isolated(
    path: str | Path,
    *,
    question: str = "",
    answer: str = "",
    sheet: str = "",
    encoding: str = "",
    label: str = "",
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
    return _answer(json.loads(done.stdout))


def result_to_json(result: ReadResult) -> dict[str, Any]:
    """Return everything that a result holds."""
    return {
        **asdict(result),
        "examples": [e.to_json() for e in result.examples],
        "problems": [p.to_json() for p in result.problems],
    }


def result_from_json(tree: dict[str, Any]) -> ReadResult:
    """Rebuild a result from :func:`result_to_json`."""
    lists = {k: tuple(tree[k]) for k in ("columns", "sheets", "row_where")}
    return ReadResult(
        **{
            **tree,
            **lists,
            "rows": tuple(map(tuple, tree["rows"])),
            "examples": tuple(map(Example.from_json, tree["examples"])),
            "problems": tuple(map(problem_from_json, tree["problems"])),
        }
    )


def error_to_json(error: DataError) -> dict[str, Any]:
    """Return a data error with its findings."""
    return {"problems": [p.to_json() for p in error.problems]}


def problem_from_json(tree: dict[str, Any]) -> Problem:
    """Rebuild a problem from ``Problem.to_json``."""
    return Problem(**{**tree, "values": tuple(tree["values"].items())})


def _answer(reply: dict[str, Any]) -> ReadResult:
    if "error" not in reply:
        return result_from_json(reply["result"])
    first, *others = map(problem_from_json, reply["error"]["problems"])
    raise DataError(
        first.what, where=first.where, action=first.action, code=first.code, problems=others
    )
