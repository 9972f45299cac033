"""``python -m benchmarks.method_process JOB.json``: one method on one suite, alone in its process.

The very pipeline that the studio starts trains it; its peak of memory is taken before anything is
marked. Then the suite's own items are marked, unless the job only asks for the held-out loss.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import marks
from benchmarks.child import computing, write_result
from benchmarks.settings import Job
from benchmarks.suites import LABELS, TEXT, Item, Suite, suite
from core import modelload, models, pipeline
from core.adapters.store import ADAPTER, load_adapted, whole_model
from core.assemble import compute_dtype
from core.config import RunConfig
from core.data.chat import ChatFormat
from core.data.types import Example
from core.device import device_of
from core.evaluate.generate import answers, tokens_per_second
from core.evaluate.quiz import example_losses
from core.events import Evaluated, Event, PairsMarked
from core.whole import write_whole

BEFORE = "before"  # the method that trains nothing
PAIRS = "pairs"


def config_of(job: Job) -> RunConfig:
    """Our settings for a job: trains to the last step and keeps what that leaves.

    Raises:
        ConfigError: if a setting of the job is unknown or out of range.
    """
    tree: dict[str, Any] = {
        "model": job.model,
        "method": job.method,
        "budget_bytes": job.budget_bytes,
        "device": job.device,
        "data": {"path": job.data},
        "adapter": {"rank": job.rank},
        "train": {
            "steps": job.steps,
            "lr": job.lr,
            "tokens_per_step": job.tokens_per_step,
            "max_length": job.max_length,
            "eval_every": job.look_every or job.steps,
            "checkpoint_every": job.steps,
            "stop_early": False,
            "seed": job.seed,
        },
        "quiz": {"generate": False},
    }
    for dotted, value in job.changes.items():
        group, _, name = dotted.partition(".")
        tree.setdefault(group, {})[name] = value
    return RunConfig.from_json(tree)


class Looks:
    """Listens to a run for its held-out losses.

    Attributes:
        seen: (step, nats per answer token; of a pair model nats per pair), in the order of time.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, Evaluated):
            self.seen.append((event.step, event.nll))
        elif isinstance(event, PairsMarked) and event.slice == "calibration":
            self.seen.append((event.step, float(event.marks["nll"])))


def train(job: Job, out: Path) -> dict[str, Any]:
    """Run the method in the folder ``out``; returns its figures, and a pair model's marks."""
    looks = Looks()
    result = pipeline.run(config_of(job), out, looks, lambda: "")
    quiz = result["quiz"]
    found = {
        "peak_bytes": result["measured_peak_bytes"],
        "train_tokens_per_second": result["tokens_per_second"],
        "seconds": result["seconds"]["train"],
        "step_seconds": result["seconds"]["train"] / result["steps"],
        "steps": result["steps"],
        "trained_numbers": result["trained_numbers"],
        "file_bytes": file_bytes(out),
        "nll": quiz["tuned"]["nll"],
        "looks": looks.seen,
    }
    if "sizes" in result:
        found["model_bytes"] = result["sizes"]["student"]["bytes"]
    if job.items and job.method == PAIRS:
        chosen = ("accuracy", "f1", "mcc", "confusion")
        found |= {name: quiz["tuned"][name] for name in chosen}
        found["words_alone"] = {name: quiz["base"][name] for name in chosen}
    return found


def file_bytes(out: Path) -> int:
    """Bytes of what a run learned: its adapter, or the whole model where all weights train."""
    whole = whole_model(out)
    folder = whole if whole is not None else out / ADAPTER
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load_items(path: Path) -> list[Item]:
    """The items that are marked."""
    return [Item.from_json(tree) for tree in json.loads(path.read_text("utf-8"))["items"]]


def mark(job: Job, out: Path) -> dict[str, Any]:
    """Marks of the run in ``out``, or of the untrained model, on the job's items."""
    if job.method == BEFORE:
        path = models.ensure_local(models.resolve(job.model))
        model: Any = modelload.load_dense(path, compute_dtype(torch.device("cpu")))
        tokenizer: Any = modelload.load_tokenizer(path)
        chat = ChatFormat.of(tokenizer)
    else:
        model, tokenizer, chat = load_adapted(out)
    model = model.to(device_of(job.device)).eval()
    chosen, items = suite(job.suite), load_items(Path(job.items))
    if chosen.kind == LABELS:
        return label_marks(model, tokenizer, chat, chosen, items, job.max_length)
    return written_marks(model, tokenizer, chat, chosen, items, job)


def label_marks(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    chosen: Suite,
    items: Sequence[Item],
    max_length: int,
) -> dict[str, Any]:
    """Marks of the label whose words are likelier as the answer; no threshold is chosen.

    Items that do not fit into ``max_length`` tokens are counted as ``left_out``.
    """
    losses = [
        example_losses(
            model,
            tokenizer,
            chat,
            [Example.pair(item.question, word) for item in items],
            max_length=max_length,
        )
        for word in chosen.labels
    ]
    both = [
        (item.label, zero, one)
        for item, zero, one in zip(items, *losses, strict=True)
        if zero is not None and one is not None
    ]
    right = [(zero, one)[label] for label, zero, one in both]
    gaps = [min(max(one[0] - zero[0], -700.0), 700.0) for _, zero, one in both]
    found = marks.label_marks([x[0] for x in both], [1 / (1 + math.exp(gap)) for gap in gaps])
    found["nll"] = sum(nll for nll, _ in right) / sum(count for _, count in right)
    return {**found, "marked": len(both), "left_out": len(items) - len(both)}


def written_marks(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    chosen: Suite,
    items: Sequence[Item],
    job: Job,
) -> dict[str, Any]:
    """Loss of the first reference, and the marks of greedy answers; those are kept in ``out``."""
    examples = [item.example() for item in items]
    losses = example_losses(model, tokenizer, chat, examples, max_length=job.max_length)
    asked = [k for k, loss in enumerate(losses) if loss is not None]
    items, examples = [items[k] for k in asked], [examples[k] for k in asked]
    known = [loss for loss in losses if loss is not None]
    nll = sum(loss for loss, _ in known) / sum(count for _, count in known)
    prompts = [example.prompt for example in examples]
    written = [
        text.strip()
        for text in answers(model, tokenizer, chat, prompts, max_new_tokens=job.max_new_tokens)
    ]
    write_whole(Path(job.out) / "answers.json", json.dumps(written, ensure_ascii=False, indent=0))
    found: dict[str, Any] = dict(chosen.marks(items, written))
    if chosen.kind == TEXT:
        found["perplexity"] = math.exp(min(nll, 700.0))
        found["tokens_per_second"] = tokens_per_second(model, chat, prompts[0])
    return {**found, "nll": nll, "marked": len(items), "left_out": len(losses) - len(items)}


def train_and_mark(job: Job) -> dict[str, Any]:
    """Do the job; see ``benchmarks/README.md`` for the fields of the result."""
    out = Path(job.out) / "run"
    found = {} if job.method == BEFORE else train(job, out)
    if job.items and job.method != PAIRS:
        found |= mark(job, out)
    return {**found, **computing()}


def main(arguments: list[str]) -> int:
    """Entry: reads the job, writes ``result.json`` into its folder ``out``."""
    job = Job.load(Path(arguments[0]))
    write_result(Path(job.out), train_and_mark(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
