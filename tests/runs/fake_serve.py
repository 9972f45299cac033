"""A helper process whose operations only count: `python fake_serve.py LOG`."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.errors import MemoryBudgetError
from core.events import PhaseChanged
from core.runs.serve import main

running = []


def count(request):
    """Stream numbers; tell how many requests worked at the same time."""
    running.append(request.id)
    together = 0
    for number in range(request.arguments.get("to", 3)):
        sys.stdout.write("a library prints this\n")
        time.sleep(request.arguments.get("seconds", 0.0))
        together = max(together, len(running))
        if request.cancelled.is_set():
            break
        request.text(str(number))
    running.remove(request.id)
    return {"together": together, "stopped": request.cancelled.is_set()}


def plan(request):
    for tenth in range(request.arguments.get("tenths", 10)):
        time.sleep(0.02)
        request.emit(PhaseChanged("profile", tenth / 10))
    return {"feasible": True}


def fail(request):
    if request.arguments["how"] == "budget":
        raise MemoryBudgetError("It does not fit.", minimum_budget_bytes=99)
    if request.arguments["how"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if request.arguments["how"] == "exit":
        os._exit(3)
    raise KeyError("/home/teacher/secret")


if __name__ == "__main__":
    operations = {"chat": count, "count": count, "plan": plan, "fail": fail}
    main({**operations, "ping": lambda request: {"pid": os.getpid()}}, Path(sys.argv[1]))
