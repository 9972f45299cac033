"""The concept map of each class on disk, its corrections, added texts, and the quiz it splits.

A folder a class, by the file the class began with, so that a map outlives edited versions:
``map.json`` (what was found, every correction), ``about.json`` (what it was made of),
``material/`` (added texts), ``quiz/`` (classes frozen with a quiz by concept) and ``quiz.json``
(whether one is used).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.config import DataConfig, RunConfig
from core.errors import ConfigError, DataError
from core.graph import document
from core.graph.classes import freeze_by_concept
from core.graph.document import Edit, MapDocument
from core.graph.material import MOST_BYTES, READERS
from core.graph.types import ConceptMap
from core.home import home
from core.runs.folder import read_json, write_json
from studio import workbench

MAP, ABOUT, NEW, QUIZ = "map.json", "about.json", "new.json", "quiz.json"
DAMAGED = "map.damaged.json"
MOST_MATERIAL = 20  # files
_KEPT = 4  # documents in memory
_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')


@dataclass(frozen=True)
class Material:
    """A text that was added to a class."""

    id: str
    name: str
    path: Path


class Maps:
    """All maps of the studio; safe to use from several threads."""

    def __init__(self) -> None:
        """Start with nothing in memory."""
        self._lock = threading.RLock()
        self._known: dict[tuple[Path, int], tuple[MapDocument, ConceptMap]] = {}

    # --- the map ---------------------------------------------------------------------------------

    def get(self, folder: Path) -> tuple[MapDocument, ConceptMap] | None:
        """Return a class's map and how it stands with all corrections; ``None`` without one.

        Raises:
            DataError: if the file is damaged.
        """
        with self._lock:
            stamp = self.stamp(folder)
            if not stamp:
                return None
            key = (folder, stamp)
            if key not in self._known:
                made = document.load(folder / MAP)
                while len(self._known) >= _KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = (made, made.current())
            return self._known[key]

    def current(self, folder: Path) -> ConceptMap:
        """Return a class's map as it stands.

        Raises:
            DataError: there is none yet, or it is damaged.
        """
        known = self.get(folder)
        if known is None:
            raise no_map()
        return known[1]

    def stamp(self, folder: Path) -> int:
        """Return a number that changes with the map; 0 without one."""
        path = folder / MAP
        return path.stat().st_mtime_ns if path.is_file() else 0

    def edit(self, folder: Path, edit: Edit) -> None:
        """Correct a map.

        Raises:
            StudioError: if there is none, or the correction makes no sense.
        """
        self._change(folder, lambda made: made.edit(edit))

    def undo(self, folder: Path) -> None:
        """Take the last correction back."""
        self._change(folder, MapDocument.undo)

    def redo(self, folder: Path) -> None:
        """Bring the correction back that was taken back last."""
        self._change(folder, MapDocument.redo)

    def _change(self, folder: Path, change: Callable[[MapDocument], MapDocument]) -> None:
        with self._lock:
            known = self.get(folder)
            if known is None:
                raise no_map()
            self._save(folder, change(known[0]))

    def _save(self, folder: Path, made: MapDocument) -> None:
        before = self.stamp(folder)
        self._known = {k: v for k, v in self._known.items() if k[0] != folder}
        document.save(made, folder / MAP)
        if self.stamp(folder) == before:  # two corrections within one tick of the clock
            os.utime(folder / MAP, ns=(before + 1000, before + 1000))

    def take(self, folder: Path, made_of: dict[str, Any]) -> None:
        """Put what was found anew (``new.json``) under the corrections as they stand by now."""
        with self._lock:
            found = document.load(folder / NEW)
            known = self._mended(folder)
            self._save(folder, known[0].rebased(found.base) if known else found)
            write_json(folder / ABOUT, {**made_of, "learned": self._corrections(folder)})
            (folder / NEW).unlink(missing_ok=True)

    def previous(self, folder: Path) -> str:
        """Return the file whose corrections a new search keeps; empty without a sound one."""
        return str(folder / MAP) if self._mended(folder) else ""

    def _mended(self, folder: Path) -> tuple[MapDocument, ConceptMap] | None:
        """Return the map; a damaged one is put aside, so that a new one can be made."""
        with self._lock:
            try:
                return self.get(folder)
            except DataError:
                (folder / MAP).replace(folder / DAMAGED)
                return None

    def _corrections(self, folder: Path) -> int:
        known = self.get(folder)
        return known[0].version if known else 0

    def about(self, folder: Path) -> dict[str, Any]:
        """Return what the map was made of."""
        return read_json(folder / ABOUT) or {}

    # --- added texts -----------------------------------------------------------------------------

    def material(self, folder: Path) -> list[Material]:
        """Return the texts that were added to a class."""
        paths = sorted((folder / "material").glob("*/*"))
        return [Material(p.parent.name, p.name, p) for p in paths if p.is_file()]

    def add_material(self, folder: Path, name: str, content: bytes) -> Material:
        """Keep a text; the same content twice is kept once.

        Raises:
            DataError: if its type cannot be read, it is empty or too large, or there are too many.
        """
        clean = _NAME.sub("_", " ".join(name.split()))[-100:].strip(". ") or "text"
        if Path(clean).suffix.lower() not in READERS:
            raise DataError(
                f"Material of the type {Path(clean).suffix[:12]!a} cannot be read.",
                where=clean,
                action=f"Save it as one of: {', '.join(READERS)}.",
                code="graph.material_type",
            )
        if not content.strip() or len(content) > MOST_BYTES:
            raise _size(clean, len(content))
        with self._lock:
            digest = hashlib.sha256(content).hexdigest()[:16]
            known = self.material(folder)
            if len(known) >= MOST_MATERIAL:
                raise DataError(
                    f"A map is made of at most {MOST_MATERIAL} texts.",
                    where=clean,
                    action="Remove one first, or put several texts into one file.",
                    code="graph.material_many",
                )
            for same in known:
                if same.id == digest:
                    return same
            path = folder / "material" / digest / clean
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Material(digest, clean, path)

    def remove_material(self, folder: Path, material_id: str) -> None:
        """Remove a text; nothing happens if it is not there."""
        for known in self.material(folder):
            if known.id == material_id:
                shutil.rmtree(known.path.parent)

    # --- a quiz by concept -----------------------------------------------------------------------

    def split(self, config: RunConfig, *, weighted: bool) -> dict[str, Any]:
        """Let runs of a class keep whole concepts for their quiz; see :func:`applied`.

        Args:
            config: the draft.
            weighted: repeat examples whose concepts have large gaps.

        Returns:
            ``train``, ``quiz``, ``repeated`` and ``held`` (names of concepts).

        Raises:
            DataError: there is no map, or no concept can be kept.
        """
        folder = folder_of(config)
        found = self.current(folder)
        made_from = {**_class(config.data), "map": self.stamp(folder), "weighted": weighted}
        digest = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:16]
        target = folder / "quiz" / digest
        counts = freeze_by_concept(
            found, config.data, target, seed=config.train.seed, weighted=weighted
        )
        write_json(folder / QUIZ, {**made_from, "folder": str(target), **counts})
        return counts

    def unsplit(self, config: RunConfig) -> None:
        """Let runs of a class draw their quiz as usual again."""
        (folder_of(config) / QUIZ).unlink(missing_ok=True)


def applied(config: RunConfig) -> RunConfig:
    """Return the settings of a run with the quiz by concept, where the class has one switched on.

    A class that was changed since is learned with the ordinary quiz: the page says so.
    """
    told = quiz_of(config)
    if not told or told["stale"] or config.method == "pairs":
        return config
    return replace(config, data=replace(config.data, path=told["folder"]))


def quiz_of(config: RunConfig) -> dict[str, Any] | None:
    """Return the quiz by concept of a class, with ``stale``; ``None`` if it is off."""
    told = read_json(folder_of(config) / QUIZ) if config.data.path else None
    if told is None:
        return None
    changed = any(told.get(k) != v for k, v in _class(config.data).items())
    return {**told, "stale": changed or not Path(told["folder"]).is_dir()}


def folder_of(config: RunConfig) -> Path:
    """Return where the map of the draft's class is kept."""
    origin = workbench.origin(config) if config.data.path else ""
    return home() / "maps" / hashlib.sha256(origin.encode("utf-8", "replace")).hexdigest()[:16]


