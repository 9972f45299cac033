"""Files that are there whole or not at all, even after a power cut."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    Args:
        path: in a folder that exists.
        data: text is written as UTF-8.

    Raises:
        OSError: no space, or no right to write.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    staging = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        _replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(source: Path, target: Path) -> None:
    # Windows refuses while another process has the target open, which is over in a moment.
    for patience in (0.01, 0.05, 0.2):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(patience)
        else:
            return
    source.replace(target)
