from __future__ import annotations

from pathlib import Path

import pytest

from core.setup import commands
from core.setup.commands import (
    TORCH,
    TORCH_CPU_INDEX,
    TORCH_CUDA_INDEX,
    Settings,
    lock_commands,
    torch_build,
    torch_commands,
)
from core.setup.errors import SetupError

PYTHON = Path("python")
LOCK = Path("lock.txt")


def index_of(command: tuple[str, ...]) -> str:
    return command[command.index("--index-url") + 1] if "--index-url" in command else ""


def test_the_cpu_build_on_linux_is_asked_for_by_its_own_version_here_first() -> None:
    ways = torch_commands(PYTHON, "cpu", Settings(), "Linux")
    assert [way[-1] for way in ways] == [f"torch=={TORCH}+cpu"] * 2
    assert [index_of(way) for way in ways] == ["", TORCH_CPU_INDEX]
    assert all("--no-deps" in way for way in ways)


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_elsewhere_the_plain_version_is_the_cpu_build(system: str) -> None:
    (way,) = torch_commands(PYTHON, "cpu", Settings(), system)
    assert way[-1] == f"torch=={TORCH}"
    assert index_of(way) == ""


def test_the_cuda_build_on_linux_brings_its_libraries() -> None:
    (way,) = torch_commands(PYTHON, "cuda", Settings(), "Linux")
    assert way[-1] == f"torch=={TORCH}"
    assert "--no-deps" not in way


def test_the_cuda_build_on_windows_comes_from_its_own_index() -> None:
    (way,) = torch_commands(PYTHON, "cuda", Settings(), "Windows")
    assert index_of(way) == TORCH_CUDA_INDEX


@pytest.mark.parametrize("build", ["cpu", "cuda"])
@pytest.mark.parametrize("system", ["Linux", "Windows", "Darwin"])
def test_a_mirror_for_torch_is_the_only_place_asked(build: str, system: str) -> None:
    settings = Settings(index="https://a.example", torch_index="https://b.example")
    ways = torch_commands(PYTHON, build, settings, system)
    assert [index_of(way) for way in ways] == ["https://b.example"]


def test_the_lock_is_installed_by_uv_then_by_pip_with_the_same_strictness() -> None:
    with_uv, with_pip = lock_commands(PYTHON, LOCK, Settings(), "/bin/uv")
    assert with_uv[0] == "/bin/uv"
    assert with_pip[:3] == ("python", "-m", "pip")
    for way in (with_uv, with_pip):
        assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} < set(way)


def test_without_uv_pip_installs_the_lock_from_the_mirror() -> None:
    (way,) = lock_commands(PYTHON, LOCK, Settings(index="https://a.example"), None)
    assert index_of(way) == "https://a.example"


def test_the_option_wins_over_the_environment() -> None:
    environ = {"STUDIO_INDEX_URL": "https://env.example", "STUDIO_TORCH": "cpu"}
    assert Settings.read("", environ).index == "https://env.example"
    assert Settings.read("https://option.example", environ).index == "https://option.example"


def test_an_unknown_build_of_torch_is_refused() -> None:
    with pytest.raises(SetupError, match="cpu or cuda"):
        Settings.read("", {"STUDIO_TORCH": "tpu"})


def test_a_gpu_decides_for_cuda_but_what_is_installed_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands.sys, "platform", "linux")
    monkeypatch.setattr(commands, "sees_nvidia", lambda: True)
    assert torch_build(Settings(), {}) == "cuda"
    assert torch_build(Settings(), {"torch": "2.13.0 cpu"}) == "cpu"
    assert torch_build(Settings(torch="cuda"), {"torch": "2.13.0 cpu"}) == "cuda"
    monkeypatch.setattr(commands, "sees_nvidia", lambda: False)
    assert torch_build(Settings(), {}) == "cpu"
