"""Data as it was when a run began: written once, hashed, checked at every reading."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.data.split import Split
from core.data.types import Example
from core.errors import DataError, Problem
from core.whole import sync_folder

VERSION = 1
MANIFEST = "manifest.json"
SIDES = ("train", "quiz")


def freeze(examples: Sequence[Example], split: Split, folder: Path) -> str:
    """Write both sides of the class and their hashes, all or nothing.

    Args:
        examples: the whole class, in the order of the file.
        split: its two sides.
        folder: the folder to make; it may exist if it is empty or holds the very same data.

    Returns:
        ``split.sha256``.

    Raises:
        DataError: if the folder holds something else.
        OSError: if it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        if load_frozen(folder).sha256 == split.sha256:
            return split.sha256
        raise DataError(
            "This folder already holds other data.",
            where=folder.name,
            action="Start a new run for the changed class.",
            code="frozen.other",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(staging, examples, split)
        if folder.exists():
            folder.rmdir()  # Windows does not rename onto a folder, not even an empty one
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return split.sha256


def load_frozen(folder: Path) -> Split:
    """Read what :func:`freeze` wrote.

    Raises:
        DataError: if a file is missing, was edited or is damaged.
    """
    manifest = _manifest(folder)
    sides = {side: _load_side(folder / f"{side}.jsonl", manifest) for side in SIDES}
    problems = tuple(_problem(p) for p in manifest.get("problems", []))
    split = Split(sides["train"], sides["quiz"], problems)
    if split.sha256 != manifest.get("sha256"):
        raise _damaged(folder / MANIFEST)
    return split


def is_frozen(folder: Path) -> bool:
    """Say whether a folder looks like frozen data (without checking it)."""
    return (folder / MANIFEST).is_file() and (folder / "train.jsonl").is_file()


def _write(folder: Path, examples: Sequence[Example], split: Split) -> None:
    files = {
        "train.jsonl": _lines(split.train),
        "quiz.jsonl": _lines(split.quiz),
    }
    manifest = {
        "version": VERSION,
        "sha256": split.sha256,
        "examples": len(examples),
        "counts": {"train": len(split.train), "quiz": len(split.quiz)},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "problems": [p.to_json() for p in split.problems],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    for name, data in {**files, MANIFEST: text.encode()}.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _lines(examples: Iterable[Example]) -> bytes:
    lines = (json.dumps(e.to_json(), ensure_ascii=False) + "\n" for e in examples)
    # a lone surrogate (possible in JSON) has no UTF-8 form of its own
    return "".join(lines).encode("utf-8", "surrogatepass")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _damaged(path)
    if manifest.get("version") != VERSION:
        raise DataError(
            "This data was frozen by another version of the studio.",
            where=path.name,
            action="Open it with the version that made it, or start a new run.",
            code="frozen.version",
        )
    return manifest


def _load_side(path: Path, manifest: dict[str, Any]) -> tuple[Example, ...]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path) from error
    if hashlib.sha256(data).hexdigest() != manifest["files"].get(path.name):
        raise _damaged(path)
    lines = data.decode("utf-8", "surrogatepass").split("\n")
    return tuple(Example.from_json(json.loads(line)) for line in lines if line)


def _problem(record: dict[str, Any]) -> Problem:
    return Problem(**{**record, "values": tuple(record.get("values", {}).items())})


def _damaged(path: Path) -> DataError:
    return DataError(
        "The data of this run was changed or damaged after the run began.",
        where=f"{path.parent.name}/{path.name}",
        action="Start a new run from the class file.",
        code="frozen.damaged",
    )
