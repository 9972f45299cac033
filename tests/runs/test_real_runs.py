"""Real runs of a tiny model through the command line: killed, paused and resumed, same adapter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.runs.folder import read_events_from, read_json, write_wish

CHECKOUT = Path(__file__).resolve().parents[2]
STEPS = 64  # so many that a wish is heard before the last one
SETTINGS = (
    *("--steps", str(STEPS), "--checkpoint-every", "4", "--eval-every", "16"),
    *("--calibration-tokens", "64", "--max-length", "64", "--tokens-per-step", "64"),
    *("--quiz-share", "0", "--seed", "5", "--json"),
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What is the name of number {n}?,The name is {n * 7}." for n in range(16)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return path


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "core.cli", *map(str, arguments)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def outcome(child):
    out, err = child.communicate(timeout=120)
    assert "Traceback" not in err
    return child.returncode, json.loads(out)


def train(tiny, csv, out):
    model = tiny("llama")
    return command("train", "--model", model, "--data", csv, "--out", out, *SETTINGS)


def events(folder):
    return read_events_from(folder / "events.jsonl", 0, 0)[0]


def wait_for(folder, condition):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(condition(event) for event in events(folder)):
            return
        time.sleep(0.002)
    raise AssertionError("the run did not come so far")


@pytest.fixture(scope="module")
def undisturbed(tiny, csv, tmp_path_factory):
    """Result of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, result = outcome(train(tiny, csv, folder))
    assert code == 0
    assert result["status"] == "done"
    assert result == read_json(folder / "result.json")
    return result


@pytest.mark.slow
def test_the_result_has_what_the_contract_names(undisturbed):
    names = {"run", "status", "steps", "predicted_peak_bytes", "measured_peak_bytes"}
    names |= {"budget_bytes", "tokens_per_second", "seconds", "quiz", "adapter_sha256"}
    assert names <= set(undisturbed)
    assert undisturbed["steps"] == STEPS
    assert undisturbed["seconds"]["total"] > 0
    assert undisturbed["measured_peak_bytes"] > 100_000_000


def reached(kind, **values):
    return lambda event: event["kind"] == kind and all(event[k] == v for k, v in values.items())


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(reached("phase", phase="data"), id="reading"),
        pytest.param(reached("data"), id="frozen"),
        pytest.param(reached("plan"), id="planned"),
        pytest.param(reached("step", step=1), id="before the first checkpoint"),
        pytest.param(reached("checkpoint", step=4), id="after a checkpoint"),
        pytest.param(reached("step", step=STEPS), id="last step"),
    ],
)
def test_a_run_killed_at_any_moment_gives_the_same_adapter(
    tiny, csv, tmp_path, undisturbed, moment
):
    folder = tmp_path / "run"
    child = train(tiny, csv, folder)
    wait_for(folder, moment)
    os.kill(read_json(folder / "worker.lock")["pid"], signal.SIGKILL)
    code, document = outcome(child)
    assert (code, document["problems"][0]["code"]) == (4, "memory.exhausted")
    code, result = outcome(command("resume", folder, "--json"))
    assert code == 0
    assert result["adapter_sha256"] == undisturbed["adapter_sha256"]
    code, again = outcome(command("resume", folder, "--json"))
    assert (code, again) == (0, result)
    done = [event["step"] for event in events(folder) if event["kind"] == "step"]
    assert max(done) == STEPS
    assert set(range(1, STEPS + 1)) <= set(done)


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_a_run_that_waits_gives_the_same_adapter(tiny, csv, tmp_path, undisturbed, wish):
    folder = tmp_path / "run"
    child = train(tiny, csv, folder)
    wait_for(folder, reached("step", step=2))
    write_wish(folder, wish)
    code, document = outcome(child)
    assert (code, document["status"]) == (130, "stopped")
    done = [event["step"] for event in events(folder) if event["kind"] == "step"]
    assert 2 <= max(done) < STEPS
    code, result = outcome(command("resume", folder, "--json"))
    assert code == 0
    assert result["adapter_sha256"] == undisturbed["adapter_sha256"]
    done = [event["step"] for event in events(folder) if event["kind"] == "step"]
    assert done == list(range(1, STEPS + 1))  # nothing was done twice


@pytest.mark.slow
def test_a_budget_that_is_too_small_trains_nothing(tiny, csv, tmp_path):
    model, folder = tiny("llama"), tmp_path / "run"
    arguments = ("--model", model, "--data", csv, "--budget", "10MB", *SETTINGS)
    code, planned = outcome(command("plan", *arguments))
    assert (code, planned["feasible"]) == (3, False)
    code, document = outcome(command("train", *arguments, "--out", folder))
    assert (code, document["feasible"]) == (3, False)
    assert document["minimum_budget_bytes"] > 10_000_000
    assert not (folder / "checkpoints").exists()
