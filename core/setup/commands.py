"""Which commands install what: CUDA or CPU build, uv or pip, usual index or mirror."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.setup.errors import SetupError

TORCH = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_CUDA_INDEX = "https://download.pytorch.org/whl/cu130"

# These come as source only; everything else must be a wheel, so that nothing needs a compiler.
SOURCE_ONLY = ("jieba", "rouge-score")

Command = tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What the person asked of the set-up.

    Attributes:
        index: a package index (mirror) instead of the configured one, or "".
        torch_index: an index that has torch, instead of the usual ones, or "".
        torch: ``cpu``, ``cuda`` or ``auto`` (CUDA when an NVIDIA GPU is seen).
    """

    index: str = ""
    torch_index: str = ""
    torch: str = "auto"

    @staticmethod
    def read(index: str, environ: Mapping[str, str]) -> Settings:
        """Take the option, then the environment.

        Raises:
            SetupError: for an unknown ``STUDIO_TORCH``.
        """
        torch = environ.get("STUDIO_TORCH") or "auto"
        if torch not in ("auto", "cpu", "cuda"):
            raise SetupError(
                f"There is no build of PyTorch called {torch!r}.",
                where="STUDIO_TORCH",
                action="Set it to cpu or cuda, or leave it out.",
            )
        return Settings(
            index or environ.get("STUDIO_INDEX_URL", ""),
            environ.get("STUDIO_TORCH_INDEX_URL", ""),
            torch,
        )


def sees_nvidia() -> bool:
    """Whether there is an NVIDIA GPU: the driver has registered one, or its tool lists one."""
    gpus = Path("/proc/driver/nvidia/gpus")
    if gpus.is_dir() and any(gpus.iterdir()):
        return True
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def torch_build(settings: Settings, stamp: Mapping[str, str]) -> str:
    """Return ``cpu`` or ``cuda``; what is installed stays until the person says otherwise."""
    if settings.torch != "auto":
        return settings.torch
    if installed := stamp.get("torch"):
        return installed.split()[-1]
    return "cuda" if sys.platform != "darwin" and sees_nvidia() else "cpu"


def pip_install(python: Path, *arguments: str) -> Command:
    """Return a pip command that asks nothing and draws no bars."""
    return (str(python), "-m", "pip", "install", "--no-input", "--progress-bar=off", *arguments)


def torch_commands(python: Path, build: str, settings: Settings, system: str) -> list[Command]:
    """Return the ways to install torch, in the order in which they are tried.

    On Linux the plain version is the CUDA build; the CPU build has a version of its own, which a
    mirror or a folder of wheels may have and PyPI has not. Elsewhere the plain version is the CPU
    build. What torch needs besides CUDA comes with the lock.

    Args:
        python: the environment's interpreter.
        build: ``cpu`` or ``cuda``.
        settings: indexes that the person named.
        system: as ``platform.system()`` says.
    """

    def install(version: str, index: str, *options: str) -> Command:
        where = ("--index-url", index) if index else ()
        # A build of the same version would otherwise pass for the one that is wanted.
        return pip_install(python, "--force-reinstall", *options, *where, f"torch=={version}")

    own, linux = settings.torch_index, system == "Linux"
    if build == "cuda":
        if linux:
            return [install(TORCH, own or settings.index)]
        return [install(TORCH, own or TORCH_CUDA_INDEX, "--no-deps")]
    if not linux:
        return [install(TORCH, own or settings.index, "--no-deps")]
    indexes = (own,) if own else (settings.index, TORCH_CPU_INDEX)
    return [install(f"{TORCH}+cpu", index, "--no-deps") for index in indexes]


def lock_commands(python: Path, lock: Path, settings: Settings, uv: str | None) -> list[Command]:
    """Return the ways to install a lock: uv where it is (it is faster), then pip.

    Both take only files whose hashes are in the lock, and nothing that it does not name. pip comes
    second because its configuration may name a mirror or a folder that uv does not know.
    """
    strict = ["--require-hashes", "--no-deps", "--no-build-isolation", "--only-binary=:all:"]
    strict += [f"--no-binary={package}" for package in SOURCE_ONLY]
    if settings.index:
        strict += ["--index-url", settings.index]
    strict += ["-r", str(lock)]
    with_pip = pip_install(python, *strict)
    return (
        [(uv, "pip", "install", "--python", str(python), *strict), with_pip] if uv else [with_pip]
    )
