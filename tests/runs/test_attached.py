"""A run in the foreground: its outcome as exit code and document, Ctrl-C, and a killed parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.config import RunConfig
from core.errors import ConfigError
from core.runs.attached import prepare_folder, run_attached
from core.runs.folder import read_json
from core.runs.lock import FileLock

CHECKOUT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("fake_worker.py")

PARENT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from core.runs.attached import run_attached
folder = Path(sys.argv[3])
say = lambda text: print(text, file=sys.stderr, flush=True)
command = [sys.executable, sys.argv[2], str(folder)]
code, document = run_attached(folder, lambda event: None, say, command)
print(json.dumps(document))
sys.exit(code)
"""


def make_run(folder, **told):
    prepare_folder(folder, RunConfig(name=json.dumps(told)))
    return folder


def attached(folder):
    shown = []
    code, document = run_attached(
        folder, shown.append, lambda text: None, [sys.executable, str(WORKER), str(folder)]
    )
    return code, document, shown


def parent(folder):
    arguments = [sys.executable, "-c", PARENT, str(CHECKOUT), str(WORKER), str(folder)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_step(folder, step):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        path = folder / "last_step"
        if path.exists() and int(path.read_text() or 0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no step was done")


def test_every_event_is_shown_and_the_result_is_the_document(tmp_path):
    code, document, shown = attached(make_run(tmp_path / "run", steps=3))
    assert (code, document) == (0, {"status": "done", "steps": 3})
    assert [e["step"] for e in shown if e["kind"] == "step"] == [1, 2, 3]
    assert shown[-1] == {"kind": "status", "status": "done"}


@pytest.mark.parametrize(
    ("deed", "code", "words"),
    [
        ("input", 2, "Nothing to learn."),
        ("budget", 3, "It does not fit."),
        ("raise", 4, "Something unexpected"),
        ("memory", 4, "ran out of memory"),
        ("exit", 4, "without saying why"),
    ],
)
def test_a_failure_is_a_code_and_a_document(tmp_path, deed, code, words):
    got, document, _ = attached(make_run(tmp_path / "run", at=1, deed=deed))
    assert got == code
    assert words in document["problems"][0]["what"]
    if code == 3:
        assert (document["feasible"], document["minimum_budget_bytes"]) == (False, 123456)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_child_is_told_as_memory_and_can_go_on(tmp_path):
    folder = make_run(tmp_path / "run", steps=5, at=2, deed="kill", once=True)
    code, document, _ = attached(folder)
    assert (code, document["problems"][0]["code"]) == (4, "memory.exhausted")
    code, document, shown = attached(folder)
    assert (code, document["steps"]) == (0, 5)
    assert [e["step"] for e in shown if e["kind"] == "step"] == [3, 4, 5]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for other processes")
def test_ctrl_c_stops_behind_a_checkpoint_and_resume_goes_on(tmp_path):
    folder = make_run(tmp_path / "run", steps=80, seconds=0.02)
    child = parent(folder)
    wait_for_step(folder, 2)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert json.loads(out)["status"] == "stopped"
    assert "press Ctrl-C again" in err
    code, document, _ = attached(folder)
    assert (code, document["steps"]) == (0, 80)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for other processes")
def test_a_second_ctrl_c_ends_a_child_that_does_not_listen(tmp_path):
    folder = make_run(tmp_path / "run", at=1, deed="deaf")
    child = parent(folder)
    wait_for_step(folder, 1)
    child.send_signal(signal.SIGINT)
    child.stderr.readline()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 130


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_child_ends_with_a_killed_parent_and_the_folder_is_free(tmp_path):
    folder = make_run(tmp_path / "run", steps=900, seconds=0.02)
    child = parent(folder)
    wait_for_step(folder, 2)
    worker = int((folder / "starts").read_text())
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    deadline = time.monotonic() + 5
    while FileLock(folder / "worker.lock").held_by_other() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not FileLock(folder / "worker.lock").held_by_other()
    assert worker != child.pid
    assert read_json(folder / "result.json") is None


def test_a_run_in_work_is_not_worked_on_twice(tmp_path):
    folder = make_run(tmp_path / "run", steps=900, seconds=0.02)
    child = parent(folder)
    wait_for_step(folder, 1)
    code, document, _ = attached(folder)
    assert (code, document["problems"][0]["code"]) == (2, "run.busy")
    child.kill()
    child.communicate()


def test_a_used_folder_is_refused_and_a_failed_start_is_not(tmp_path):
    folder = make_run(tmp_path / "run", at=1, deed="input")
    assert attached(folder)[0] == 2
    make_run(folder, steps=2)
    code, _, shown = attached(folder)
    assert code == 0
    assert shown[0] == {"kind": "status", "status": "running"}
    with pytest.raises(ConfigError, match="holds a run already"):
        make_run(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").write_text("x", "utf-8")
    with pytest.raises(ConfigError, match="not empty"):
        make_run(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.docx").exists()
