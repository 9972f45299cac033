"""The class on the teacher's desk: rows as they stand now, with undo, and its versions on disk.

Edits are gathered in memory until they are saved as a version. A fix is saved at once, so that a
run started afterwards learns the mended rows. Undo takes back the last edit, and once there is
none, the last saved version; nothing on disk is changed by it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.config import DataConfig, RunConfig, columns_text
from core.data import versions
from core.data.edit import Version
from core.data.health.fixes import fixed
from core.data.ingest import large
from core.data.versions import Diff, Kept
from core.errors import DataError
from core.home import home
from core.runs.store import Run
from studio import draft, library

PAIR = ("question", "answer")
EDITED, LEFT_OUT = "edited", "left_out"
MOST_UNDO = 100

Table = Sequence[Sequence[object]]


class Bench:
    """The rows of one class while they are edited; safe to use from several threads.

    Attributes:
        version: the rows as they stand now.
        shown: the places of the rows that the page shows.
    """

    def __init__(self, version: Version) -> None:
        """Start from rows as they are on disk."""
        self.version = version
        self._saved = version
        self._past: list[Version] = []
        self._base = version
        self._view = 0
        self.shown: tuple[str, ...] = ()
        self._added = 0
        self._lock = threading.RLock()

    @property
    def changed(self) -> bool:
        """Whether there are edits that are not saved."""
        return self.version is not self._saved

    def show(self, places: Sequence[str]) -> int:
        """Remember which rows a page shows; return the view's number."""
        with self._lock:
            self._base, self.shown = self.version, tuple(places)
            self._view += 1
            return self._view

    def take(self, view: int, table: Table, places: Mapping[str, str]) -> None:
        """Take over a table as a page shows it now: changed cells, new and removed rows.

        A page sends its whole table at every change, so each replaces what the last one said.

        Args:
            view: the number that :meth:`show` gave.
            table: cells of the rows, the first of each being its name.
            places: the place of every row by its name.

        Raises:
            DataError: another window shows the class, too, and has changed or filtered it.
        """
        with self._lock:
            if view != self._view:
                raise DataError(
                    "The class was shown or changed in another window since.",
                    action="Make the change again in the rows as they are now.",
                    code="edit.stale",
                )
            merged = self._merged(table, places)
            if merged.id == self.version.id:
                return
            if self.version is self._base:
                self._push()
            self.version = merged

    def _merged(self, table: Table, places: Mapping[str, str]) -> Version:
        index = {where: i for i, where in enumerate(self._base.where)}
        columns = self._base.columns
        seen: set[str] = set()
        cells: dict[tuple[int, str], str] = {}
        new = []
        for name, *texts in table:
            where = places.get(str(name), "")
            row = ["" if text is None else str(text) for text in texts]
            if where in self.shown and where not in seen:
                seen.add(where)
                i = index[where]
                cells |= {
                    (i, column): text
                    for column, text, old in zip(columns, row, self._base.rows[i], strict=False)
                    if text != old
                }
            elif any(text.strip() for text in row):
                new.append(dict(zip(columns, row, strict=False)))
        version = self._base.edit_many(cells)
        version = version.remove([index[w] for w in self.shown if w not in seen])
        for n, row_of in enumerate(new, self._added + 1):
            version = version.add(row_of, where=f"added row {n}")
        return version

    def add(self) -> None:
        """Add an empty row at the end."""
        with self._lock:
            self._push()
            self._added = 1 + sum(w.startswith("added row") for w in self.version.where)
            self.version = self.version.add({}, where=f"added row {self._added}")

    def undo(self) -> None:
        """Go back to before the last edit."""
        with self._lock:
            if self._past:
                self.version = self._past.pop()
            if not self._past:
                self.version = self._saved

    def _push(self) -> None:
        self._past = [*self._past[-MOST_UNDO:], self.version]


@dataclass(frozen=True)
class Entry:
    """One line of the history: the file a class began with (``kept`` is ``None``), or a version."""

    data: DataConfig
    kept: Kept | None
    current: bool

    @property
    def id(self) -> str:
        """The version's id; ``original`` for the file itself."""
        return self.kept.id if self.kept else "original"


