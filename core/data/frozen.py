"""Data as it was when a run began: written once, hashed, checked at every reading."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from core.data.split import Split
from core.data.types import Example
from core.errors import DataError, Problem
from core.whole import sync_folder

VERSION = 1
MANIFEST = "manifest.json"
SIDES = ("train", "quiz")
MOST_IN_MEMORY = 50_000  # examples of a side; more are read from the file one at a time


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
    sides = {"train.jsonl": split.train, "quiz.jsonl": split.quiz}
    files = {name: _write_side(folder / name, side) for name, side in sides.items()}
    manifest = {
        "version": VERSION,
        "sha256": split.sha256,
        "examples": len(examples),
        "counts": {"train": len(split.train), "quiz": len(split.quiz)},
        "files": files,
        "problems": [p.to_json() for p in split.problems],
    }
    with (folder / MANIFEST).open("wb") as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _write_side(path: Path, examples: Iterable[Example]) -> str:
    """Write examples as lines, one at a time; return the file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for example in examples:
            text = json.dumps(example.to_json(), ensure_ascii=False) + "\n"
            # a lone surrogate (possible in JSON) has no UTF-8 form of its own
            line = text.encode("utf-8", "surrogatepass")
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


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


def _load_side(path: Path, manifest: dict[str, Any]) -> Sequence[Example]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(path) from error
    if digest != manifest["files"].get(path.name):
        raise _damaged(path)
    lines = Lines(path)
    return lines if len(lines) > MOST_IN_MEMORY else tuple(lines)


class Lines(Sequence[Example]):
    """Examples in a file of lines, read when they are asked for; eight bytes of each in memory."""

    def __init__(self, path: Path) -> None:
        """Look for the beginnings of the lines."""
        self._path = path
        begins = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                begins.append(begins[-1] + len(line))
        self._begins = begins

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._begins) - 1

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        """Return one example, or a part of them in memory."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        with self._path.open("rb") as file:
            file.seek(self._begins[place])
            return _example(file.readline())

    def __iter__(self) -> Iterator[Example]:
        """Yield all of them, one at a time in memory."""
        with self._path.open("rb") as file:
            yield from map(_example, file)


def _example(line: bytes) -> Example:
    return Example.from_json(json.loads(line.decode("utf-8", "surrogatepass")))


def _problem(record: dict[str, Any]) -> Problem:
    return Problem(**{**record, "values": tuple(record.get("values", {}).items())})


def _damaged(path: Path) -> DataError:
    return DataError(
        "The data of this run was changed or damaged after the run began.",
        where=f"{path.parent.name}/{path.name}",
        action="Start a new run from the class file.",
        code="frozen.damaged",
    )