def class_of_run(data: dict[str, Any]) -> Path:
    """Return the folder of the map of a run's class."""
    path = Path(str(data.get("path", "")))
    if path.parent.name == QUIZ.removesuffix(".json") and path.parent.parent.parent == maps_home():
        return path.parent.parent
    return folder_of(RunConfig(data=DataConfig(path=str(path))))


def maps_home() -> Path:
    """Return the folder of all maps."""
    return home() / "maps"


def made_of(config: RunConfig, material: Sequence[Material], pairs: str) -> dict[str, Any]:
    """Return what a map is made of, to see later whether that has changed."""
    return {**_class(config.data), "material": [m.id for m in material], "pairs": pairs}


def is_stale(about: dict[str, Any], config: RunConfig, material: Sequence[Material]) -> bool:
    """Whether class or texts have changed since a map was made."""
    now = made_of(config, material, "")
    return any(about.get(k) != v for k, v in now.items() if k != "pairs")


def _class(data: DataConfig) -> dict[str, Any]:
    """A class as it is now: how it is read, when it was written."""
    path = Path(data.path)
    tree = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(data).items()}
    return {"data": tree, "written": path.stat().st_mtime_ns if path.is_file() else 0}


def no_map() -> ConfigError:
    """There is no map of this class yet."""
    return ConfigError(
        "There is no concept map of this class yet.",
        where="map",
        action="Make it first.",
        code="graph.none",
    )


def _size(name: str, size: int) -> DataError:
    if size:
        return DataError(
            f"The file has {size / 1e6:.0f} MB; material may have {MOST_BYTES / 1e6:.0f} MB.",
            where=name,
            action="Split it, or take out what is no text.",
            code="graph.material_size",
        )
    return DataError(
        "There is no text in this file.",
        where=name,
        action="Choose a file with text that can be selected and copied.",
        code="graph.material_empty",
    )
