"""``python -m benchmarks.our_process JOB.json``: our own run, alone in its process.

The very pipeline that the studio starts: it measures and plans, trains, saves, and then marks base
and tuned model in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.child import computing, seconds_alive, write_result
from benchmarks.settings import OURS, Job
from core import pipeline
from core.adapters.store import ADAPTER
from core.config import AdapterConfig, DataConfig, QuizConfig, RunConfig, TrainConfig
from core.events import Event, PhaseChanged, StepDone


def run_config(job: Job) -> RunConfig:
    """Return our settings for a job.

    Like the peers it trains to the last step; it looks at the quiz before the first and after it.
    """
    return RunConfig(
        model=job.model,
        budget_bytes=job.budget_bytes,
        method=OURS,
        data=DataConfig(path=job.data),
        adapter=AdapterConfig(rank=job.rank),
        train=TrainConfig(
            steps=job.steps,
            lr=job.lr,
            tokens_per_step=job.tokens_per_step,
            max_length=job.max_length,
            eval_every=job.steps,
            checkpoint_every=job.steps,
            stop_early=False,
            seed=job.seed,
        ),
        quiz=QuizConfig(questions=job.questions, max_new_tokens=job.max_new_tokens),
    )


class Stopwatch:
    """Listens to a run.

    Attributes:
        training: seconds of all optimizer steps.
        saved: seconds from the start of the process until the adapter was saved.
    """

    def __init__(self) -> None:
        self.training = self.saved = 0.0

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, StepDone):
            self.training = event.seconds
        elif isinstance(event, PhaseChanged) and event.phase == "quiz" and not self.saved:
            self.saved = seconds_alive()  # the quiz begins when all else is done


def train_and_mark(job: Job) -> dict[str, Any]:
    """Run ours; see ``benchmarks/README.md`` for the fields of the result."""
    out, watch = Path(job.out) / "run", Stopwatch()
    result = pipeline.run(run_config(job), out, watch, lambda: "")
    tuned, base = result["quiz"]["tuned"], result["quiz"]["base"]
    return {
        "peak_bytes": result["measured_peak_bytes"],
        "predicted_peak_bytes": result["predicted_peak_bytes"],
        "tokens_per_second": result["tokens_per_second"],
        "step_seconds": watch.training / result["steps"],
        "saved_seconds": watch.saved,
        "steps": result["steps"],
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
