"""Makes ``.venv`` what the checkout needs, and repairs one that was interrupted."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.home import CHECKOUT
from core.setup.checks import SPACE_BYTES, check_space, check_venv_module, explain
from core.setup.commands import Settings, torch_build
from core.setup.errors import SetupError
from core.setup.stages import Stage, plan_stages
from core.setup.stamp import NAME, is_whole, python_key, read_stamp, write_stamp

VENV = CHECKOUT / ".venv"
LOCK = CHECKOUT / ".venv.lock"
LOG = "setup.log"

# No news to anybody, no downloads that were not asked for; a person's own setting wins.
QUIET = {
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUTF8": "1",
}
MIXES_IN = ("PYTHONHOME", "PYTHONPATH", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER")


def say(text: str) -> None:
    """Write one line for the person (standard output belongs to ``--json``)."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all that is started: quiet, offline, only this checkout."""
    kept = {name: value for name, value in environ.items() if name not in MIXES_IN}
    return {**QUIET, **kept, "PYTHONPATH": str(CHECKOUT)}


def ensure_environment(settings: Settings, *, with_tests: bool) -> None:
    """Bring ``.venv`` to what this checkout needs; do nothing where it is already so.

    Raises:
        SetupError: with the sentence to show.
    """
    if is_whole(VENV) and not _to_do(settings, with_tests):
        return
    with only_one(LOCK):
        if not is_whole(VENV):
            check_venv_module()
            check_space(CHECKOUT, SPACE_BYTES[torch_build(settings, {})])
            say("Setting up the studio. This is done once and takes some minutes.")
            make_venv(VENV)
        stages = _to_do(settings, with_tests)
        for number, stage in enumerate(stages, 1):
            do_stage(stage, VENV, f"[{number}/{len(stages)}] {stage.title}")


def _to_do(settings: Settings, with_tests: bool) -> list[Stage]:
    stages = plan_stages(VENV, settings, read_stamp(VENV), with_tests=with_tests)
    return [stage for stage in stages if not stage.done]


def make_venv(venv: Path) -> None:
    """Make the bare environment, in place of an unfinished one or one of another Python.

    Raises:
        SetupError: if the folder is somebody else's, in use, or cannot be written.
    """
    if venv.exists() and not (venv / NAME).exists() and any(venv.iterdir()):
        raise SetupError(f"{venv} was not made by launch.py.", action="Move it away, start again.")
    try:
        if venv.exists():
            write_stamp(venv, {})
            shutil.rmtree(venv)
        venv.mkdir()
        write_stamp(venv, {})
    except OSError as error:
        raise SetupError(
            f"{venv} could not be written ({error.strerror}).",
            action="Close a studio that runs from it, or make the folder writable; start again.",
        ) from error
    title = "Making the environment"
    # The Python under this one: we may run from the very environment that was just removed.
    python = getattr(sys, "_base_executable", None) or sys.executable
    code, log = watch([python, "-m", "venv", str(venv)], venv / LOG, title, 0)
    if code != 0:
        raise explain(title, log, venv / LOG)
    write_stamp(venv, {"venv": python_key()})


def do_stage(stage: Stage, venv: Path, title: str) -> None:
    """Run a stage's commands until one succeeds, and stamp it.

    Raises:
        SetupError: if none does.
    """
    stamp = {name: key for name, key in read_stamp(venv).items() if name != stage.name}
    write_stamp(venv, stamp)
    drop_half_installed(venv)
    log = ""
    started = time.monotonic()
    say(f"{title} ...")
    for command in stage.commands:
        code, log = watch(command, venv / LOG, title, stage.packages)
        if code == 0:
            say(f"{title}: done in {time.monotonic() - started:.0f} s")
            write_stamp(venv, {**stamp, stage.name: stage.key})
            return
    raise explain(stage.title, log, venv / LOG)


def drop_half_installed(venv: Path) -> None:
    """Remove what an interrupted installer left, so that the next one installs it anew.

    Installers write ``INSTALLER`` and ``RECORD`` last; without them a package would pass for
    installed. pip moves what it replaces to ``~name``.
    """
    for site in (*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")):
        for info in site.glob("*.dist-info"):
            if not ((info / "INSTALLER").exists() and (info / "RECORD").exists()):
                shutil.rmtree(info)
        for moved in site.glob("~*"):
            shutil.rmtree(moved) if moved.is_dir() else moved.unlink()


def watch(command: Sequence[str], log_path: Path, title: str, packages: int) -> tuple[int, str]:
    """Run a command with its output appended to the log, and show how far it is.

    Returns:
        its exit status and what it wrote.
    """
    started = time.monotonic()
    with log_path.open("ab") as log:
        start = log.seek(0, os.SEEK_END)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Lets the installer inherit the lock of only_one, and nothing else.
            close_fds=False,
            env=child_environment(os.environ),
        ) as child:
            while (code := child.poll()) is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1.0)
                fetched = _written(log_path, start).count("Collecting ")
                count = f", {min(fetched, packages)} of {packages} packages" if fetched else ""
                show(f"{title}: {time.monotonic() - started:.0f} s{count}")
    show("")
    return code, _written(log_path, start)


def _written(log_path: Path, start: int) -> str:
    with log_path.open("rb") as log:
        log.seek(start)
        return log.read().decode("utf-8", "replace")


def show(line: str) -> None:
    """Rewrite the progress line of a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K" + line[:78])
        sys.stderr.flush()


@contextlib.contextmanager
def only_one(lock_path: Path) -> Iterator[None]:
    """Hold the set-up's lock; a second launch waits. The system frees it when its holder dies."""
    with lock_path.open("a+b") as file:
        # If we are killed, the installer goes on: it then holds the lock until it is through.
        os.set_inheritable(file.fileno(), True)
        waited = False
        while not _try_lock(file.fileno()):
            if not waited:
                say("Another launch.py is setting up this folder; waiting for it.")
            waited = True
            time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
