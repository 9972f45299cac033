"""The environment of child processes that load torch: threads, memory allocator, no network.

These have to be there when the process starts: OpenMP and glibc's allocator read them once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import psutil

from core.process import RETURN_ABOVE

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait spin a little and then sleep: those that only spin take the cores from each
    # other as soon as anything else runs, those that only sleep wake too late (docs/log.md).
    "GOMP_SPINCOUNT": "5000",
    "PYTHONUTF8": "1",
    # What a child says last is the most telling, and a crash drops what it still holds back.
    "PYTHONUNBUFFERED": "1",
}

# glibc raises its mmap threshold after the first large free and then keeps freed tensors in the
# heap, which counts against the budget. Fixed thresholds give them back; few arenas keep small
# blocks of many threads from spreading.
_GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": str(RETURN_ABOVE),
    "MALLOC_TRIM_THRESHOLD_": str(RETURN_ABOVE),
    "MALLOC_ARENA_MAX": "2",
}


def usable_cores() -> int:
    """Physical cores this process may run on (at least 1); hyper-threads do not speed up GEMM."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))


def child_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child that loads torch.

    What the person has set stays; only what is missing is added.

    Args:
        base: the environment to start from; by default that of this process.
    """
    environment = dict(os.environ if base is None else base)
    wanted = {"OMP_NUM_THREADS": str(usable_cores()), **_QUIET}
    if sys.platform.startswith("linux"):
        wanted |= _GLIBC
    return {**wanted, **environment}


def prepare_this_process() -> None:
    """Set what is missing here too, before torch is imported (the allocator's part comes late)."""
    os.environ.update(child_environment())