class Desk:
    """The bench of the draft's class, and what can be done with its versions."""

    def __init__(self) -> None:
        """Start with nothing on it."""
        self._lock = threading.RLock()
        self._key: tuple[DataConfig, int] | None = None
        self._bench: Bench | None = None

    def bench(self, config: RunConfig) -> Bench:
        """Return the rows of the draft's class; edits stay until another class is chosen.

        Raises:
            DataError: the class cannot be read.
        """
        with self._lock:
            path = Path(config.data.path)
            if library.is_large(config.data):
                raise large.not_edited()
            key = (config.data, path.stat().st_mtime_ns if path.is_file() else 0)
            if self._bench is None or key != self._key:
                kept = versions.version_at(path)
                rows = versions.load(kept) if kept else Version.of(_read(config))
                self._bench, self._key = Bench(_as_chosen(rows, config.data)), key
            return self._bench

    def save(self, config: RunConfig, notes: tuple[tuple[str, int], ...] = ()) -> RunConfig:
        """Save the rows as a version and make it the draft's class.

        Raises:
            DataError: no row is left that can be learned.
        """
        with self._lock:
            rows = _without_blank(self.bench(config).version)
            kept = versions.keep(
                rows,
                folder(),
                origin=origin(config),
                parent=asdict(config.data),
                notes=notes or ((EDITED, _count_changed(self.bench(config))),),
            )
            return _choose(config, _data_of(config, kept))

    def fix(
        self, config: RunConfig, code: str, places: Sequence[str], tokens: Mapping[str, Any]
    ) -> RunConfig:
        """Mend a finding in the rows at ``places`` and save that as a version.

        Args:
            config: the draft.
            code: of the finding, or ``left_out``: remove rows that teach nothing.
            places: of the rows.
            tokens: what the tokenizer found (``control``, ``truncated``).

        Raises:
            DataError: no row is left that can be learned.
        """
        with self._lock:
            bench = self.bench(config)
            index = {where: i for i, where in enumerate(bench.version.where)}
            rows = [index[where] for where in places if where in index]
            kept = {index[w]: n for w, n in tokens.get("truncated", {}).items() if w in index}
            before = bench.version
            if code == LEFT_OUT:
                mended = before.remove(rows)
            else:
                control = tokens.get("control", ())
                mended = fixed(before, code, rows, tokens=control, kept=kept)
            mended.examples()  # refused before anything is changed
            bench.version = mended
            try:
                return self.save(config, notes=((code, len(rows)),))
            finally:
                bench.version = before

    def undo(self, config: RunConfig) -> RunConfig:
        """Take back the last edit, or else go back to the version before."""
        with self._lock:
            bench = self.bench(config)
            if bench.changed:
                bench.undo()
                return config
            before = self.before(config)
            return _choose(config, before) if before else config

    def before(self, config: RunConfig) -> DataConfig | None:
        """Return how the version before the draft's was read, if it is still there."""
        kept = versions.version_at(Path(config.data.path))
        if kept is None:
            return None
        data = RunConfig.from_json({"data": kept.parent}).data
        return data if Path(data.path).is_file() else None

    def history(self, config: RunConfig) -> list[Entry]:
        """Return the file that the class began with, and its versions, newest first."""
        start = origin(config)
        known = versions.versions(folder(), start)
        entries = [Entry(_data_of(config, k), k, str(k.path) == config.data.path) for k in known]
        first = next((k.parent for k in known if k.parent.get("path") == start), None)
        data = RunConfig.from_json({"data": first}).data if first else config.data
        if Path(start).is_file():
            original = Entry(replace(data, path=start), None, config.data.path == start)
            entries.insert(0, original)
        return entries[::-1]

    def entry(self, config: RunConfig, version_id: str) -> Entry:
        """Return a line of the history.

        Raises:
            DataError: there is none of that id.
        """
        for entry in self.history(config):
            if entry.id == version_id:
                return entry
        raise DataError(
            "This version of the class is no longer there.",
            action="Choose another one.",
            code="version.gone",
        )

    def choose(self, config: RunConfig, version_id: str) -> RunConfig:
        """Make a version the draft's class.

        Raises:
            DataError: there is none of that id.
        """
        return _choose(config, self.entry(config, version_id).data)

    def rows(self, config: RunConfig, version_id: str) -> Version:
        """Return the rows of a version.

        Raises:
            DataError: there is none of that id, or it is damaged.
        """
        entry = self.entry(config, version_id)
        if entry.kept:
            return versions.load(entry.kept)
        return Version.of(library.read(entry.data, config.name))

    def compare(self, config: RunConfig, version_id: str) -> Diff:
        """Return what is different between a version and the rows as they stand now."""
        return versions.diff(self.rows(config, version_id), self.bench(config).version)

    def delete(self, config: RunConfig, version_id: str, runs: Sequence[Run]) -> None:
        """Remove a version from the disk.

        Raises:
            DataError: it is in use, or cannot be deleted.
        """
        with self._lock:
            entry = self.entry(config, version_id)
            waiting = {"queued", "running"}
            used = any(
                run.status in waiting and run.config.get("data", {}).get("path") == entry.data.path
                for run in runs
            )
            if entry.current or used:
                raise DataError(
                    "This version is in use.",
                    action="Choose another version first, and wait for the runs that learn it.",
                    code="version.in_use",
                )
            if entry.kept:
                versions.delete(entry.kept)
            elif Path(entry.data.path).is_relative_to(home()):
                Path(entry.data.path).unlink()  # an upload; sample classes stay


def origin(config: RunConfig) -> str:
    """Return the file that the draft's class began with."""
    kept = versions.version_at(Path(config.data.path))
    return kept.origin if kept else config.data.path


def folder() -> Path:
    """Return where versions are kept."""
    return home() / "data" / "versions"


def _read(config: RunConfig) -> Any:
    return library.read(config.data, config.name)


def _as_chosen(rows: Version, data: DataConfig) -> Version:
    """Return rows under the columns that the draft names for their parts."""
    if data.parts:
        return rows.read_by(data.parts)
    chosen = {"question": data.question, "answer": data.answer}
    named = {part: name for part, name in chosen.items() if name in rows.columns}
    if rows.parts and any(rows.mapping.get(part) != name for part, name in named.items()):
        rows = rows.read_by({**rows.parts, **{part: (name,) for part, name in named.items()}})
    return replace(rows, mapping={**rows.mapping, **named})


def _data_of(config: RunConfig, kept: Kept) -> DataConfig:
    """Return how a version's file is read: with all columns of its parts, where it has some."""
    named: dict[str, Any] = {
        part: "" if kept.parts else kept.mapping.get(part, "") for part in PAIR
    }
    columns, path = columns_text(kept.parts), str(kept.path)
    return replace(config.data, path=path, sheet="", encoding="", columns=columns, **named)


def _choose(config: RunConfig, data: DataConfig) -> RunConfig:
    chosen = replace(config, data=data)
    draft.save(chosen)
    return chosen


def _without_blank(version: Version) -> Version:
    """Leave rows out in which nothing is written: a file would not keep them."""
    blank = [i for i, row in enumerate(version.rows) if not any(c.strip() for c in row)]
    return version.remove(blank) if blank else version


def _count_changed(bench: Bench) -> int:
    found = versions.diff(bench._saved, bench.version)
    return len(found.added) + len(found.removed) + len(found.changed)
