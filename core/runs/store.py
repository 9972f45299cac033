"""The studio's database: runs, their events, and data versions, in one SQLite file. No torch.

One process writes (the studio); training children append to ``events.jsonl`` in their run folder,
which the runner reads in. Run folders are the truth about what happened, the database about what is
wanted: a damaged database is put aside and built again from the folders.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import StudioError
from core.events import Event
from core.runs.ingest import rebuild
from core.runs.migrations import MIGRATIONS, Migration, migrate, version

_WAL_IS_SAFE = (3, 51, 3)  # older ones can damage the file when the log is reset
_RUN_COLUMNS = (
    "seq, id, submit_key, name, status, want, place, config, folder, created, pid, process, "
    "attempts, beat, read_bytes, result"
)


class StoreError(StudioError):
    """The database cannot be used (newer, locked, no space, read-only)."""


@dataclass(frozen=True)
class Run:
    """One row of the table of runs.

    Attributes:
        seq: order of creation.
        status: queued | running | paused | stopped | done | failed.
        want: what the person wants: run | pause | stop.
        place: order in the queue, smallest first.
        created: wall-clock seconds, for showing only.
        pid, process: the child and its identity (:func:`core.runs.lock.process_identity`).
        attempts: how often in a row it was started without the person asking.
        beat: wall-clock seconds of the last sign of life, for showing only.
        read_bytes: how far ``events.jsonl`` has been read in.
    """

    seq: int
    id: str
    submit_key: str | None
    name: str
    status: str
    want: str
    place: int
    config: dict[str, Any]
    folder: Path
    created: float
    pid: int
    process: str
    attempts: int
    beat: float
    read_bytes: int
    result: dict[str, Any] | None


@dataclass(frozen=True)
class Dataset:
    """A version of a class's data: where the file is, its SHA-256 and how it is read."""

    seq: int
    id: str
    label: str
    path: Path
    sha256: str
    created: float
    settings: dict[str, Any] = field(default_factory=dict)


