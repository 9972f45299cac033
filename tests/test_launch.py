"""launch.py: what it understands, what it hands over to, and what it may import."""

from __future__ import annotations

import ast
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).parents[1]
LAUNCH = CHECKOUT / "launch.py"
PYTHON = Path("python-of-the-environment")


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", LAUNCH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_old_pythons_can_read_the_file_up_to_the_sentence_for_them() -> None:
    ast.parse(LAUNCH.read_text("utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10, 0), (3, 14, 1)])
def test_a_python_that_cannot_run_the_studio_gets_one_sentence(version: tuple[int, ...]) -> None:
    program = (
        f"import runpy, sys; sys.version_info = {version!r}; "
        f"runpy.run_path({str(LAUNCH)!r}, run_name='__main__')"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert f"Python {version[0]}.{version[1]} cannot run" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_until_the_environment_stands_only_the_standard_library_is_imported() -> None:
    program = "import sys, launch; print(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert answer.returncode == 0, answer.stderr
    known = {*sys.stdlib_module_names, "__main__", "core", "launch"}
    assert {name for name in answer.stdout.split() if name not in known} == set()


def test_what_follows_a_verb_belongs_to_the_verb(launch: ModuleType) -> None:
    options = launch.parse(["train", "--model", "starter", "--port", "3"])
    assert launch.final_command(options, PYTHON) == (
        *(str(PYTHON), "-m", "core.cli", "train"),
        *("--model", "starter", "--port", "3"),
    )


def test_without_a_verb_the_studio_is_served(launch: ModuleType) -> None:
    options = launch.parse(["--port", "7999", "--no-browser"])
    assert launch.final_command(options, PYTHON) == (
        *(str(PYTHON), "-m", "studio", "--host", "127.0.0.1", "--port", "7999"),
        "--no-browser",
    )


def test_the_tests_of_a_person_come_after_the_default_selection(launch: ModuleType) -> None:
    command = launch.final_command(launch.parse(["test", "-m", "slow", "-x"]), PYTHON)
    assert command == (
        *(str(PYTHON), "-m", "pytest", "-m", "not slow and not gpu", "-n", "2"),
        *("-m", "slow", "-x"),
    )


def test_a_taken_port_ends_with_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        answer = subprocess.run(
            [sys.executable, LAUNCH, "--port", port, "--no-browser"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    assert answer.returncode == 2
    assert f"Port {port} is taken" in answer.stderr
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.stderr
