"""The stages of the set-up, in order, and which of them are still to do."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.home import CHECKOUT, home
from core.setup.commands import (
    TORCH,
    Command,
    Settings,
    lock_commands,
    torch_build,
    torch_commands,
)
from core.setup.stamp import file_key, venv_python

REQUIREMENTS = CHECKOUT / "requirements"


@dataclass(frozen=True)
class Stage:
    """One step of the set-up.

    Attributes:
        name: its name in the stamp.
        title: what the person reads while it runs.
        key: changes when the stage must be done again.
        commands: ways to do it, tried one after another until one succeeds.
        done: whether it is behind us already.
        packages: how many packages it fetches, for the progress line.
    """

    name: str
    title: str
    key: str
    commands: Sequence[Command]
    done: bool = False
    packages: int = 0


def plan_stages(
    venv: Path, settings: Settings, stamp: Mapping[str, str], *, with_tests: bool
) -> list[Stage]:
    """Return all stages of a whole environment, done or not."""
    python, uv = venv_python(venv), shutil.which("uv")
    build = torch_build(settings, stamp)

    def stage(name: str, title: str, key: str, ways: Sequence[Command], packages: int = 0) -> Stage:
        return Stage(name, title, key, ways, stamp.get(name) == key, packages)

    def locked(name: str, title: str) -> Stage:
        lock = REQUIREMENTS / f"{name}.txt"
        # A change of torch's build brings other versions of what torch needs: lock them again.
        key = f"{file_key(lock)} {build}"
        commands = lock_commands(python, lock, settings, uv)
        return stage(name, title, key, commands, count_packages(lock))

    title = f"Installing PyTorch {TORCH} ({build.upper()} build)"
    ways = torch_commands(python, build, settings, platform.system())
    prepare = (str(python), "-m", "core.models", "prepare", "starter")
    state = home()
    return [
        stage("torch", title, f"{TORCH} {build}", ways),
        locked("build", "Installing the build tools"),
        locked("lock", "Installing the locked requirements"),
        *([locked("test", "Installing what the tests need")] if with_tests else []),
        locked("starter", "Fetching the starter model"),
        # Its result lies in the state folder, of which there may be several, so that counts.
        Stage(
            "prepared",
            "Preparing the starter model",
            str(state),
            [prepare],
            done=starter_is_there(state),
        ),
    ]


def count_packages(lock: Path) -> int:
    """Return how many packages a lock names."""
    return len(re.findall(r"^[A-Za-z0-9]", lock.read_text("utf-8"), re.MULTILINE))


def starter_is_there(state: Path) -> bool:
    """Whether the starter stands in the state folder (a person may have emptied it)."""
    return (state / "models" / "starter" / "MANIFEST.json").is_file()
