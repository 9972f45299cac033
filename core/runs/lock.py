"""A lock file that the operating system frees when its holder dies, and who a process is.

A pid alone is no identity: after a restart the same number may belong to a stranger. A pid together
with the moment its process started is one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import psutil

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows keeps others from reading a locked region: lock a byte far behind the text.
_LOCKED_BYTE = 1 << 30


def process_identity(pid: int) -> str:
    """Return a text that no other process ever has, or ``""`` if there is no such process.

    On Linux boot id and start tick, which a change of the clock does not move.
    """
    if pid <= 0:
        return ""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if sys.platform.startswith("linux"):
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            tick = stat.rpartition(")")[2].split()[19]  # field 22; the name may hold blanks
            return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}:{tick}"
        return f"{process.create_time():.3f}"
    except (psutil.Error, OSError, IndexError):
        return ""


def is_alive(pid: int, identity: str) -> bool:
    """Whether exactly that process still runs."""
    return bool(identity) and process_identity(pid) == identity


class FileLock:
    """An exclusive lock on a file, with a few words about its holder inside.

    Example:
        lock = FileLock(folder / "worker.lock")
        if not lock.acquire():
            print(lock.holder())
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self, **about: Any) -> bool:
        """Take the lock and write who holds it; ``False`` if another holds it.

        Raises:
            OSError: if the file cannot be made.
        """
        if self._file is not None:
            return True
        file = self.path.open("a+b")
        if not _try_lock(file):
            file.close()
            return False
        pid = os.getpid()
        words = {"pid": pid, "process": process_identity(pid), **about}
        file.truncate(0)
        file.write(json.dumps(words).encode("utf-8"))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back (the file stays: removing it would let two hold it)."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> dict[str, Any]:
        """What the last holder wrote: ``pid``, ``process`` and more; empty if unreadable."""
        try:
            words = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return words if isinstance(words, dict) else {}

    def held_by_other(self) -> bool:
        """Whether another process holds the lock now."""
        if self._file is not None or not self.path.exists():
            return False
        with self.path.open("a+b") as file:
            return not _try_lock(file)


def _try_lock(file: IO[bytes]) -> bool:
    """Lock without waiting; closing the file unlocks it."""
    try:
        if sys.platform == "win32":
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0, os.SEEK_END)
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
