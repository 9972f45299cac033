"""``python -m benchmarks.our_process JOB.json``: our own run, alone in its process.

The very pipeline that the studio starts: it measures and plans, trains, saves, and then marks base
and tuned model in a process of its own.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.child import computing, seconds_alive, write_result
from benchmarks.settings import OURS, Job
from core import pipeline
from core.adapters.store import ADAPTER
from core.config import (
    AdapterConfig,
    DataConfig,
    QuantConfig,
    QuizConfig,
    RunConfig,
    TrainConfig,
)
from core.errors import MemoryBudgetError
from core.events import Evaluated, Event, PhaseChanged, StepDone
from core.plan.planner import SHARE
from core.plan.profile import RANKS
from core.runs.folder import read_json


def run_config(job: Job) -> RunConfig:
    """Return our settings for a job.

    Like the peers it trains to the last step; it looks at the quiz before the first and after it.
    """
    config = RunConfig(
        model=job.model,
        budget_bytes=job.budget_bytes,
        method=OURS,
        data=DataConfig(path=job.data),
        quant=QuantConfig(bits=job.bits),
        # One rank for all has nothing to move.
        adapter=AdapterConfig(rank=job.rank, uniform=bool(job.bits), dynamic=not job.bits),
        train=TrainConfig(
            steps=job.steps,
            lr=job.lr,
            tokens_per_step=job.tokens_per_step,
            max_length=job.max_length,
            checkpointing=job.checkpointing,
            micro_batch_tokens=job.micro_batch_tokens,
            eval_every=job.steps,
            checkpoint_every=job.steps,
            stop_early=False,
            seed=job.seed,
        ),
        quiz=QuizConfig(questions=job.questions, max_new_tokens=job.max_new_tokens),
    )
    tree = config.to_json()
    for name, value in job.changes.items():
        group, _, setting = name.rpartition(".")
        (tree[group] if group else tree)[setting] = value
    return RunConfig.from_json(tree)


class Stopwatch:
    """Listens to a run.

    Attributes:
        training: seconds of all optimizer steps.
        saved: seconds from the start of the process until the adapter was saved.
        start_nll: loss on the quiz before the first step, as it is stored; nats per answer token.
    """

    def __init__(self) -> None:
        self.training = self.saved = 0.0
        self.start_nll: float | None = None

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, StepDone):
            self.training = event.seconds
        elif isinstance(event, Evaluated) and event.step == 0:
            self.start_nll = event.nll
        elif isinstance(event, PhaseChanged) and event.phase == "quiz" and not self.saved:
            self.saved = seconds_alive()  # the quiz begins when all else is done


def largest_rank(config: RunConfig) -> RunConfig:
    """Return the configuration with the largest rank for all layers that a plan allows.

    The smallest rank that there is, if not even that fits: then the run says so.
    """
    for rank in sorted(RANKS[1:], reverse=True):
        larger = replace(config, adapter=replace(config.adapter, rank=rank))
        if rank == RANKS[1] or pipeline.plan_run(larger, lambda _: None).feasible:
            break
    return larger


def run_within(config: RunConfig, out: Path, watch: Stopwatch, *, or_least: bool) -> dict[str, Any]:
    """Run, under the smallest budget that works if the given one is too small and ``or_least``.

    Raises:
        MemoryBudgetError: if the budget is too small and has to be kept.
    """
    try:
        return pipeline.run(config, out, watch, lambda: "")
    except MemoryBudgetError as error:
        if not or_least:
            raise
        least = error.minimum_budget_bytes
    shutil.rmtree(out)
    return pipeline.run(replace(config, budget_bytes=least), out, watch, lambda: "")


def plan_facts(out: Path) -> dict[str, Any]:
    """Return what a run's plan says, and the budget (bytes) that its predicted peak just fills."""
    plan: dict[str, Any] = read_json(out / "plan.json") or {}
    told = ("average_bits", "average_rank", "checkpointing", "micro_batch", "embedding_bits")
    return {
        **{name: plan[name] for name in told},
        "filled_bytes": math.ceil(plan["predicted_peak_bytes"] / SHARE) + 1,
    }


def train_and_mark(job: Job) -> dict[str, Any]:
    """Run ours; see ``benchmarks/README.md`` for the fields of the result."""
    out, watch = Path(job.out) / "run", Stopwatch()
    config = largest_rank(run_config(job)) if job.bits else run_config(job)
    result = run_within(config, out, watch, or_least=job.or_least)
    tuned, base = result["quiz"]["tuned"], result["quiz"]["base"]
    return {
        "peak_bytes": result["measured_peak_bytes"],
        "budget_bytes": result["budget_bytes"],
        "asked_bytes": job.budget_bytes,
        "plan": plan_facts(out),
        "predicted_peak_bytes": result["predicted_peak_bytes"],
        "tokens_per_second": result["tokens_per_second"],
        "step_seconds": watch.training / result["steps"],
        "saved_seconds": watch.saved,
        "steps": result["steps"],
        "start_nll": watch.start_nll,
        "nll": tuned["nll"],
        "rouge_l": tuned["rouge_l"],
        "trained_numbers": result["trained_numbers"],
        "adapter_bytes": (out / ADAPTER / "adapter.safetensors").stat().st_size,
        "base": {"nll": base["nll"], "rouge_l": base["rouge_l"]},
        **computing(),
    }


def main(arguments: list[str]) -> int:
    """Entry: reads the job, writes ``result.json`` into its folder ``out``."""
    job = Job.load(Path(arguments[0]))
    write_result(Path(job.out), train_and_mark(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
