"""The child process of a training run: ``python -m core.runs.worker RUN_FOLDER``.

It speaks through files of the run folder only: events go to ``events.jsonl``, signs of life to
``beat``, the outcome to ``result.json`` or ``error.json``; wishes come from ``want``. So it does
not matter whether its parent is still there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from core.config import RunConfig
from core.errors import ConfigError, Stopped, StudioError
from core.events import Emit, Event, Failed, StatusChanged
from core.runs.environment import prepare_this_process
from core.runs.explain import error_document, explain
from core.runs.folder import (
    BEAT_FILE,
    ERROR_FILE,
    EVENTS_FILE,
    EXIT_BUSY,
    LOCK_FILE,
    LOG_FILE,
    read_wish,
    write_json,
)
from core.runs.lock import FileLock

_BEAT_SECONDS, _WISH_SECONDS, _LOCK_SECONDS = 1.0, 0.2, 5.0
# What must survive a power cut; a step's figures need not.
_SYNCED = ("status", "checkpoint", "failed", "quiz")


class Pipeline(Protocol):
    """What a worker runs: :mod:`core.pipeline`, or a double in tests."""

    def run(
        self, config: RunConfig, out: Path, emit: Emit, should_stop: Callable[[], str]
    ) -> dict[str, Any]:
        """Run a configuration from the beginning."""

    def resume(self, out: Path, emit: Emit, should_stop: Callable[[], str]) -> dict[str, Any]:
        """Go on from the newest whole checkpoint of a run folder."""


class EventLog:
    """Appends events to ``events.jsonl``, one line each, and keeps the sign of life fresh."""

    def __init__(self, folder: Path) -> None:
        """Open the log; a line that a killed worker left half written is ended."""
        self._beat_file = folder / BEAT_FILE
        self._last_beat = -math.inf
        self._lock = threading.Lock()
        path = folder / EVENTS_FILE
        torn = _ends_within_a_line(path)
        self._file: IO[str] = path.open("a", encoding="ascii", buffering=1, newline="\n")
        if torn:
            self._file.write("\n")

    def emit(self, event: Event) -> None:
        """Append one event.

        Raises:
            OSError: no space left.
        """
        line = json.dumps(_finite(event.to_json()))
        with self._lock:
            self._file.write(line + "\n")
            if event.kind in _SYNCED:
                os.fsync(self._file.fileno())
        self.beat()

    def beat(self) -> None:
        """Say that work goes on (at most once a second)."""
        now = time.monotonic()
        if now - self._last_beat >= _BEAT_SECONDS:
            self._last_beat = now
            self._beat_file.touch()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_within_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON: a browser would refuse the whole document."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Wishes:
    """What the person, or a system that shuts down, wants of this worker.

    SIGTERM asks for a pause (the run goes on after a restart), Ctrl-C for a stop.
    """

    def __init__(self, folder: Path, beat: Callable[[], None]) -> None:
        """Listen to the folder's ``want`` and, in the main thread, to signals."""
        self._folder, self._beat = folder, beat
        self._signalled = ""
        self._last, self._read_at = "", -math.inf
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = "stop" if number == signal.SIGINT else "pause"

    def __call__(self) -> str:
        """Return ``""``, ``"pause"`` or ``"stop"``; cheap enough to ask after every token."""
        self._beat()
        now = time.monotonic()
        if now - self._read_at >= _WISH_SECONDS:
            self._read_at = now
            wish = read_wish(self._folder)
            self._last = "" if wish == "run" else wish
        return self._last or self._signalled


def work(folder: Path, load_pipeline: Callable[[], Pipeline]) -> int:
    """Do a run folder's run, or go on with it, and say how it ended.

    Args:
        folder: holds ``config.json``.
        load_pipeline: imports what does the work; called late, so that its failing is told too.

    Returns:
        The exit code: 0 done, 2 input, 3 budget, 4 failed, 130 paused or stopped by the person,
        75 if another worker has the folder.
    """
    lock = FileLock(folder / LOCK_FILE)
    if not _acquire(lock):
        return EXIT_BUSY
    (folder / ERROR_FILE).unlink(missing_ok=True)
    log = EventLog(folder)
    wishes = Wishes(folder, log.beat)
    try:
        log.emit(StatusChanged("running"))
        return _work(folder, load_pipeline, log.emit, wishes)
    except Exception as error:  # whatever it is, the run must be told as failed
        return _tell_failure(folder, explain(error, folder / LOG_FILE), log.emit)
    finally:
        log.close()
        lock.release()


def _acquire(lock: FileLock) -> bool:
    # The last worker may still be leaving, and the runner tries the lock now and then.
    deadline = time.monotonic() + _LOCK_SECONDS
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _work(folder: Path, load_pipeline: Callable[[], Pipeline], emit: Emit, wishes: Wishes) -> int:
    try:
        if wishes():
            raise Stopped("The run was stopped before it began.")
        pipeline = load_pipeline()
        if (folder / "data" / "manifest.json").exists():
            result = pipeline.resume(folder, emit, wishes)
        else:
            config = RunConfig.load(folder / "config.json")
            result = pipeline.run(config, folder, emit, wishes)
    except Stopped:
        status = "paused" if wishes() == "pause" else "stopped"
    else:
        status = str(result.get("status", "done"))
        write_json(folder / "result.json", _finite(result))
    emit(StatusChanged(status))
    return 0 if status == "done" else Stopped.exit_code


def _tell_failure(folder: Path, error: StudioError, emit: Emit) -> int:
    # On a full disk each of these may fail too: the parent then goes by the exit code.
    with contextlib.suppress(OSError):
        write_json(folder / ERROR_FILE, error_document(error))
    with contextlib.suppress(OSError):
        emit(Failed(error.what, error.action, error.where, error.code))
        # A full disk passes: the run waits, its last whole checkpoint in place.
        emit(StatusChanged("paused" if error.code == "disk.full" else "failed"))
    return error.exit_code


def _load_pipeline() -> Pipeline:
    prepare_this_process()
    import core.pipeline

    return core.pipeline


def _end_with_parent() -> None:
    # Killed as the parent was: the last checkpoint counts, and the folder's lock is free at once.
    # (os.read: a buffered read would hold a lock that the interpreter needs at its own end.)
    while os.read(0, 1024):
        pass
    os._exit(137)


def main(arguments: list[str], load_pipeline: Callable[[], Pipeline] = _load_pipeline) -> int:
    """Entry of ``python -m core.runs.worker RUN_FOLDER [--tied]``.

    With ``--tied`` standard input is a pipe from the parent, and the worker ends with it.
    """
    faulthandler.enable()
    if "--tied" in arguments:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if not arguments or not (folder := Path(arguments[0])).is_dir():
        error = ConfigError("A run folder is needed.", action="Give one existing folder.")
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return work(folder, load_pipeline)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
