"""Any exception as an error that a person can act on."""

from __future__ import annotations

import errno
import secrets
import shutil
import traceback
from pathlib import Path
from typing import Any

from core.errors import MemoryBudgetError, StudioError, TrainingError

_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")
_DISK = ("no space left", "os error 28", "file too large", "os error 27", "disk full")
_DISK_ERRNO = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def out_of_memory(where: str = "") -> TrainingError:
    """The sentence for a process that the operating system or the allocator stopped."""
    return TrainingError(
        "The computer ran out of memory.",
        where=where,
        action="Close other programs or choose a smaller budget, then press Resume.",
        code="memory.exhausted",
    )


def explain(error: BaseException, log: Path) -> StudioError:
    """Return what a person should read about an exception.

    Libraries report a full disk and a failed allocation under many types (``OSError``,
    ``RuntimeError`` of torch, ``SafetensorError``), so that the text decides too.

    Args:
        error: what was raised.
        log: file to which the traceback of an unexpected error is appended, with the number that
            the sentence names.
    """
    if isinstance(error, StudioError):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(part in text for part in _MEMORY):
        return out_of_memory()
    if getattr(error, "errno", None) in _DISK_ERRNO or any(part in text for part in _DISK):
        return _disk_full(log.parent)
    number = secrets.token_hex(3)
    record = "".join(traceback.format_exception(error))
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"\nerror {number}\n{record}\n")
    except OSError:  # the sentence matters more than its record
        return _unexpected(number, "")
    return _unexpected(number, log.name)


def _unexpected(number: str, log: str) -> TrainingError:
    kept = f" The details are in {log}." if log else ""
    return TrainingError(
        f"Something unexpected went wrong (error {number}).",
        action=f"Try again; if it happens again, report the number.{kept}",
        code="internal",
    )


def _disk_full(folder: Path) -> TrainingError:
    try:
        free = f" ({shutil.disk_usage(folder).free // 10**6} MB are free)"
    except OSError:
        free = ""
    return TrainingError(
        f"There is not enough space on the disk{free}.",
        action="Free some space and resume; the last whole checkpoint is kept.",
        code="disk.full",
    )


def error_document(error: StudioError) -> dict[str, Any]:
    """What ``--json`` prints and ``error.json`` holds about an error."""
    document: dict[str, Any] = {
        "status": "stopped" if error.exit_code == 130 else "failed",
        "exit_code": error.exit_code,
        "problems": [problem.to_json() for problem in error.problems],
    }
    if isinstance(error, MemoryBudgetError):
        document |= {"feasible": False, "minimum_budget_bytes": error.minimum_budget_bytes}
    return document
