"""The queue of runs and the thread that watches their child processes. No torch.

The database holds what is wanted and in which order; a child holds its run folder's lock and tells
what happened through the folder. So closing the browser, a second tab, a restart or a crash of the
studio change nothing: the next runner reads on where the last one was and adopts the child.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.errors import ConfigError, StudioError, TrainingError
from core.events import Failed, Note, StatusChanged
from core.home import home
from core.runs.explain import out_of_memory
from core.runs.folder import (
    BEAT_FILE,
    EXIT_BUSY,
    LOCK_FILE,
    LOG_FILE,
    WISHES,
    read_json,
    read_wish,
    write_wish,
)
from core.runs.ingest import FINAL, read_events
from core.runs.lock import FileLock, is_alive, process_identity
from core.runs.spawn import kill_tree, spawn_worker, worker_command
from core.runs.store import Run, Store, StoreError, new_id
from core.whole import write_whole

_log = logging.getLogger(__name__)

DATABASE, LOCK = "studio.db", "studio.lock"
_MAX_ATTEMPTS = 3  # starts in a row that nobody asked for
_KILLED = (-9, 137)  # how the out-of-memory killer ends a process
_DELETED = ".deleted-"


@dataclass(frozen=True)
class Patience:
    """How long the runner waits, in seconds of a monotonic clock.

    Attributes:
        tick: between two looks.
        stop: from the wish to stop until the child is ended by force.
        leave: from a child's last event until it is ended by force.
        silence: without a sign of life while training (or ten median steps, if that is longer).
        quiet_phase: without a sign of life in any other phase.
        nap: a tick that comes so late means that the computer was suspended.
    """

    tick: float = 0.25
    stop: float = 10.0
    leave: float = 20.0
    silence: float = 60.0
    quiet_phase: float = 900.0
    nap: float = 10.0


@dataclass
class _Child:
    """A watched process; ``popen`` is None if an earlier studio started it."""

    run_id: str
    pid: int
    process: str
    popen: subprocess.Popen[bytes] | None = None
    beat: int = 0
    beat_at: float = field(default_factory=time.monotonic)
    stop_at: float = 0.0
    finished_at: float = 0.0
    phase: str = ""
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=21))
    hung: bool = False

    def exit_code(self) -> int | None:
        return self.popen.poll() if self.popen else None

    def alive(self) -> bool:
        if self.popen is not None:
            return self.popen.poll() is None
        return is_alive(self.pid, self.process)

    def kill(self) -> None:
        """End exactly this process: a stranger with its number is left alone."""
        if self.alive():
            kill_tree(self.pid)

    def look(self, folder: Path, events: list[dict[str, Any]]) -> None:
        """Take in new events and the beat's file time (its changes only: clocks may jump)."""
        now = time.monotonic()
        try:
            beat = (folder / BEAT_FILE).stat().st_mtime_ns
        except OSError:
            beat = 0
        if beat != self.beat or events:
            self.beat, self.beat_at = beat, now
        for event in events:
            if event["kind"] == "phase":
                self.phase = str(event.get("phase", ""))
            elif event["kind"] == "step":
                self.step_seconds.append(float(event.get("seconds") or 0.0))
            elif event["kind"] == "status" and event.get("status") in FINAL:
                self.finished_at = now

    def allowed_silence(self, patience: Patience) -> float:
        if self.phase != "train" or not self.step_seconds:
            return patience.quiet_phase
        return max(patience.silence, 10 * statistics.median(self.step_seconds))


