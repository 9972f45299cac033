"""A worker with a pipeline that only counts: `python fake_worker.py RUN_FOLDER`.

What it does is written as JSON in the name of the run: `steps`, `seconds` of each, and `at` a step
a `deed` (kill, exit, raise, memory, input, budget, disk, hang, noise); `once` does it only in the
first process. `last_step` plays the checkpoint.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.config import RunConfig
from core.errors import DataError, MemoryBudgetError, Problem, Stopped
from core.events import PhaseChanged, StepDone
from core.runs.worker import main


class CountingPipeline:
    def run(self, config, out, emit, should_stop):
        (out / "data").mkdir()
        (out / "data" / "manifest.json").write_text("{}", "utf-8")
        return self._count(config, out, emit, should_stop)

    def resume(self, out, emit, should_stop):
        config = RunConfig.load(out / "config.json")
        return self._count(config, out, emit, should_stop)

    def _count(self, config, out, emit, should_stop):
        told = json.loads(config.name or "{}")
        saved, starts = out / "last_step", out / "starts"
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        first = len(starts.read_text().split()) == 1
        step, steps = int(saved.read_text()) if saved.exists() else 0, told.get("steps", 5)
        emit(PhaseChanged("train"))
        while step < steps:
            time.sleep(told.get("seconds", 0.01))
            step += 1
            emit(StepDone(step, steps, 1.0 / step, 1e-3, 10.0, 1, 2, 0.01, 0.0))
            saved.write_text(str(step))
            if step == told.get("at") and (first or not told.get("once")):
                misbehave(told["deed"])
            if wish := should_stop():
                if told.get("raises"):
                    raise Stopped("The run was stopped.")
                return {"status": "paused" if wish == "pause" else "stopped", "steps": step}
        return {"status": "done", "steps": step}


def misbehave(deed):
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "exit":
        os._exit(7)
    elif deed == "raise":
        raise ZeroDivisionError("a secret path /home/teacher")
    elif deed == "memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] not enough memory: you tried")
    elif deed == "disk":
        raise OSError(28, "No space left on device")
    elif deed == "input":
        problem = Problem("row 7", "The answer is empty.", "Fill it in.")
        raise DataError("Nothing to learn.", where="class.csv", problems=[problem])
    elif deed == "budget":
        raise MemoryBudgetError("It does not fit.", minimum_budget_bytes=123456)
    elif deed == "hang":
        time.sleep(600)
    elif deed == "deaf":
        while True:  # lives and answers no wish
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], CountingPipeline))
