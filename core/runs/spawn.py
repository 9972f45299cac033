"""Starting and ending the child processes of the studio and of the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from core.home import CHECKOUT
from core.runs.environment import child_environment
from core.runs.folder import LOG_FILE


def worker_command(folder: Path) -> list[str]:
    """The argument list of a training child."""
    return [sys.executable, "-m", "core.runs.worker", str(folder.resolve())]


def spawn_worker(
    folder: Path, command: list[str], *, tied: bool = False
) -> subprocess.Popen[bytes]:
    """Start the child of a run folder; a Ctrl-C in the terminal does not reach it.

    Args:
        folder: its run folder.
        command: its argument list.
        tied: give it a pipe that breaks when this process ends; otherwise it outlives its parent.

    Raises:
        OSError: if it cannot be started.
    """
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=child_environment(),
            stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def kill_tree(pid: int) -> None:
    """End a process and all its descendants at once."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    with contextlib.suppress(OSError):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
