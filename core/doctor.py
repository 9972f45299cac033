"""What this computer offers the studio, and what is missing and how to get it.

Nothing heavy is loaded here: torch is asked in a child process, so that a broken one is a finding
and not a crash.
"""

from __future__ import annotations

import json
import platform
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from core.errors import Problem, StudioError
from core.home import CHECKOUT, home
from core.models import resolve
from core.setup.commands import sees_nvidia

GB = 10**9
# One run of the starter model with its checkpoints and a merged export stays under this.
DISK_FLOOR = 2 * GB
MEMORY_FLOOR = 2 * GB

REPAIR = "Delete the folder .venv and run: python launch.py"

SQLITE_WAL_FLOOR = (3, 51, 3)

ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
found = torch.cuda.get_device_properties(0) if cuda else None
print(json.dumps({
    "device": "cuda" if cuda else "cpu",
    "name": found.name if cuda else "",
    "memory_bytes": found.total_memory if cuda else 0,
    "build": torch.version.cuda or "cpu",
}))
"""


def report() -> dict[str, Any]:
    """Return the state of the environment.

    Returns:
        ``device`` (``cpu`` or ``cuda``) and ``device_name``; ``memory_bytes`` and
        ``memory_free_bytes`` of this computer, ``device_memory_bytes`` of the GPU (0 without one);
        ``disk_free_bytes`` where the state folder ``home`` is; ``versions`` beside their
        ``floors``; ``problems``, each as :meth:`core.errors.Problem.to_json`.
    """
    torch, problems = _ask_torch()
    requirements = _requirements()
    versions = _versions(requirements)
    memory, disk_free = psutil.virtual_memory(), shutil.disk_usage(home()).free
    problems += check_versions(requirements, versions)
    problems += check_sqlite(sqlite3.sqlite_version_info)
    problems += check_room(disk_free, memory.available)
    problems += _check_starter()
    return {
        "device": torch["device"],
        "device_name": torch["name"] or platform.processor() or platform.machine(),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "device_memory_bytes": torch["memory_bytes"],
        "disk_free_bytes": disk_free,
        "home": str(home()),
        "platform": platform.platform(),
        "versions": versions,
        "floors": {name: str(wanted.specifier) for name, wanted in requirements.items()},
        "problems": [problem.to_json() for problem in problems],
    }


def _requirements() -> dict[str, Requirement]:
    """Return what ``pyproject.toml`` asks for on this platform, by name."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    return {r.name: r for r in wanted if r.marker is None or r.marker.evaluate()}


def _versions(requirements: Mapping[str, Requirement]) -> dict[str, str]:
    """Return installed versions, "" for what is missing; Python and SQLite among them."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in requirements:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def check_versions(
    requirements: Mapping[str, Requirement], versions: Mapping[str, str]
) -> list[Problem]:
    """Return a problem for every package that is missing or under its floor."""
    problems = []
    for name, wanted in requirements.items():
        installed = versions.get(name, "")
        values = (("package", name), ("version", installed), ("floor", str(wanted.specifier)))
        if not installed:
            what, code = f"The package {name} is not installed.", "doctor.missing"
        elif not wanted.specifier.contains(installed, prereleases=True):
            what = f"{name} is {installed}; the studio needs {wanted.specifier}."
            code = "doctor.floor"
        else:
            continue
        problems.append(Problem(name, what, REPAIR, "error", code, values))
    return problems


def check_sqlite(found: tuple[int, ...]) -> list[Problem]:
    """Say so where SQLite has the fault of its write-ahead log (fixed in 3.51.3)."""
    if found >= SQLITE_WAL_FLOOR:
        return []
    text = ".".join(map(str, found))
    return [
        Problem(
            "sqlite",
            f"SQLite {text} can damage a file in its write-ahead mode (fixed in 3.51.3).",
            "Nothing: the studio uses the slower, safe journal with it.",
            "info",
            "doctor.sqlite",
            (("version", text),),
        )
    ]


def check_room(disk_free: int, memory_free: int) -> list[Problem]:
    """Return warnings for little disk space or memory (bytes)."""
    problems = []
    if disk_free < DISK_FLOOR:
        what = f"Only {disk_free / GB:.1f} GB are free where runs are kept."
        action = "Free some space, or set STUDIO_HOME to a folder on a larger disk."
        problems.append(Problem("disk", what, action, "warning", "doctor.disk"))
    if memory_free < MEMORY_FLOOR:
        what = f"Only {memory_free / GB:.1f} GB of memory are free."
        action = "Close other programs before a training."
        problems.append(Problem("memory", what, action, "warning", "doctor.memory"))
    return problems


def _check_starter() -> list[Problem]:
    try:
        ready = resolve("starter").ready
    except StudioError as error:
        return [error.problem]
    if ready:
        return []
    what = "The starter model is here but not yet converted."
    action = "Nothing: it is converted when it is first used (under a minute)."
    return [Problem("starter", what, action, "info", "doctor.starter")]


def _ask_torch() -> tuple[dict[str, Any], list[Problem]]:
    """Return what torch computes on, and what is the matter with it."""
    nothing = {"device": "cpu", "name": "", "memory_bytes": 0, "build": ""}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=120
        )
        found = {**nothing, **json.loads(answer.stdout)}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        what = "PyTorch does not start."
        return nothing, [Problem("torch", what, REPAIR, "error", "doctor.torch")]
    return found, check_gpu(found["device"], found["build"], sees_gpu=sees_nvidia())


def check_gpu(device: str, build: str, *, sees_gpu: bool) -> list[Problem]:
    """Say so where there is an NVIDIA GPU that torch does not use.

    Args:
        device: what torch computes on.
        build: ``cpu``, or the CUDA version that torch was built for.
        sees_gpu: whether the driver has a GPU.
    """
    if device == "cuda" or not sees_gpu:
        return []
    if build == "cpu":
        what, action = (
            "There is an NVIDIA GPU, but PyTorch is the build for processors.",
            "Set STUDIO_TORCH=cuda and run: python launch.py doctor",
        )
    else:
        what = f"There is an NVIDIA GPU, but PyTorch (CUDA {build}) cannot use it."
        action = "Update the NVIDIA driver; until then trainings run on the processor."
    return [Problem("gpu", what, action, "warning", "doctor.gpu")]


def as_text(found: Mapping[str, Any]) -> str:
    """Return a report for people, one finding a line."""
    device = f"{found['device']}: {found['device_name']}"
    if found["device"] == "cuda":
        size = f"{found['device_memory_bytes'] / GB:.1f} GB"
        device = f"cpu; with --device cuda (not yet tried): {found['device_name']} ({size})"
    names = ", ".join(f"{k} {v or 'missing'}" for k, v in sorted(found["versions"].items()))
    lines = [
        f"computes on  {device}",
        f"memory       {found['memory_free_bytes'] / GB:.1f} GB free of "
        f"{found['memory_bytes'] / GB:.1f} GB",
        f"disk         {found['disk_free_bytes'] / GB:.1f} GB free at {Path(found['home'])}",
        f"versions     {names}",
    ]
    if not found["problems"]:
        return "\n".join([*lines, "Everything that is needed is here."])
    for problem in found["problems"]:
        mark = problem["severity"].upper()
        lines.append(f"{mark}: {problem['where']}: {problem['what']} {problem['action']}".rstrip())
    return "\n".join(lines)
