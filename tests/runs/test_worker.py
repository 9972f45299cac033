"""The training child: what it leaves in the run folder, however it ends."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.config import RunConfig
from core.events import StepDone
from core.runs.folder import EXIT_BUSY, read_json, write_wish
from core.runs.lock import FileLock
from core.runs.worker import EventLog, Wishes, main

WORKER = Path(__file__).with_name("fake_worker.py")


def make_run(folder, **told):
    folder.mkdir(exist_ok=True)
    RunConfig(name=json.dumps(told)).save(folder / "config.json")
    return folder


def start(folder):
    return subprocess.Popen([sys.executable, str(WORKER), str(folder)])


def run_to_end(folder):
    return start(folder).wait(timeout=30)


def events(folder, kind=""):
    lines = (folder / "events.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if not kind or record["kind"] == kind]


def wait_for_step(folder, step):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        path = folder / "last_step"
        if path.exists() and int(path.read_text() or 0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no step was done")


def statuses(folder):
    return [record["status"] for record in events(folder, "status")]


def test_a_run_that_ends_well_leaves_its_result(tmp_path):
    folder = make_run(tmp_path / "run", steps=3)
    assert run_to_end(folder) == 0
    assert read_json(folder / "result.json") == {"status": "done", "steps": 3}
    assert statuses(folder) == ["running", "done"]
    assert [record["step"] for record in events(folder, "step")] == [1, 2, 3]
    assert not (folder / "error.json").exists()


@pytest.mark.parametrize(("wish", "status"), [("pause", "paused"), ("stop", "stopped")])
@pytest.mark.parametrize("raises", [False, True])
def test_a_wish_ends_the_run_and_the_next_start_goes_on(tmp_path, wish, status, raises):
    folder = make_run(tmp_path / "run", steps=60, seconds=0.02, raises=raises)
    child = start(folder)
    wait_for_step(folder, 2)
    write_wish(folder, wish)
    assert child.wait(timeout=10) == 130
    assert statuses(folder)[-1] == status
    done = len(events(folder, "step"))
    assert 2 <= done < 60
    write_wish(folder, "run")
    assert run_to_end(folder) == 0
    assert [record["step"] for record in events(folder, "step")] == list(range(1, 61))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for other processes")
def test_a_terminated_run_pauses_behind_a_checkpoint(tmp_path):
    folder = make_run(tmp_path / "run", steps=500, seconds=0.02)
    child = start(folder)
    wait_for_step(folder, 1)
    child.terminate()
    assert child.wait(timeout=10) == 130
    assert statuses(folder) == ["running", "paused"]


def test_a_wish_to_stop_before_the_start_starts_nothing(tmp_path):
    folder = make_run(tmp_path / "run")
    write_wish(folder, "stop")
    assert run_to_end(folder) == 130
    assert statuses(folder) == ["running", "stopped"]
    assert not (folder / "starts").exists()


def test_bad_input_is_told_with_every_finding(tmp_path):
    folder = make_run(tmp_path / "run", at=1, deed="input")
    assert run_to_end(folder) == 2
    failed = events(folder, "failed")[0]
    assert (failed["what"], failed["where"]) == ("Nothing to learn.", "class.csv")
    problems = read_json(folder / "error.json")["problems"]
    assert [problem["where"] for problem in problems] == ["class.csv", "row 7"]


def test_a_budget_that_is_too_small_is_told_with_the_smallest(tmp_path):
    folder = make_run(tmp_path / "run", at=1, deed="budget")
    assert run_to_end(folder) == 3
    document = read_json(folder / "error.json")
    assert (document["feasible"], document["minimum_budget_bytes"]) == (False, 123456)


@pytest.mark.parametrize(
    ("deed", "words", "status"),
    [("memory", "ran out of memory", "failed"), ("disk", "not enough space", "paused")],
)
def test_exhausted_resources_are_told_in_plain_words(tmp_path, deed, words, status):
    folder = make_run(tmp_path / "run", at=2, deed=deed)
    assert run_to_end(folder) == 4
    assert words in events(folder, "failed")[0]["what"]
    assert statuses(folder)[-1] == status


def test_an_unexpected_error_is_a_number_and_the_log_has_the_rest(tmp_path):
    folder = make_run(tmp_path / "run", at=1, deed="raise")
    assert run_to_end(folder) == 4
    failed = events(folder, "failed")[0]
    number = failed["what"].partition("(error ")[2].partition(")")[0]
    log = (folder / "worker.log").read_text("utf-8")
    assert f"error {number}\n" in log
    assert "ZeroDivisionError: a secret path" in log
    assert "secret" not in (folder / "events.jsonl").read_text("utf-8")
    assert "secret" not in (folder / "error.json").read_text("utf-8")


def test_a_second_worker_on_the_same_folder_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("core.runs.worker._LOCK_SECONDS", 0.1)
    folder = make_run(tmp_path / "run")
    assert main([str(tmp_path / "missing")]) == 2
    lock = FileLock(folder / "worker.lock")
    assert lock.acquire()
    # In a process of its own: a lock does not shut out the process that holds it.
    code = (
        "import sys; from pathlib import Path; import core.runs.worker as w;"
        "w._LOCK_SECONDS = 0.1; sys.exit(w.main([sys.argv[1]]))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=False, cwd=WORKER.parents[2]
    )
    assert child.returncode == EXIT_BUSY
    assert not (folder / "events.jsonl").exists()
    lock.release()


def test_a_half_written_line_is_ended_before_the_next(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"kind": "note", "te')
    log = EventLog(tmp_path)
    log.emit(StepDone(1, 2, float("nan"), 1e-3, 1.0, 1, 1, 1.0, float("inf")))
    log.close()
    torn, whole = (tmp_path / "events.jsonl").read_text("utf-8").splitlines()
    record = json.loads(whole)
    assert torn == '{"kind": "note", "te'
    assert (record["loss"], record["seconds_left"], record["step"]) == (None, None, 1)


def test_wishes_are_read_again_but_not_at_every_step(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr("core.runs.worker.signal.signal", lambda number, handler: None)
    monkeypatch.setattr("core.runs.worker.read_wish", lambda folder: reads.append(1) or "run")
    wishes = Wishes(tmp_path, lambda: None)
    assert {wishes() for _ in range(1000)} == {""}
    assert len(reads) < 20
