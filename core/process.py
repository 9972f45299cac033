"""What the operating system says a process holds. Bytes throughout.

On a CPU the budget is the resident memory of the training process, libraries included; the peak is
the high-water mark of the same figure, kept by the kernel, so nothing that was ever touched can
hide from it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
RETURN_ABOVE = 1 << 17  # bytes; as core.runs.environment sets it at the start
KEEP_BELOW = 1 << 25  # the largest that glibc takes


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """High-water mark of this process's resident memory."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Kilobytes on Linux, bytes on macOS. On Linux only as a fallback: it survives exec and so would
    # report the parent's peak.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def release() -> None:
    """Free what only cycles still hold (a model and its hooks); give freed pages back (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return


def apart(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own and return its result, or raise its error.

    For work that makes and frees very many small things, as reading a large tokenizer does. glibc
    gives each thread an arena; in that of the caller they would leave holes, which tensors then
    lie in and which stay resident when these are freed.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def keep_freed_memory(keep: bool) -> None:
    """Let the C library reuse freed tensors (``keep``), or give each back at once (glibc only).

    Pages that come and go cost time: a training step takes about 1.6 times as long. Kept ones lie
    in pieces that do not fit everything, so that the process grows (docs/log.md).
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, KEEP_BELOW if keep else RETURN_ABOVE)
