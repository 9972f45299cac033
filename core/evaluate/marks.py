"""Marks of a run's base and tuned model, in a process of their own.

The training process keeps to its budget; writing answers is fastest with dense weights. So the quiz
runs after training, base first, then tuned, one model in memory at a time:
``python -m core.evaluate.marks RUN_FOLDER``.
"""

from __future__ import annotations

import gc
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.data import frozen
from core.data.chat import ChatFormat
from core.errors import ModelError, Stopped, StudioError, TrainingError
from core.events import Emit, PhaseChanged
from core.home import CHECKOUT
from core.whole import write_whole


def mark_run(out: Path, emit: Emit, should_stop: Callable[[], str]) -> None:
    """Mark the run in a child process; writes ``quiz.json`` into its folder.

    Raises:
        Stopped: if the person wishes so meanwhile.
        TrainingError: if the child fails; the adapter is kept.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as trouble:
        child = subprocess.Popen(
            [sys.executable, "-m", "core.evaluate.marks", str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trouble,  # a file: a full pipe would hold the child
            text=True,
            encoding="utf-8",
            cwd=CHECKOUT,
        )
        with child:
            said = _listen(child, emit, should_stop)
        if child.returncode != 0 or not (out / "quiz.json").is_file():
            trouble.seek(0)
            sys.stderr.write(trouble.read())
            raise TrainingError(
                said.removeprefix("error ") if said.startswith("error ") else "The quiz failed.",
                where="quiz",
                action="Resume the run to mark it again; what was learned is kept.",
                code="quiz.failed",
            )


def _listen(child: subprocess.Popen[str], emit: Emit, should_stop: Callable[[], str]) -> str:
    """Pass the child's progress on until it ends; returns its last line."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = ""
    while True:
        if should_stop():
            child.kill()
            raise Stopped("The run was stopped during the quiz; it can be resumed.")
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if line is None:
            return said
        said = line
        if said.startswith("share "):
            emit(PhaseChanged("quiz", float(said.split()[1])))


def marks(out: Path, report: Callable[[float], None]) -> dict[str, Any]:
    """Marks of base and tuned on the run's held-out quiz, and their comparison.

    Raises:
        ModelError: if a model cannot be loaded.
    """
    import torch

    from core import modelload, models
    from core.adapters.store import load_adapted
    from core.assemble import compute_dtype
    from core.evaluate.generate import tokens_per_second
    from core.evaluate.quiz import compare, mark
    from core.process import keep_freed_memory, peak_bytes

    keep_freed_memory(True)  # this process has no budget; writing answers is faster so
    config = RunConfig.load(out / "config.json")
    examples = frozen.load_frozen(out / "data").quiz
    path = models.ensure_local(models.resolve(config.model))
    tokenizer = modelload.load_tokenizer(path)
    results: dict[str, Any] = {}
    for k, which in enumerate(("base", "tuned")):
        model: Any
        if which == "base":
            model = modelload.load_dense(path, compute_dtype(torch.device("cpu")))
            chat = ChatFormat.of(tokenizer)
        else:
            model, tokenizer, chat = load_adapted(out)

        def hear(event: Any, k: int = k) -> None:
            report((k + getattr(event, "share", 0.0)) / 2)

        results[which] = mark(
            model,
            tokenizer,
            chat,
            examples,
            questions=config.quiz.questions if config.quiz.generate else 0,
            max_new_tokens=config.quiz.max_new_tokens,
            max_length=config.train.max_length,
            emit=hear,
        )
        if config.method == "distill":
            results[which]["tokens_per_second"] = tokens_per_second(model, chat, examples[0].prompt)
        del model
        gc.collect()
    results["comparison"] = compare(results["base"], results["tuned"])
    results["peak_bytes"] = peak_bytes()
    return results


def main(arguments: list[str]) -> int:
    """Entry of the child."""
    out = Path(arguments[0])

    def report(share: float) -> None:
        sys.stdout.write(f"share {share:.3f}\n")
        sys.stdout.flush()

    try:
        result = marks(out, report)
    except StudioError as error:
        sys.stdout.write(f"error {error.what}\n")
        return error.exit_code
    except MemoryError as error:
        raise ModelError("There was not enough memory for the quiz.") from error
    write_whole(out / "quiz.json", json.dumps(result, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
