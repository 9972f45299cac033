"""The queue and its children: nothing lost, nothing run twice, whatever is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core.config import RunConfig
from core.errors import ConfigError
from core.runs.lock import process_identity
from core.runs.runner import Patience, Runner
from core.runs.store import StoreError

CHECKOUT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("fake_worker.py")
QUICK = Patience(tick=0.03, stop=1.0, leave=1.0, silence=1.5, quiet_phase=5.0)


def command(folder):
    return [sys.executable, str(WORKER), str(folder)]


@contextlib.contextmanager
def studio(home, **options):
    home.mkdir(exist_ok=True)
    runner = Runner.open(home, **{"command": command, "patience": QUICK, **options})
    runner.start()
    try:
        yield runner
    finally:
        runner.close()
        for run in runner.store.runs("running"):
            if run.pid and process_identity(run.pid) == run.process:
                os.kill(run.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        runner.store.close()


@pytest.fixture
def runner(tmp_path):
    with studio(tmp_path / "home") as opened:
        yield opened


def submit(runner, key="", **told):
    return runner.submit(RunConfig(name=json.dumps(told)), key=key)


def wait(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def wait_for(runner, run_id, *statuses):
    wait(lambda: runner.store.run(run_id).status in statuses)


def wait_for_step(runner, run_id, step):
    wait(lambda: (runner.store.last_event(run_id, "step") or {}).get("step", 0) >= step)


def steps(runner, run_id):
    return [e["step"] for e in runner.store.events_after(run_id, kinds=["step"])]


def starts(runner, run_id):
    return len((runner.store.run(run_id).folder / "starts").read_text().split())


def told(runner, run_id):
    return [e["status"] for e in runner.store.events_after(run_id, kinds=["status"])]


def test_runs_go_one_after_the_other_in_the_order_of_submission(runner):
    ids = [submit(runner, steps=3) for _ in range(3)]
    for run_id in ids:
        wait_for(runner, run_id, "done")
    order = []
    for run_id in ids:
        folder = runner.store.run(run_id).folder
        order += [
            (folder / "starts").stat().st_mtime_ns,
            (folder / "result.json").stat().st_mtime_ns,
        ]
    assert order == sorted(order)
    assert [steps(runner, run_id) for run_id in ids] == [[1, 2, 3]] * 3
    assert runner.store.run(ids[0]).result == {"status": "done", "steps": 3}
    assert told(runner, ids[0]) == ["queued", "running", "done"]


def test_a_double_click_is_one_run(runner):
    ids = []
    threads = [
        threading.Thread(target=lambda: ids.append(submit(runner, key="click", steps=2)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    wait_for(runner, ids[0], "done")
    assert starts(runner, ids[0]) == 1
    assert len(list(runner.store.runs_folder.iterdir())) == 1


def test_pause_and_resume_go_on_where_they_were(runner):
    run_id = submit(runner, steps=60, seconds=0.02)
    wait_for_step(runner, run_id, 2)
    runner.want(run_id, "pause")
    wait_for(runner, run_id, "paused")
    assert runner.store.run(run_id).pid == 0
    at = steps(runner, run_id)[-1]
    assert at < 60
    runner.want(run_id, "run")
    wait_for(runner, run_id, "done")
    assert steps(runner, run_id) == list(range(1, 61))
    assert told(runner, run_id) == ["queued", "running", "paused", "queued", "running", "done"]


def test_stop_frees_the_place_for_the_next(runner):
    first, second = submit(runner, steps=900, seconds=0.02), submit(runner, steps=1)
    wait_for_step(runner, first, 1)
    runner.want(first, "stop")
    runner.want(first, "stop")  # pressed twice
    wait_for(runner, first, "stopped")
    wait_for(runner, second, "done")
    assert told(runner, first).count("stopped") == 1


def test_a_child_that_does_not_listen_is_ended_by_force(runner):
    run_id = submit(runner, steps=9, at=1, deed="deaf")
    wait_for_step(runner, run_id, 1)
    pid = runner.store.run(run_id).pid
    runner.want(run_id, "stop")
    wait_for(runner, run_id, "stopped")
    assert process_identity(pid) == ""


def test_queued_runs_can_be_taken_out_and_put_back(tmp_path):
    with studio(tmp_path / "home", parallel=0) as runner:
        first, second = submit(runner, steps=1), submit(runner, steps=1)
        runner.want(first, "pause")
        assert runner.store.run(first).status == "paused"
        runner.want(first, "run")
        assert runner.store.next_queued().id == second
        runner.want(second, "stop")
        assert runner.store.next_queued().id == first
        with pytest.raises(ConfigError, match="no wish"):
            runner.want(first, "fly")
        with pytest.raises(StoreError, match="no such run"):
            runner.want("nothing", "stop")


def test_a_finished_run_stays_finished(runner):
    run_id = submit(runner, steps=2)
    wait_for(runner, run_id, "done")
    for wish in ("run", "pause", "stop"):
        runner.want(run_id, wish)
    time.sleep(0.2)
    assert runner.store.run(run_id).status == "done"
    assert starts(runner, run_id) == 1


def test_a_killed_child_means_that_memory_ran_out_and_resume_goes_on(runner):
    run_id = submit(runner, steps=6, at=3, deed="kill", once=True)
    wait_for(runner, run_id, "failed")
    failed = runner.store.last_event(run_id, "failed")
    assert failed["what"] == "The computer ran out of memory."
    assert "Resume" in failed["action"]
    runner.want(run_id, "run")
    wait_for(runner, run_id, "done")
    assert steps(runner, run_id) == [1, 2, 3, 4, 5, 6]


def test_a_child_that_is_gone_without_a_word_is_not_done(runner):
    run_id = submit(runner, steps=3, at=3, deed="exit")
    wait_for(runner, run_id, "failed")
    assert "without saying why" in runner.store.last_event(run_id, "failed")["what"]
    assert runner.store.run(run_id).result is None


def test_a_hanging_child_is_ended_and_goes_on_by_itself(runner):
    run_id = submit(runner, steps=4, at=2, deed="hang", once=True)
    wait_for(runner, run_id, "done")
    assert steps(runner, run_id) == [1, 2, 3, 4]
    assert "interrupted" in runner.store.last_event(run_id, "note")["text"]


def test_a_child_that_always_hangs_fails_after_three_starts(runner):
    runner._patience = Patience(tick=0.03, silence=0.3, quiet_phase=5.0)
    bad = submit(runner, steps=1, at=1, deed="hang")
    # The fake saves the step before it hangs: go back to before it, so that it hangs again.
    saved = runner.store.run(bad).folder / "last_step"
    for number in (1, 2, 3):
        wait(
            lambda number=number: (
                (saved.parent / "starts").exists() and starts(runner, bad) == number
            )
        )
        wait(saved.exists)
        saved.unlink()
    wait_for(runner, bad, "failed")
    assert "interrupted 3 times" in runner.store.last_event(bad, "failed")["what"]


def test_a_suspended_computer_is_no_hanging_child(runner):
    run_id = submit(runner, steps=60, seconds=0.02)
    wait_for_step(runner, run_id, 1)
    # As if this process, and the child's signs of life, had slept for an hour.
    runner._children[run_id].beat_at -= 3600
    runner._ticked_at -= 3600
    wait_for(runner, run_id, "done")
    assert starts(runner, run_id) == 1


def test_a_worker_that_cannot_be_started_is_a_sentence(tmp_path):
    with studio(tmp_path / "home", command=lambda folder: ["/no/such/program"]) as runner:
        run_id = submit(runner, steps=1)
        wait_for(runner, run_id, "failed")
        assert "could not be started" in runner.store.last_event(run_id, "failed")["what"]


def test_a_run_in_use_is_not_deleted_and_another_is(runner):
    active, waiting = submit(runner, steps=900, seconds=0.02), submit(runner, steps=1)
    wait_for_step(runner, active, 1)
    for run_id in (active, waiting):
        with pytest.raises(StoreError, match="not finished"):
            runner.delete(run_id)
    runner.want(waiting, "stop")
    folder = runner.store.run(waiting).folder
    runner.delete(waiting)
    assert not folder.exists()
    assert [run.id for run in runner.store.runs()] == [active]


def test_a_deletion_that_was_killed_is_finished_at_the_next_start(tmp_path):
    half = tmp_path / "home" / "runs" / ".deleted-old"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}", "utf-8")
    with studio(tmp_path / "home"):
        assert not half.exists()


SERVER = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "tests" / "runs")]
from test_runner import QUICK, command, submit
from core.runs.runner import Runner
runner = Runner.open(Path(sys.argv[2]), command=command, patience=QUICK, address="http://x:1")
runner.start()
for n in range(4):
    submit(runner, steps=40 if n == 0 else 2, seconds=0.03)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path):
    """Another studio in a process of its own, with one run running and three queued."""
    (tmp_path / "home").mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(CHECKOUT), str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_killed_studio_loses_no_run_and_runs_none_twice(tmp_path, server):
    starts_file = "home/runs/*/starts"
    wait(lambda: any(tmp_path.glob(starts_file)))
    server.kill()
    server.wait()
    with studio(tmp_path / "home") as runner:
        ids = [run.id for run in runner.store.runs()]
        assert len(ids) == 4
        assert runner.store.run(ids[0]).status == "running"  # adopted, not started again
        for run_id in ids:
            wait_for(runner, run_id, "done")
        assert [starts(runner, run_id) for run_id in ids] == [1, 1, 1, 1]
        assert steps(runner, ids[0]) == list(range(1, 41))
        ends = [(runner.store.run(i).folder / "result.json").stat().st_mtime_ns for i in ids]
        assert ends == sorted(ends)


def test_studio_and_child_killed_together_go_on_once(tmp_path, server):
    wait(lambda: any(tmp_path.glob("home/runs/*/last_step")))
    server.kill()
    server.wait()
    worker = int(next(tmp_path.glob("home/runs/*/starts")).read_text())
    os.kill(worker, signal.SIGKILL)
    with studio(tmp_path / "home") as runner:
        first = runner.store.runs()[0].id
        wait_for(runner, first, "done")
        assert steps(runner, first) == list(range(1, 41))
        assert starts(runner, first) == 2
        assert runner.store.last_event(first, "note")["code"] == "run.interrupted"


def test_a_second_studio_refuses_and_names_the_first(tmp_path, server):
    with pytest.raises(StoreError, match="open already at http://x:1") as caught:
        Runner.open(tmp_path / "home")
    assert str(server.pid) in str(caught.value)
    server.kill()
    server.wait()
    with studio(tmp_path / "home") as runner:  # the lock of a killed one does not block
        assert len(runner.store.runs()) == 4


def test_a_child_whose_number_was_not_written_down_is_adopted(tmp_path):
    (tmp_path / "home").mkdir()
    first = Runner.open(tmp_path / "home", command=command, patience=QUICK)
    first.start()
    run_id = submit(first, steps=60, seconds=0.03)
    wait_for_step(first, run_id, 1)
    first.close()
    first.store.update(run_id, pid=0, process="")
    first.store.close()
    with studio(tmp_path / "home") as second:
        assert second.store.run(run_id).pid > 0
        wait_for(second, run_id, "done")
        assert starts(second, run_id) == 1


def test_a_stranger_with_the_same_number_is_left_alone(tmp_path):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with studio(tmp_path / "home", parallel=0) as runner:
            run_id = submit(runner, steps=2)
            runner.store.update(
                run_id, status="running", pid=stranger.pid, process="other", attempts=1
            )
            runner.close()
            runner._parallel = 1
            runner.start()
            wait_for(runner, run_id, "done")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_jumping_clock_changes_nothing(runner, monkeypatch):
    run_id = submit(runner, steps=20, seconds=0.03)
    wait_for_step(runner, run_id, 2)
    real = time.time
    for jump in (-86400, 10 * 365 * 86400):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        time.sleep(0.1)
    wait_for(runner, run_id, "done")
    assert starts(runner, run_id) == 1


def test_the_runner_loads_no_torch():
    code = (
        "import sys, core.runs.runner, core.runs.service;"
        "assert not {'torch', 'transformers', 'numpy', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
