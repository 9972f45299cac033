from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.setup import checks
from core.setup.checks import check_port, check_space, check_venv_module, explain
from core.setup.errors import SetupError

LOG = Path("setup.log")

# Lines as pip and uv write them.
LOGS = {
    "connect to the internet": [
        "WARNING: Retrying after connection broken by 'NewConnectionError(': Failed to establish a "
        "new connection: [Errno -3] Temporary failure in name resolution'): /simple/torch/\n"
        "ERROR: No matching distribution found for torch==2.13.0",
        "error: error sending request for url (https://pypi.org/simple/six/)",
        "socket.gaierror: [Errno 11001] getaddrinfo failed",
    ],
    "free some space": ["ERROR: Could not install packages: [Errno 28] No space left on device"],
    "differed from the locked": [
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
        "error: Hash mismatch for six==1.17.0",
    ],
    "name another one": ["ERROR: No matching distribution found for torch==2.13.0+cpu"],
    "setup.log": ["Segmentation fault"],
}


@pytest.mark.parametrize(
    ("expected", "log"), [(key, log) for key, logs in LOGS.items() for log in logs]
)
def test_a_failed_installer_becomes_what_happened_and_one_action(expected: str, log: str) -> None:
    error = explain("Installing the build tools", log, LOG)
    assert expected in str(error).lower()
    assert "while installing the build tools" in error.what
    assert error.action
    assert error.exit_code == 2


def test_a_full_disk_stops_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=1_200_000_000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    check_space(Path(), 10**9)
    with pytest.raises(SetupError, match=r"needs 4 GB .* 1\.2 GB are free"):
        check_space(Path(), 4 * 10**9)


def test_a_python_without_venv_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    check_venv_module()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        checks.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name)
    )
    with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv"):
        check_venv_module()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_is_answered_with_one_that_is_free(taken_port: int) -> None:
    with pytest.raises(SetupError) as caught:
        check_port("127.0.0.1", taken_port)
    suggestion = int(caught.value.action.rstrip(".").rpartition(" ")[2])
    check_port("127.0.0.1", suggestion)


def test_an_address_of_another_computer_is_refused() -> None:
    with pytest.raises(SetupError, match="address of this computer"):
        check_port("192.0.2.1", 7860)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(SetupError):
        check_port("127.0.0.1", port)
