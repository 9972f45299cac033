from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from core.home import CHECKOUT
from core.setup import environment
from core.setup.environment import (
    LOG,
    child_environment,
    do_stage,
    drop_half_installed,
    make_venv,
    only_one,
)
from core.setup.errors import SetupError
from core.setup.stages import Stage
from core.setup.stamp import is_whole, read_stamp, write_stamp


@pytest.fixture
def quick_venv(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for the minutes-long installers: record the command, and succeed."""
    commands: list[list[str]] = []

    def succeed(command: list[str], *_: object) -> tuple[int, str]:
        commands.append(list(command))
        return 0, ""

    monkeypatch.setattr(environment, "watch", succeed)
    return commands


def stage(*programs: str) -> Stage:
    return Stage("lock", "Doing", "key", [(sys.executable, "-c", program) for program in programs])


def test_a_stage_is_stamped_when_it_is_done(tmp_path: Path) -> None:
    write_stamp(tmp_path, {"venv": "v"})
    do_stage(stage("print('fine')"), tmp_path, "[1/1] Doing")
    assert read_stamp(tmp_path) == {"venv": "v", "lock": "key"}
    assert "fine" in (tmp_path / LOG).read_text("utf-8")


def test_a_second_way_is_tried_when_the_first_fails(tmp_path: Path) -> None:
    write_stamp(tmp_path, {})
    do_stage(stage("raise SystemExit(1)", "print('second')"), tmp_path, "[1/1] Doing")
    assert read_stamp(tmp_path) == {"lock": "key"}


def test_a_stage_that_fails_is_no_longer_stamped(tmp_path: Path) -> None:
    write_stamp(tmp_path, {"venv": "v", "lock": "older"})
    with pytest.raises(SetupError, match="error while doing"):
        do_stage(stage("raise SystemExit('broken')"), tmp_path, "[1/1] Doing")
    assert read_stamp(tmp_path) == {"venv": "v"}


def test_the_sentence_comes_from_the_last_way_and_not_from_an_older_log(tmp_path: Path) -> None:
    write_stamp(tmp_path, {})
    (tmp_path / LOG).write_text("No space left on device", "utf-8")
    with pytest.raises(SetupError, match="could not be reached"):
        do_stage(
            stage("raise SystemExit(1)", "raise SystemExit('Network is unreachable')"),
            tmp_path,
            "[1/1] Doing",
        )


def test_an_unfinished_environment_is_made_again(
    tmp_path: Path, quick_venv: list[list[str]]
) -> None:
    venv = tmp_path / ".venv"
    (venv / "lib").mkdir(parents=True)
    write_stamp(venv, {})
    make_venv(venv)
    ((python, *arguments),) = quick_venv
    assert arguments == ["-m", "venv", str(venv)]
    assert venv not in Path(python).parents
    assert not (venv / "lib").exists()
    assert set(read_stamp(venv)) == {"venv"}


def test_an_environment_that_somebody_else_made_is_left_alone(
    tmp_path: Path, quick_venv: list[list[str]]
) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = elsewhere", "utf-8")
    with pytest.raises(SetupError, match="Move it away"):
        make_venv(tmp_path)
    assert quick_venv == []
    assert (tmp_path / "pyvenv.cfg").exists()


def test_a_launch_killed_while_it_clears_the_environment_finds_it_unfinished(
    tmp_path: Path, quick_venv: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    venv.mkdir()
    write_stamp(venv, {"venv": "3.11.0 /gone", "lock": "key"})
    monkeypatch.setattr(environment.shutil, "rmtree", lambda _: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        make_venv(venv)
    assert read_stamp(venv) == {}
    assert not is_whole(venv)


def test_half_installed_packages_are_removed_and_whole_ones_kept(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, files in {
        "whole-1.dist-info": ("METADATA", "INSTALLER", "RECORD"),
        "cut-1.dist-info": ("METADATA", "RECORD"),
        "bare-1.dist-info": ("METADATA",),
        "~orch": ("old.py",),
    }.items():
        (site / name).mkdir(parents=True)
        for file in files:
            (site / name / file).touch()
    drop_half_installed(tmp_path)
    assert [path.name for path in site.iterdir()] == ["whole-1.dist-info"]


def test_children_are_quiet_offline_and_see_only_this_checkout() -> None:
    environ = child_environment({"PYTHONPATH": "/other", "PYTHONHOME": "/x", "LANG": "C"})
    assert environ["PYTHONPATH"] == str(CHECKOUT)
    assert "PYTHONHOME" not in environ
    assert environ["LANG"] == "C"
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_person_who_switched_a_hub_on_keeps_it() -> None:
    assert child_environment({"HF_HUB_OFFLINE": "0"})["HF_HUB_OFFLINE"] == "0"


HOLD = """
    import sys, pathlib, time
    from core.setup.environment import only_one, watch
    lock, log, flag = map(pathlib.Path, sys.argv[1:])
    with only_one(lock):
        sleeper = f"import pathlib, time; pathlib.Path({str(flag)!r}).touch(); time.sleep(30)"
        watch([sys.executable, "-c", sleeper], log, "Sleeping", 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is inherited on POSIX only")
def test_an_installer_that_outlives_its_launch_keeps_the_lock(tmp_path: Path) -> None:
    lock, flag = tmp_path / "lock", tmp_path / "flag"
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), lock, tmp_path / "log", flag],
        cwd=CHECKOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not flag.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        launcher.kill()
        launcher.wait()
        with lock.open("a+b") as file:
            assert not environment._try_lock(file.fileno())
    finally:
        os.killpg(launcher.pid, signal.SIGKILL)
    with only_one(lock), lock.open("a+b") as second:
        assert not environment._try_lock(second.fileno())