class Runner:
    """Owns the queue of one state folder."""

    def __init__(
        self,
        store: Store,
        *,
        command: Callable[[Path], list[str]] = worker_command,
        parallel: int = 1,
        patience: Patience | None = None,
        lock: FileLock | None = None,
    ) -> None:
        """Prepare; nothing runs before :meth:`start`.

        Args:
            store: where runs and events are.
            command: the argument list of the child of a run folder.
            parallel: how many runs go at a time.
            patience: waiting times.
            lock: the state folder's lock, if it is held already.
        """
        self.store = store
        self.trouble = ""  # the last sentence why the queue cannot go on, empty if it can
        self._command, self._parallel = command, parallel
        self._patience = patience or Patience()
        self._lock = lock or FileLock(store.path.parent / LOCK)
        self._children: dict[str, _Child] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ticked_at = time.monotonic()

    @classmethod
    def open(cls, folder: Path | None = None, *, address: str = "", **options: Any) -> Runner:
        """Lock a state folder, open its database and return its runner (not yet started).

        Args:
            folder: by default ``STUDIO_HOME``.
            address: where the studio can be reached, told to a second one.
            options: of the constructor.

        Raises:
            StoreError: another studio has the folder, or the database cannot be used.
        """
        folder = folder or home()
        lock = FileLock(folder / LOCK)
        _take(lock, address)
        try:
            return cls(Store(folder / DATABASE), lock=lock, **options)
        except BaseException:
            lock.release()
            raise

    def start(self) -> None:
        """Adopt what still runs and begin to work through the queue.

        Raises:
            StoreError: another studio has the state folder.
        """
        _take(self._lock, "")
        self._finish_deletions()
        for run in self.store.runs():
            self._reconcile(run)
        self._closing.clear()
        self._thread = threading.Thread(target=self._loop, name="runner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching and give the folder back; children go on and can be adopted."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._lock.release()

    # What pages ask for

    def submit(self, config: RunConfig, *, key: str = "") -> str:
        """Put a run at the end of the queue and return its id.

        Args:
            config: its settings; paths should be absolute.
            key: the same key again (a double click, two tabs) gives the same run.
        """
        run_id, tree = new_id(), config.to_json()
        with self.store.transaction():
            run = self.store.add_run(run_id, tree, name=config.name, key=key)
            if run.id == run_id:
                run.folder.mkdir(parents=True)
                write_whole(run.folder / "config.json", json.dumps(tree, ensure_ascii=False))
                self.store.append_events(run.id, [StatusChanged("queued")])
        self._wake.set()
        return run.id

    def want(self, run_id: str, wish: str) -> None:
        """Say what should become of a run; a wish that changes nothing is no error.

        ``run`` queues a paused, stopped or failed run again (or takes back a pause that has not
        happened yet), ``pause`` and ``stop`` end a running one behind a checkpoint and take a
        queued one out of the queue.

        Raises:
            ConfigError: ``wish`` is none of the three.
            StoreError: there is no such run.
        """
        if wish not in WISHES:
            raise ConfigError(f"{wish!r} is no wish.", action=f"Known: {', '.join(WISHES)}.")
        with self.store.transaction():
            run = self.store.run(run_id)
            if run.status == "running":
                self.store.update(run_id, want=wish)
            elif wish == "run" and run.status in ("paused", "stopped", "failed"):
                place = self.store.next_place()
                self.store.update(run_id, want=wish, place=place, attempts=0)
                self._set_status(run, "queued")
            elif wish != "run" and run.status in ("queued", "paused"):
                self.store.update(run_id, want=wish)
                self._set_status(run, "paused" if wish == "pause" else "stopped")
        self._wake.set()

    def delete(self, run_id: str) -> None:
        """Remove a run, its events and its folder.

        Raises:
            StoreError: it is queued or running.
        """
        with self.store.transaction():
            run = self.store.run(run_id)
            if run.status in ("queued", "running"):
                raise StoreError(
                    "This run is not finished.",
                    where=run.name or run.id,
                    action="Stop it first, then delete it.",
                    code="run.active",
                )
            # Renamed first: killed from here on, the next start finishes the deletion.
            if run.folder.exists():
                run.folder.rename(run.folder.with_name(_DELETED + run.folder.name))
            self.store.remove_run(run_id)
        self._finish_deletions()

    # The loop

    def _loop(self) -> None:
        while not self._closing.is_set():
            try:
                self._tick()
                self.trouble = ""
            except StudioError as error:
                self.trouble = str(error)
            except Exception:  # one bad tick must not end the queue
                _log.exception("the runner goes on after an unexpected error")
                self.trouble = "The queue met an unexpected error and tries again."
            self._wake.wait(self._patience.tick)
            self._wake.clear()

    def _tick(self) -> None:
        now = time.monotonic()
        slept, self._ticked_at = now - self._ticked_at > self._patience.nap, now
        for child in list(self._children.values()):
            if slept:  # the computer did: the child had no chance to give a sign
                child.beat_at = now
            self._watch(child)
        while len(self._children) < self._parallel and self._launch_next():
            pass

    def _launch_next(self) -> bool:
        with self.store.transaction():
            run = self.store.next_queued()
            if run is None:
                return False
            # Claimed before anything starts: killed here, the next studio finds it running
            # without a process and queues it again.
            self.store.update(
                run.id, status="running", attempts=run.attempts + 1, pid=0, process=""
            )
        try:
            write_wish(run.folder, self.store.run(run.id).want)
            popen = spawn_worker(run.folder, self._command(run.folder))
        except OSError as error:
            what = f"The training process could not be started ({error.strerror})."
            self._fail(run, TrainingError(what, action="Try again.", code="run.spawn"))
            return True
        self._watch_from_now(run, _Child(run.id, popen.pid, process_identity(popen.pid), popen))
        return True

    def _watch_from_now(self, run: Run, child: _Child) -> None:
        self._children[run.id] = child
        self.store.update(run.id, pid=child.pid, process=child.process)

    def _watch(self, child: _Child) -> None:
        alive = child.alive()  # asked before reading: what it wrote before its end is then there
        run = self.store.run(child.run_id)
        child.look(run.folder, read_events(self.store, run))
        if not alive:
            del self._children[run.id]
            self._read_all(run.id)
            self._conclude(self.store.run(run.id), child)
            return
        if read_wish(run.folder) != run.want:
            write_wish(run.folder, run.want)
        self._lose_patience(run, child)

    def _lose_patience(self, run: Run, child: _Child) -> None:
        now = time.monotonic()
        child.stop_at = (child.stop_at or now) if run.want == "stop" else 0.0
        if child.stop_at and now - child.stop_at > self._patience.stop:
            child.kill()
        elif child.finished_at:
            if now - child.finished_at > self._patience.leave:
                child.kill()
        elif now - child.beat_at > child.allowed_silence(self._patience):
            child.hung = True
            child.kill()

    # How a run ends

    def _read_all(self, run_id: str) -> None:
        before = -1
        while (run := self.store.run(run_id)).read_bytes != before:
            before = run.read_bytes
            read_events(self.store, run)

    def _conclude(self, run: Run, child: _Child) -> None:
        """Decide what became of a run whose process is gone: its last word counts."""
        last = self.store.last_event(run.id, "status")
        code = child.exit_code()
        if last is not None and last["status"] in FINAL:
            ended = {"status": last["status"], "pid": 0, "process": "", "attempts": 0}
            if last["status"] != "failed":
                ended["result"] = read_json(run.folder / "result.json")
            self.store.update(run.id, **ended)
        elif code == EXIT_BUSY:
            self._adopt_or_queue(run)
        elif run.want == "stop":
            self.store.update(run.id, pid=0, process="")
            self._set_status(run, "stopped")
        elif child.hung or child.popen is None:
            self._queue_again(run)
        elif code in _KILLED:
            self._fail(run, out_of_memory())
        else:
            what = "The training process ended without saying why."
            action = f"Press Resume to go on from the last checkpoint; see {LOG_FILE}."
            self._fail(run, TrainingError(what, action=action, code="run.vanished"))

    def _queue_again(self, run: Run) -> None:
        """Go on from the last checkpoint, at the old place, unless that has failed before."""
        if run.attempts >= _MAX_ATTEMPTS:
            what = f"The training process was interrupted {run.attempts} times."
            action = "Press Resume to try again, or choose a smaller budget."
            self._fail(run, TrainingError(what, action=action, code="run.interrupted"))
            return
        text = "The training was interrupted and goes on from its last checkpoint."
        with self.store.transaction():
            self.store.append_events(run.id, [Note(text, "run.interrupted")])
            self.store.update(run.id, pid=0, process="")
            self._set_status(run, "queued" if run.want == "run" else _ended(run.want))

    def _fail(self, run: Run, error: StudioError) -> None:
        with self.store.transaction():
            event = Failed(error.what, error.action, error.where, error.code)
            self.store.append_events(run.id, [event])
            self.store.update(run.id, pid=0, process="")
            self._set_status(run, "failed")

    def _set_status(self, run: Run, status: str) -> None:
        if status == run.status:
            return
        with self.store.transaction():
            self.store.update(run.id, status=status)
            self.store.append_events(run.id, [StatusChanged(status)])

    # After a restart

    def _reconcile(self, run: Run) -> None:
        """Bring a row in line with its folder and with the processes that there are."""
        self._read_all(run.id)
        if run.status == "running":
            self._adopt_or_queue(self.store.run(run.id))

    def _adopt_or_queue(self, run: Run) -> None:
        lock = FileLock(run.folder / LOCK_FILE)
        if is_alive(run.pid, run.process):
            self._watch_from_now(run, _Child(run.id, run.pid, run.process))
        elif run.folder.is_dir() and lock.held_by_other():
            # Started, but the last studio was killed before it could write the number down.
            words = lock.holder()
            child = _Child(run.id, int(words.get("pid", 0)), str(words.get("process", "")))
            self._watch_from_now(run, child)
        else:
            self._conclude(run, _Child(run.id, 0, ""))

    def _finish_deletions(self) -> None:
        for folder in self.store.runs_folder.glob(f"{_DELETED}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _ended(want: str) -> str:
    return "paused" if want == "pause" else "stopped"


def _take(lock: FileLock, address: str) -> None:
    if lock.acquire(address=address, since=time.strftime("%H:%M")):
        return
    words = lock.holder()
    at = f" at {words['address']}" if words.get("address") else ""
    raise StoreError(
        f"The studio is open already{at} (process {words.get('pid', '?')}, "
        f"since {words.get('since', '?')}).",
        where=str(lock.path.parent.name),
        action="Use that one, or close it first.",
        code="studio.open",
    )
