"""What every measured process tells about itself, in the same words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.settings import RESULT
from core.runs.folder import write_json


def seconds_alive() -> float:
    """Seconds since this process was started, the import of its libraries included."""
    return time.time() - float(psutil.Process().create_time())


def computing() -> dict[str, Any]:
    """Return the ``threads`` and the vector ``instructions`` that torch uses here."""
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write the result of a process, whole or not at all."""
    write_json(folder / RESULT, result)
