"""A start where the environment stands already: what it loads."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from core.home import CHECKOUT
from core.setup.commands import Settings
from core.setup.environment import VENV
from core.setup.stages import plan_stages
from core.setup.stamp import is_whole, read_stamp


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that looks prepared, beside an environment that launch.py made."""
    starter = tmp_path / "models" / "starter"
    starter.mkdir(parents=True)
    (starter / "MANIFEST.json").write_text("{}", "utf-8")
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    stages = plan_stages(VENV, Settings(), read_stamp(VENV), with_tests=False)
    if not is_whole(VENV) or not all(stage.done for stage in stages):
        pytest.skip("needs the environment that launch.py makes (python launch.py test)")
    return tmp_path


@contextmanager
def started_studio() -> Iterator[psutil.Process]:
    """Start the studio on a free port and yield its process when it has served a page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    launcher = subprocess.Popen(
        [sys.executable, CHECKOUT / "launch.py", "--no-browser", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(f"http://127.0.0.1:{port}/"):
            assert launcher.poll() is None, "the studio ended before it served a page"
            assert time.monotonic() - start < 60, "no page within a minute"
            time.sleep(0.05)
        yield psutil.Process(launcher.pid)
    finally:
        launcher.terminate()
        launcher.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200 and b"<html" in answer.read().lower())
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.usefixtures("state")
def test_the_web_process_has_no_torch_in_its_memory() -> None:
    with started_studio() as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8")
    assert ".venv" in maps
    assert "libtorch" not in maps
