"""A training run in the foreground: the child works, this process shows its events and waits.

The child is a process of its own, so that the memory it measures is that of training only.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from core.config import RunConfig
from core.errors import ConfigError, TrainingError
from core.runs.explain import error_document, out_of_memory
from core.runs.folder import (
    ERROR_FILE,
    EVENTS_FILE,
    EXIT_BUSY,
    LOCK_FILE,
    LOG_FILE,
    read_events_from,
    read_json,
    write_wish,
)
from core.runs.lock import FileLock
from core.runs.spawn import kill_tree, spawn_worker, worker_command

_TICK = 0.1
_KILLED = (-9, 137)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_MADE_BY_A_RUN = (
    *("data", "base", "checkpoints", "adapter", "export", "student-start", "model"),
    "pissa-start",
)
_FILES_OF_A_RUN = (
    *(EVENTS_FILE, ERROR_FILE, "plan.json", "layer_map.json", "trained.json"),
    "estimate.json",
)

Show = Callable[[dict[str, Any]], None]


def prepare_folder(folder: Path, config: RunConfig) -> None:
    """Make the folder of a new run and save its settings there.

    A run that failed before its first checkpoint is started over in the same folder.

    Raises:
        ConfigError: the folder holds a run that got further, or something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        _refuse_if_used(folder)
        for name in _MADE_BY_A_RUN:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in _FILES_OF_A_RUN:
            (folder / name).unlink(missing_ok=True)
    config.save(folder / "config.json")


def _refuse_if_used(folder: Path) -> None:
    if not (folder / "config.json").exists() or not (folder / EVENTS_FILE).exists():
        raise ConfigError(
            f"The folder {folder.name} is not empty.",
            where="--out",
            action="Choose a new folder for the run.",
            code="out.not_empty",
        )
    trained = (folder / "result.json").exists() or any((folder / "checkpoints").glob("*"))
    if trained or FileLock(folder / LOCK_FILE).held_by_other():
        raise ConfigError(
            f"The folder {folder.name} holds a run already.",
            where="--out",
            action=f"Go on with it by 'resume {folder.name}', or choose a new folder.",
            code="out.used",
        )


def run_attached(
    folder: Path, show: Show, say: Callable[[str], None], command: list[str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Work on a run folder until its run ends or the person stops it.

    Ctrl-C (or the end of the terminal) asks the child to stop behind a checkpoint; a second one
    ends it at once. If this process is killed, the child ends too.

    Args:
        folder: with ``config.json``.
        show: gets every event of the run as it comes.
        say: gets sentences for the person.
        command: the child's argument list.

    Returns:
        The exit code of the command line, and the document of ``--json``.
    """
    write_wish(folder, "run")
    events = folder / EVENTS_FILE
    offset = events.stat().st_size if events.exists() else 0
    child = spawn_worker(folder, [*(command or worker_command(folder)), "--tied"], tied=True)
    with _Stopping(folder, child, say):
        alive = True
        while alive:
            alive = child.poll() is None  # asked first: what it wrote before its end is read
            found, offset = read_events_from(events, offset)
            for event in found:
                show(event)
            if alive and not found:
                time.sleep(_TICK)
    return _outcome(folder, child.returncode)


class _Stopping:
    """Turns Ctrl-C into a wish while the child works."""

    def __init__(
        self, folder: Path, child: subprocess.Popen[bytes], say: Callable[[str], None]
    ) -> None:
        self._folder, self._child, self._say = folder, child, say
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if (number := getattr(signal, name, None)) is not None:
                    self._before[number] = signal.signal(number, self._stop)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            kill_tree(self._child.pid)
            return
        self._asked = True
        self._say("Stopping behind a checkpoint; press Ctrl-C again to end at once.")
        write_wish(self._folder, "stop")


def _outcome(folder: Path, code: int) -> tuple[int, dict[str, Any]]:
    if (error := read_json(folder / ERROR_FILE)) is not None:
        return int(error["exit_code"]), error
    if code in (0, 130):
        status = "done" if code == 0 else "stopped"
        return code, read_json(folder / "result.json") or {"status": status, "problems": []}
    if code == EXIT_BUSY:
        busy = ConfigError(
            "Another process is working on this run.",
            where=folder.name,
            action="Wait until it is done, or stop it.",
            code="run.busy",
        )
        return busy.exit_code, error_document(busy)
    if code in _KILLED and (folder / "want").read_text("utf-8") == "stop":
        return 130, {"status": "stopped", "problems": []}
    lost = out_of_memory() if code in _KILLED else _vanished()
    return lost.exit_code, error_document(lost)


def _vanished() -> TrainingError:
    return TrainingError(
        "The training process ended without saying why.",
        action=f"Resume to go on from the last checkpoint; see {LOG_FILE}.",
        code="run.vanished",
    )
