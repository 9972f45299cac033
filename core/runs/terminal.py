"""What a person at a terminal sees: sentences and one progress line, on standard error."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

MB = 10**6

_PHASES = {
    "data": "reading the class data",
    "teacher": "asking the teacher",
    "profile": "measuring the model on the class data",
    "plan": "planning",
    "load": "loading the model",
    "train": "training",
    "quiz": "marking the quiz",
    "export": "writing and checking",
    "compare": "comparing questions",
    "done": "done",
}


class Screen:
    """Sentences and a progress line; standard output is left to the JSON document."""

    def __init__(self) -> None:
        """Look whether anybody watches; what the terminal cannot show is replaced."""
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._shown = ""  # the progress line that stands on the terminal
        self._phase = ""
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="replace")

    def say(self, text: str) -> None:
        """Write a sentence on a line of its own."""
        self._wipe()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def stream(self, part: str) -> None:
        """Write a piece of text as it comes."""
        self._wipe()
        self._stream.write(part)
        self._stream.flush()

    def progress(self, text: str) -> None:
        """Replace the progress line; nothing where it cannot be replaced."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._wipe()
            self._shown = text[:width]
            self._stream.write(self._shown)
            self._stream.flush()

    def _wipe(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def show(self, event: dict[str, Any]) -> None:
        """Show an event of a run, or a progress answer of the helper process."""
        kind = event.get("kind") or event.get("event")
        if kind in ("phase", "progress"):
            self._show_phase(event)
        elif kind == "step":
            self.progress(step_line(event))
        elif kind == "plan":
            self.say(plan_line(event["plan"]))
        elif kind == "note":
            self.say(str(event["text"]))
        elif kind == "pairs":
            self.say(pairs_line(event))
        elif kind == "verdict":
            self.progress(f"the model is {str(event['verdict']).replace('_', ' ')}")

    def _show_phase(self, event: dict[str, Any]) -> None:
        phase = str(event["phase"])
        words = _PHASES.get(phase, phase)
        if phase != self._phase:
            self._phase = phase
            if not self._live:
                self.say(f"{words} ...")
        detail = f" ({event['detail']})" if event.get("detail") else ""
        self.progress(f"{words} {100 * float(event['share']):3.0f} %{detail}")


def step_line(event: dict[str, Any]) -> str:
    """One optimizer step in a line: loss in nats a token, memory in MB, time left."""
    loss = "-" if event["loss"] is None else f"{event['loss']:.3f}"
    left = int(event["seconds_left"] or 0)
    return (
        f"step {event['step']}/{event['steps']}  loss {loss}  "
        f"{event['tokens_per_second'] or 0:.0f} tokens/s  "
        f"{event['memory_bytes'] / MB:.0f} MB (peak {event['peak_bytes'] / MB:.0f})  "
        f"{left // 60}:{left % 60:02d} left"
    )


def pairs_line(event: dict[str, Any]) -> str:
    """Marks of a model that compares questions in a line."""
    marks = event["marks"]
    return f"step {event['step']}, {event['slice']} pairs: {marks_line(marks)}"


def marks_line(marks: dict[str, Any]) -> str:
    """Accuracy, F1, MCC and the four counts."""
    c = marks["confusion"]
    return (
        f"accuracy {marks['accuracy']:.3f}, F1 {marks['f1']:.3f}, MCC {marks['mcc']:.3f} "
        f"({c['tp']} same found, {c['fn']} missed, {c['tn']} different, {c['fp']} taken for same)"
    )


def plan_line(plan: dict[str, Any]) -> str:
    """A plan in a line."""
    budget = f" of {plan['budget_bytes'] / MB:.0f} MB" if plan["budget_bytes"] else ""
    return (
        f"plan: {plan['average_bits']:.2f} bits and rank {plan['average_rank']:.1f} on average, "
        f"predicted peak {plan['predicted_peak_bytes'] / MB:.0f} MB{budget}"
    )


def print_document(document: dict[str, Any]) -> None:
    """Write the one JSON document of ``--json`` to standard output, as UTF-8 everywhere."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()
