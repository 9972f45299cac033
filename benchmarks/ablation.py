"""``python -m benchmarks.ablation``: what each part of ours is worth, one left out at a time.

All under one budget on one model and class, with several seeds; every run in a process of its own
through ``core.pipeline``. What was measured of the model on the class is kept between runs, so that
only what differs is done again. With ``--work`` it can be done in pieces.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.peers import finished, machine, run_job
from benchmarks.settings import OURS, Job
from benchmarks.summary import Difference
from benchmarks.table import MB, write_results
from core import models
from core.config import RunConfig, parse_size
from core.errors import StudioError
from core.home import CHECKOUT


@dataclass(frozen=True)
class Part:
    """One row: what differs from the whole, in words and as settings by dotted name."""

    name: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)


WHOLE = Part("whole", "all parts")
PARTS = (
    WHOLE,
    Part("bits", "the same bits in every layer (4), ranks chosen", {"quant.bits": 4}),
    Part(
        "ranks",
        "bits chosen, one rank for all",
        {"adapter.uniform": True, "adapter.dynamic": False},
    ),
    Part(
        "both",
        "the same bits (4) and one rank for all",
        {"quant.bits": 4, "adapter.uniform": True, "adapter.dynamic": False},
    ),
    Part("start", "the adapter starts at zero", {"adapter.start": "zero"}),
    Part("masks", "ranks do not move while training", {"adapter.dynamic": False}),
    Part("loss", "importance without the loss (E L)", {"quant.importance": "activation"}),
    Part("spectrum", "importance from the weight's SVD alone", {"quant.importance": "spectrum"}),
    Part("codes", "NF4 instead of own codes with feedback", {"quant.scheme": "nf4"}),
)


def make_job(part: Part, seed: int, options: argparse.Namespace, model: Path, work: Path) -> Job:
    """Return what the process of a row and seed is told."""
    defaults = RunConfig()
    return Job(
        variant=OURS,
        seed=seed,
        model=str(model),
        data=str(work / "data"),
        out=str(work / f"{part.name}-seed{seed}"),
        steps=options.steps,
        rank=options.rank,
        lr=defaults.train.lr,
        tokens_per_step=options.tokens_per_step,
        max_length=defaults.train.max_length,
        budget_bytes=options.budget_bytes,
        questions=0,
        max_new_tokens=1,
        changes=part.changes,
    )


def measure(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Run what is not finished and return all results, with ``part`` and ``seed``.

    Raises:
        StudioError: if model or class cannot be read, or what is finished has other settings.
    """
    model = models.ensure_local(models.resolve(options.model)).resolve()
    datasets.prepare(
        options.dataset,
        model,
        work / "data",
        max_length=RunConfig().train.max_length,
        number=options.examples,
        shared=options.shared,
    )
    rows = []
    for seed in options.seeds:
        for part in (p for p in PARTS if p.name in options.parts):
            job = make_job(part, seed, options, model, work)
            result = finished(job) or run_job(job, options.timeout, state=work / "state")
            rows.append({"part": part.name, "seed": seed, **result})
            told = result.get("error") or f"{result['nll']:.3f} nats"
            sys.stdout.write(f"{part.name}, seed {seed}: {told}\n")
            sys.stdout.flush()
    return rows


def differences(rows: Sequence[Mapping[str, Any]], part: str, key: str) -> list[float]:
    """Return ``part`` minus the whole for every seed that has both."""
    found = {(r["part"], r["seed"]): r[key] for r in rows if "error" not in r}
    seeds = sorted({seed for name, seed in found if name == part and (WHOLE.name, seed) in found})
    return [found[part, seed] - found[WHOLE.name, seed] for seed in seeds]


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the table of a document with ``machine``, ``settings`` and ``rows``."""
    rows = document["rows"]
    titles = ["", "bits", "rank", "peak, MB", "loss before", "loss after", "against the whole"]
    table = [titles, ["---", *["---:"] * 5, "---"]]
    for part in PARTS:
        done = [r for r in rows if r["part"] == part.name and "error" not in r]
        if not done:
            continue
        numbers = (
            [r["plan"]["average_bits"] for r in done],
            [r["plan"]["average_rank"] for r in done],
        )
        change = differences(rows, part.name, "nll") if part is not WHOLE else []
        table.append(
            [
                part.title,
                f"{statistics.median(numbers[0]):.2f}",
                f"{statistics.median(numbers[1]):.1f}",
                f"{statistics.median(r['peak_bytes'] for r in done) / MB:.0f}",
                f"{statistics.median(r['start_nll'] for r in done):.3f}",
                f"{statistics.median(r['nll'] for r in done):.3f}",
                Difference.of(change).text("less") if change else "",
            ]
        )
    told = (document["settings"], document["machine"])
    parts = [
        "# What each part is worth",
        "Written by `benchmarks/ablation.py`. Losses are held-out nats per answer token, medians "
        "over the seeds; the last column is the mean difference of the loss after training, run "
        "against run of the same seed, with a 95 % interval of Student's t.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        *(f"- {r['part']}, seed {r['seed']} failed: {r['error']}" for r in rows if "error" in r),
        *(", ".join(f"{k} {v}" for k, v in t.items()) for t in told),
    ]
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: if the budget is no size.
    """
    defaults = RunConfig()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    add = parser.add_argument
    add("--model", default=defaults.model, help="id or folder")
    add("--dataset", default="gsm8k", help="a name or a class file")
    add("--shared", type=Path, default=datasets.SHARED, help="folder of the public data")
    add("--budget", default="700MB", help="the same for all rows")
    add("--parts", nargs="+", choices=[p.name for p in PARTS], default=[p.name for p in PARTS])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=16)
    add("--rank", type=int, default=defaults.adapter.rank)
    add("--tokens-per-step", type=int, default=256)
    add("--examples", type=int, default=160, help="drawn from a larger file")
    add("--timeout", type=float, default=3600, help="seconds after which a run has failed")
    add("--work", type=Path, help="folder for the runs; finished ones in it are not run again")
    add("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    options.budget_bytes = parse_size(options.budget)
    return options


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    try:
        options = parse(arguments)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            rows = measure(options, Path(options.work or temporary).resolve())
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    kept = ("dataset", "budget", "seeds", "steps", "rank", "tokens_per_step", "examples")
    document = {
        "machine": machine([row for row in rows if "error" not in row]),
        "settings": {
            "model": Path(options.model).name,
            **{name: getattr(options, name) for name in kept},
        },
        "rows": rows,
    }
    write_results(options.results, "ablation", document, as_markdown(document))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
