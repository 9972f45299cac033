from __future__ import annotations

import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from core import doctor
from core.doctor import as_text, check_gpu, check_room, check_sqlite, check_versions
from core.home import CHECKOUT

FLOORS = {"jinja2": Requirement("jinja2>=3.1.6"), "torch": Requirement("torch>=2.6")}


def test_the_report_has_what_the_command_line_promises() -> None:
    found = doctor.report()
    assert {"device", "memory_bytes", "disk_free_bytes", "versions", "problems"} <= set(found)
    assert found["memory_bytes"] >= found["memory_free_bytes"] > 0
    assert found["versions"]["jinja2"]
    assert json.loads(json.dumps(found)) == found
    assert not [p for p in found["problems"] if p["code"] in ("doctor.missing", "doctor.torch")]


def test_a_package_that_is_missing_or_too_old_is_an_error_with_an_action() -> None:
    problems = check_versions(FLOORS, {"jinja2": "3.1.5", "torch": ""})
    assert [p.where for p in problems] == ["jinja2", "torch"]
    assert "needs >=3.1.6" in problems[0].what
    assert "not installed" in problems[1].what
    assert all(p.action and p.severity == "error" for p in problems)


def test_a_local_build_of_the_floor_is_no_problem() -> None:
    assert check_versions(FLOORS, {"jinja2": "3.1.6", "torch": "2.6.0+cpu"}) == []


@pytest.mark.parametrize(("version", "faulty"), [((3, 40, 1), True), ((3, 51, 3), False)])
def test_the_fault_of_old_sqlite_is_told_and_is_no_error(
    version: tuple[int, ...], faulty: bool
) -> None:
    problems = check_sqlite(version)
    assert [p.severity for p in problems] == (["info"] if faulty else [])


def test_little_disk_and_little_memory_are_warnings() -> None:
    assert [p.where for p in check_room(10**8, 10**8)] == ["disk", "memory"]
    assert check_room(10**12, 10**12) == []


def test_an_idle_gpu_is_told_with_what_to_do() -> None:
    (wrong_build,) = check_gpu("cpu", "cpu", sees_gpu=True)
    assert "STUDIO_TORCH=cuda" in wrong_build.action
    (old_driver,) = check_gpu("cpu", "13.0", sees_gpu=True)
    assert "driver" in old_driver.action
    assert check_gpu("cuda", "13.0", sees_gpu=True) == []
    assert check_gpu("cpu", "cpu", sees_gpu=False) == []


def test_a_torch_that_does_not_start_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ASK_TORCH", "raise SystemExit('broken library')")
    found = doctor.report()
    assert found["device"] == "cpu"
    assert "doctor.torch" in [p["code"] for p in found["problems"]]
    assert "PyTorch does not start" in as_text(found)


def test_the_doctor_itself_loads_no_torch() -> None:
    program = "import sys, core.doctor; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT).returncode == 0
