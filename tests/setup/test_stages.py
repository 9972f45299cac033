from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from core.home import CHECKOUT
from core.setup.commands import Settings
from core.setup.stages import REQUIREMENTS, count_packages, plan_stages

VENV = Path("venv")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    (tmp_path / "models" / "starter").mkdir(parents=True)
    (tmp_path / "models" / "starter" / "MANIFEST.json").touch()
    return tmp_path


def done(*, with_tests: bool = False, build: str = "cpu") -> dict[str, str]:
    stages = plan_stages(VENV, Settings(torch=build), {}, with_tests=with_tests)
    return {stage.name: stage.key for stage in stages}


def to_do(stamp: dict[str, str], *, with_tests: bool = False, build: str = "auto") -> list[str]:
    stages = plan_stages(VENV, Settings(torch=build), stamp, with_tests=with_tests)
    return [stage.name for stage in stages if not stage.done]


def test_a_whole_environment_needs_nothing() -> None:
    assert to_do(done()) == []


def test_a_new_environment_needs_every_stage_and_torch_comes_first() -> None:
    assert to_do({}, build="cpu") == ["torch", "build", "lock", "starter"]


def test_an_interrupted_stage_is_done_again_and_no_other() -> None:
    stamp = done()
    del stamp["lock"]
    assert to_do(stamp) == ["lock"]


def test_the_tests_need_one_stage_more() -> None:
    assert to_do(done(), with_tests=True) == ["test"]


def test_another_build_of_torch_locks_again_what_torch_brought() -> None:
    assert {"torch", "lock"} <= set(to_do(done(), build="cuda"))


def test_an_emptied_state_folder_prepares_the_starter_again(state: Path) -> None:
    stamp = done()
    shutil.rmtree(state / "models")
    assert to_do(stamp) == ["prepared"]


def test_another_state_folder_prepares_the_starter_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = done()
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "other"))
    assert to_do(stamp) == ["prepared"]


def locked(name: str) -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for line in (REQUIREMENTS / name).read_text("utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line):
            versions.setdefault(match[1], []).append(match[2])
    return versions


def test_the_locks_satisfy_the_floors_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    extra = project["optional-dependencies"]["dev"]
    wanted = [("lock.txt", project["dependencies"]), ("test.txt", project["dependencies"] + extra)]
    for name, requirements in wanted:
        versions = locked(name)
        for text in requirements:
            requirement = Requirement(text)
            if requirement.name == "torch":
                continue
            found = versions[requirement.name]
            assert all(Version(version) in requirement.specifier for version in found), text


def test_the_locks_leave_torch_and_its_cuda_packages_alone() -> None:
    for name in ("lock.txt", "test.txt", "build.txt"):
        names = set(locked(name))
        assert "torch" not in names
        assert not [n for n in names if n.startswith(("nvidia-", "cuda-", "triton"))]


def test_what_the_tests_add_agrees_with_what_the_studio_uses() -> None:
    used, tests = locked("lock.txt"), locked("test.txt")
    assert {name: tests.get(name) for name in used} == used


def test_every_locked_package_has_hashes_and_no_index_is_named() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        if path.name == "overrides.txt":
            continue
        text = path.read_text("utf-8")
        entries = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n")[2])
        assert len(entries) == count_packages(path)
        assert all("--hash=sha256:" in entry for entry in entries), path.name
        assert "://" not in text
        assert "--index-url" not in text
