"""The stamp: which stages of the set-up ``.venv`` has behind it.

One key a stage, written after the stage is whole and taken out before it is touched again: whatever
is interrupted, at any moment, counts as not done.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

NAME = "studio-stamp.json"


def read_stamp(venv: Path) -> dict[str, str]:
    """Return the finished stages with their keys; empty if there is no readable stamp."""
    try:
        stamp = json.loads((venv / NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in stamp.items()} if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: Mapping[str, str]) -> None:
    """Replace the stamp at once: a reader sees the old one or the new one."""
    draft = venv / f"{NAME}.{os.getpid()}"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(dict(stamp), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(venv / NAME)


def file_key(path: Path) -> str:
    """Return a short hash of a requirements file, the same whatever its line ends."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]


def python_key() -> str:
    """Return what the bare environment depends on: the Python that made it."""
    return f"{platform.python_version()} {sys.base_prefix}"


def venv_python(venv: Path) -> Path:
    """Return the environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_whole(venv: Path) -> bool:
    """Whether the bare environment stands and belongs to this Python."""
    return read_stamp(venv).get("venv") == python_key() and venv_python(venv).exists()
