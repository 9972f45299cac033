"""Folders that are whole or absent: written beside their place, listed with sums, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import ModelError

MANIFEST = "MANIFEST.json"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(folder: Path, **extra: Any) -> dict[str, Any]:
    """List all files under ``folder`` with size and SHA-256 in its ``MANIFEST.json``.

    Args:
        folder: what is listed; the manifest is written into it, last.
        extra: further facts to keep beside the list (source, licence, note ...).

    Returns:
        The manifest: ``files`` maps relative names to ``bytes`` and ``sha256``.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"format": 1, **extra, "files": files}
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    temporary = folder / f"{MANIFEST}.part"
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, empty if it has none.

    Raises:
        ModelError: if there is one and it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if isinstance(manifest, dict) and isinstance(manifest["files"], dict):
            return manifest
    except (OSError, ValueError, KeyError):
        pass
    raise ModelError(
        "The list of files of this folder is damaged.",
        where=f"{folder.name}/{MANIFEST}",
        action="Make or copy the folder again.",
        code="model.damaged",
    )


def check_manifest(folder: Path, *, contents: bool) -> dict[str, Any]:
    """Compare a folder with its manifest.

    Args:
        folder: the folder; without a manifest nothing is compared.
        contents: also compare SHA-256 (reads every byte), not only presence and size.

    Returns:
        The manifest, empty if there is none.

    Raises:
        ModelError: names what is missing, cut short or changed.
    """
    manifest = read_manifest(folder)
    for name, facts in manifest.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise _broken(folder, f"{name} is missing.", "missing")
        if path.stat().st_size != facts["bytes"]:
            raise _broken(folder, f"{name} is damaged: its size is not the listed one.", "damaged")
        if contents and sha256_of(path) != facts["sha256"]:
            raise _broken(folder, f"{name} is damaged: its checksum is not the listed one.", "sum")
    return manifest


def _broken(folder: Path, what: str, code: str) -> ModelError:
    action = "Copy the folder again, or remove it and let the studio make it anew."
    return ModelError(what, where=folder.name, action=action, code=f"model.{code}")


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder on the same disk that becomes ``target`` if the block succeeds.

    An older ``target`` is replaced; when the block fails, nothing of it is left and ``target`` is
    as it was.

    Raises:
        OSError: if the disk is full or the place cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        _to_disk(temporary)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    """Ask the system to write what it still holds of the files in ``folder``."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())


def _swap(temporary: Path, target: Path) -> None:
    """Put ``temporary`` in the place of ``target``; a folder cannot be replaced in one call."""
    if not target.exists():
        temporary.replace(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    old.rmdir()
    target.replace(old)
    try:
        temporary.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