def new_id() -> str:
    """Return an id that sorts roughly by time and is safe as a folder name."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


class Store:
    """Runs, events and data versions; safe to use from several threads."""

    def __init__(self, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        """Open the database, checking, migrating or rebuilding it first.

        Args:
            path: the SQLite file; run folders are looked for in ``runs/`` beside it.
            migrations: the schema; another only in tests.

        Raises:
            StoreError: it comes from a newer version, is locked, or cannot be written.
        """
        self.path = path
        self.runs_folder = path.parent / "runs"
        self.put_aside: Path | None = None
        self._lock = threading.RLock()
        self._migrations = migrations
        with _explained(path):
            self._db = self._open()
        if self.put_aside is not None:
            rebuild(self)

    # Opening

    def _open(self) -> sqlite3.Connection:
        try:
            return self._open_checked()
        except sqlite3.OperationalError:  # locked, read-only, full: not damage
            raise
        except sqlite3.DatabaseError:
            self.put_aside = _put_aside(self.path)
            return self._open_checked()

    def _open_checked(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA busy_timeout = 30000")
            self._refuse_newer(version(db))
            self._check(db)
            wal = sqlite3.sqlite_version_info >= _WAL_IS_SAFE
            db.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA mmap_size = 0")
            if 0 < version(db) < len(self._migrations):
                self._back_up(db)
            migrate(db, self._migrations)
        except BaseException:
            db.close()
            raise
        return db

    def _refuse_newer(self, found: int) -> None:
        if found > len(self._migrations):
            raise StoreError(
                "This folder was last used by a newer version of the studio.",
                where=self.path.name,
                action="Start the newer version, or set STUDIO_HOME to another folder.",
                code="store.newer",
            )

    @staticmethod
    def _check(db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))

    def _back_up(self, db: sqlite3.Connection) -> None:
        target = self.path.with_suffix(f".v{version(db)}.bak")
        copy = sqlite3.connect(target)
        try:
            db.backup(copy)
        finally:
            copy.close()

    def close(self) -> None:
        """Close the database; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is committed together or not at all; may be nested.

        Raises:
            StoreError: locked for 30 seconds, no space, read-only.
        """
        with self._lock, _explained(self.path):
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, _explained(self.path):
            return self._db.execute(query, values).fetchall()

    # Runs

    def add_run(self, run_id: str, config: dict[str, Any], *, name: str, key: str = "") -> Run:
        """Put a run at the end of the queue; the same ``key`` again returns the first run."""
        with self.transaction() as db:
            if key and (known := self._find("submit_key = ?", key)):
                return known
            db.execute(
                "INSERT INTO run (id, submit_key, name, status, place, config, folder, created)"
                " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?)",
                (
                    run_id,
                    key or None,
                    name,
                    self.next_place(),
                    json.dumps(config),
                    f"runs/{run_id}",
                    time.time(),
                ),
            )
        return self.run(run_id)

    def next_place(self) -> int:
        """The place behind all runs of the queue."""
        return int(self._rows("SELECT coalesce(max(place), 0) + 1 FROM run")[0][0])

    def _find(self, condition: str, *values: Any) -> Run | None:
        rows = self._rows(f"SELECT {_RUN_COLUMNS} FROM run WHERE {condition}", *values)
        return self._as_run(rows[0]) if rows else None

    def _as_run(self, row: sqlite3.Row) -> Run:
        values = dict(row)
        values["config"] = json.loads(values["config"])
        values["result"] = json.loads(values["result"]) if values["result"] else None
        # Relative to the database, so that the state folder can be moved.
        values["folder"] = self.path.parent / values["folder"]
        return Run(**values)

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            StoreError: there is none of that id.
        """
        if found := self._find("id = ?", run_id):
            return found
        raise StoreError("There is no such run.", where=run_id[:60], code="run.unknown")

    def runs(self, *statuses: str) -> list[Run]:
        """Runs in the order of creation, of all or only the given statuses."""
        query = f"SELECT {_RUN_COLUMNS} FROM run"
        if statuses:
            query += f" WHERE status IN ({', '.join('?' * len(statuses))})"
        return [self._as_run(row) for row in self._rows(f"{query} ORDER BY seq", *statuses)]

    def next_queued(self) -> Run | None:
        """The run whose turn it is."""
        return self._find("status = 'queued' ORDER BY place, seq LIMIT 1")

    def update(self, run_id: str, **columns: Any) -> None:
        """Set columns of a run (``config`` and ``result`` as dictionaries)."""
        for name in ("config", "result"):
            if columns.get(name) is not None:
                columns[name] = json.dumps(columns[name])
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self.transaction() as db:
            db.execute(f"UPDATE run SET {assignments} WHERE id = ?", (*columns.values(), run_id))

    def remove_run(self, run_id: str) -> None:
        """Forget a run and its events (its folder is the runner's business)."""
        with self.transaction() as db:
            db.execute("DELETE FROM run WHERE id = ?", (run_id,))

    # Events

    def append_events(self, run_id: str, events: Sequence[Event | dict[str, Any]]) -> int:
        """Add events behind those there are; return the number of the last."""
        records = [e.to_json() if isinstance(e, Event) else e for e in events]
        with self.transaction() as db:
            last = self.last_seq(run_id)
            db.executemany(
                "INSERT INTO event (run, seq, kind, body) VALUES (?, ?, ?, ?)",
                [
                    (run_id, number, str(record.get("kind", "")), json.dumps(record))
                    for number, record in enumerate(records, start=last + 1)
                ],
            )
        return last + len(records)

    def last_seq(self, run_id: str) -> int:
        """Number of the newest event of a run, 0 if there is none."""
        query = "SELECT coalesce(max(seq), 0) FROM event WHERE run = ?"
        return int(self._rows(query, run_id)[0][0])

    def events_after(
        self, run_id: str, cursor: int = 0, limit: int = 1000, *, kinds: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Events numbered above ``cursor``, oldest first.

        Args:
            run_id: whose.
            cursor: ``seq`` of the last event already seen, 0 for all.
            limit: at most so many.
            kinds: only these kinds; empty: all.

        Returns:
            ``Event.to_json()`` of each with its ``seq``, from which the next cursor is taken.
        """
        only = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = self._rows(
            f"SELECT seq, body FROM event WHERE run = ? AND seq > ?{only} ORDER BY seq LIMIT ?",
            *(run_id, cursor, *kinds, limit),
        )
        return [{**json.loads(row["body"]), "seq": row["seq"]} for row in rows]

    def last_event(self, run_id: str, *kinds: str) -> dict[str, Any] | None:
        """The newest event of these kinds, with its ``seq``."""
        rows = self._rows(
            f"SELECT seq, body FROM event WHERE run = ? AND kind IN ({', '.join('?' * len(kinds))})"
            " ORDER BY seq DESC LIMIT 1",
            *(run_id, *kinds),
        )
        return {**json.loads(rows[0]["body"]), "seq": rows[0]["seq"]} if rows else None

    # Data versions

    def add_dataset(
        self, label: str, path: Path, sha256: str, settings: dict[str, Any] | None = None
    ) -> Dataset:
        """Record a version of a class's data; versions are never changed, only added."""
        dataset_id = new_id()
        stored = path.resolve()
        home = self.path.parent.resolve()
        text = stored.relative_to(home).as_posix() if stored.is_relative_to(home) else str(stored)
        with self.transaction() as db:
            db.execute(
                "INSERT INTO dataset (id, label, path, sha256, settings, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (dataset_id, label, text, sha256, json.dumps(settings or {}), time.time()),
            )
        return self.dataset(dataset_id)

    def datasets(self) -> list[Dataset]:
        """All versions, oldest first."""
        return [self._as_dataset(row) for row in self._rows("SELECT * FROM dataset ORDER BY seq")]

    def dataset(self, dataset_id: str) -> Dataset:
        """One version.

        Raises:
            StoreError: there is none of that id.
        """
        rows = self._rows("SELECT * FROM dataset WHERE id = ?", dataset_id)
        if not rows:
            raise StoreError("There is no such class data.", where=dataset_id[:60])
        return self._as_dataset(rows[0])

    def remove_dataset(self, dataset_id: str) -> None:
        """Forget a version (runs keep their own frozen copy)."""
        with self.transaction() as db:
            db.execute("DELETE FROM dataset WHERE id = ?", (dataset_id,))

    def _as_dataset(self, row: sqlite3.Row) -> Dataset:
        values = dict(row)
        values["path"] = self.path.parent / values["path"]  # an absolute one stays as it is
        values["settings"] = json.loads(values["settings"])
        return Dataset(**values)


def _put_aside(path: Path) -> Path:
    """Rename a damaged database, its journals with it, and return the new name."""
    target = path.with_name(f"{path.stem}.damaged-{new_id()}{path.suffix}")
    for suffix in ("-journal", "-wal", "-shm"):
        journal = path.with_name(path.name + suffix)
        if journal.exists():
            shutil.move(journal, target.with_name(target.name + suffix))
    shutil.move(path, target)
    return target


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's operational errors into sentences."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            what = "The studio's database has been in use by another program for 30 seconds."
            action, code = "Close the other program and try again.", "store.locked"
        elif "full" in text or "disk I/O" in text:
            what = "The studio's database could not be written: the disk seems to be full."
            action, code = "Free some space and try again.", "store.full"
        elif "readonly" in text or "unable to open" in text:
            what = f"The studio cannot write to its folder {path.parent}."
            action, code = (
                "Give yourself the right to write there, or set STUDIO_HOME.",
                "store.read",
            )
        else:
            raise
        raise StoreError(what, where=path.name, action=action, code=code) from error
    except PermissionError as error:
        raise StoreError(
            f"The studio cannot write to its folder {path.parent}.",
            where=path.name,
            action="Give yourself the right to write there, or set STUDIO_HOME.",
            code="store.read",
        ) from error
