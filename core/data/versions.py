"""Every version of a class, kept on disk: hashed, comparable, deletable. No database: files only.

A folder a version, ``<class>-<id>``, with the class file that training reads, ``rows.jsonl`` (every
row as it stands in the editor, also one that cannot be learned yet) and ``about.json``, written
last: a folder without it was never finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.data import edit
from core.data.edit import Version
from core.data.types import Example
from core.errors import DataError
from core.whole import sync_folder, write_whole

ABOUT, ROWS = "about.json", "rows.jsonl"
_KEY = 8  # characters of the class's key in a folder's name


@dataclass(frozen=True)
class Kept:
    """A version on disk.

    Attributes:
        folder: where it is.
        id: its name by content.
        origin: the file that the class began with.
        parent: how the version before was read (fields of ``DataConfig``).
        notes: what was done, as codes of findings or ``edited``, each with how many rows.
        rows, examples: how many there are, and how many can be learned.
        sha256: of the class file.
        made: wall-clock seconds, for showing only.
        number: order of making within the class, from 1.
        file: name of the class file.
        mapping: the (first) column of each part of an example.
        parts: all columns of each part; empty where they are guessed, or rows are conversations.
    """

    folder: Path
    id: str
    origin: str
    rows: int
    examples: int
    sha256: str
    made: float
    number: int
    file: str
    mapping: dict[str, str]
    parent: dict[str, Any] = field(default_factory=dict)
    notes: tuple[tuple[str, int], ...] = ()
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The class file."""
        return self.folder / self.file


@dataclass(frozen=True)
class Diff:
    """What is different between two versions.

    Attributes:
        added, removed: rows that only the newer, or only the older version has.
        changed: pairs of rows (older, newer) that stand for each other.
        same: how many rows are equal.
    """

    added: tuple[tuple[str, ...], ...]
    removed: tuple[tuple[str, ...], ...]
    changed: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    same: int


def keep(
    version: Version,
    folder: Path,
    *,
    origin: str,
    parent: Mapping[str, Any],
    notes: tuple[tuple[str, int], ...] = (),
) -> Kept:
    """Write a version, all or nothing; the same rows of the same class are written once.

    Args:
        version: its rows.
        folder: that of all versions.
        origin: the file that the class began with.
        parent: how the version before was read.
        notes: what was done.

    Raises:
        DataError: if no row can be learned.
        OSError: if it cannot be written.
    """
    examples, _ = version.examples()
    target = folder / f"{_key(origin)}-{version.id}"
    if (found := _read(target)) is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        path = edit.save(version, staging)
        write_whole(staging / ROWS, "".join(f"{line}\n" for line in _lines(version)))
        about = {
            "id": version.id,
            "origin": origin,
            "rows": len(version.rows),
            "examples": len(examples),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "made": time.time(),
            "number": max((k.number for k in versions(folder, origin)), default=0) + 1,
            "file": path.name,
            "mapping": dict(version.mapping),
            "parent": dict(parent),
            "notes": [list(note) for note in notes],
            "parts": {part: list(names) for part, names in version.parts.items()},
        }
        write_whole(staging / ABOUT, json.dumps(about, ensure_ascii=False))
        if target.exists():  # begun once and never finished
            shutil.rmtree(target)
        staging.replace(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder)
    kept = _read(target)
    assert kept is not None
    return kept


def versions(folder: Path, origin: str) -> list[Kept]:
    """Return the versions of a class, oldest first."""
    found = (_read(path) for path in folder.glob(f"{_key(origin)}-*"))
    return sorted((k for k in found if k and k.origin == origin), key=lambda k: k.number)


def version_at(path: Path) -> Kept | None:
    """Return the version whose class file this is."""
    kept = _read(path.parent)
    return kept if kept and kept.path == path else None


def load(kept: Kept) -> Version:
    """Return the rows of a version; each is called by its place in the class file.

    Raises:
        DataError: if the files were changed or are damaged.
    """
    try:
        if hashlib.sha256(kept.path.read_bytes()).hexdigest() != kept.sha256:
            raise ValueError
        lines = map(json.loads, (kept.folder / ROWS).read_text("utf-8").splitlines())
        columns = tuple(next(lines))
        rows, origins = [], []
        for record in lines:
            rows.append(tuple(record["cells"]))
            before = record.get("origin")
            origins.append(Example.from_json(before) if before else None)
        blank = ("",) * len(rows)
        read = Version(columns, tuple(rows), kept.mapping, blank, tuple(origins), kept.parts)
        if read.id != kept.id:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise DataError(
            "This version was changed or damaged after it was saved.",
            where=kept.file,
            action="Choose another version of the class.",
            code="version.damaged",
        ) from error
    return replace(read, where=edit.places(read))


def delete(kept: Kept) -> None:
    """Remove a version from the disk; the others stay.

    Raises:
        OSError: if it cannot be removed.
    """
    (kept.folder / ABOUT).unlink(missing_ok=True)  # from here on it does not exist
    shutil.rmtree(kept.folder)


def diff(older: Version, newer: Version) -> Diff:
    """Return what is different between two versions.

    Rows with the same texts are equal, wherever they stand. Of the others those with the same
    question, and then those with the same answer, stand for each other.
    """
    counts = Counter(newer.rows)
    gone = [row for row in older.rows if not _taken(counts, row)]
    counts = Counter(older.rows)
    new = [row for row in newer.rows if not _taken(counts, row)]
    same = len(older.rows) - len(gone)
    changed: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for part in ("question", "answer"):
        if older.columns != newer.columns or part not in newer.mapping:
            continue
        at = newer.columns.index(newer.mapping[part])
        waiting: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        for row in reversed(gone):
            waiting[row[at]].append(row)
        pairs = [(waiting[row[at]].pop(), row) for row in new if row[at] and waiting.get(row[at])]
        changed += pairs
        before, after = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
        gone = [row for row in gone if not _taken(before, row)]
        new = [row for row in new if not _taken(after, row)]
    return Diff(tuple(new), tuple(gone), tuple(changed), same)


def _taken(counts: Counter[tuple[str, ...]], row: tuple[str, ...]) -> bool:
    """Take one of a row out of a counter, if it holds one."""
    counts[row] -= 1
    return counts[row] >= 0


def _lines(version: Version) -> Iterator[str]:
    yield json.dumps(version.columns)
    for row, origin in zip(version.rows, version.origins, strict=True):
        yield json.dumps({"cells": row, **({"origin": origin.to_json()} if origin else {})})


def _key(origin: str) -> str:
    return hashlib.sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY]


def _read(folder: Path) -> Kept | None:
    """Return what a folder holds, ``None`` if it is no finished version."""
    try:
        tree = json.loads((folder / ABOUT).read_text("utf-8"))
        notes = tuple((str(code), int(rows)) for code, rows in tree["notes"])
        parts = {part: tuple(names) for part, names in tree.get("parts", {}).items()}
        return Kept(folder=folder, **{**tree, "notes": notes, "parts": parts})
    except (OSError, ValueError, TypeError, KeyError):
        return None
