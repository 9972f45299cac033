"""``python -m benchmarks.predictions``: the predicted peak of memory against the measured one.

Many settings of ours (budgets, classes, ranks, longest examples, recomputation) over several
models, a few steps each, every run in a process of its own through ``core.pipeline``. What was
measured of a model on a class is kept between runs unless ``--fresh``. With ``--work`` it can be
done in pieces: what is finished is kept, and the table always shows all that is.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.peers import finished, machine, run_job
from benchmarks.settings import LEAST, OURS, UNLIMITED, Job
from benchmarks.table import MB, write_results
from core import models
from core.config import RunConfig
from core.errors import DataError, StudioError
from core.home import CHECKOUT
from core.runs.folder import read_json

# (rank, longest example, recomputation), each with every class and every budget.
SETTINGS = ((8, 256, "auto"), (16, 256, "on"), (4, 128, "off"))
# Of the smallest budget that works; 0: none.
BUDGETS = (1.0, 1.5, 0.0)
EXAMPLES, QUIZ = 60, 4


@dataclass(frozen=True)
class Case:
    """One configuration; ``budget`` is a multiple of the smallest that works, 0 for none."""

    model: str
    data: str
    rank: int
    max_length: int
    checkpointing: str
    budget: float

    @property
    def name(self) -> str:
        """Name of its folder."""
        parts = (self.model, self.data, self.rank, self.max_length, self.checkpointing, self.budget)
        return "-".join(map(str, parts))


def cases(model: str, data: str) -> list[Case]:
    """Return the configurations of a pair, the smallest budget of each setting first."""
    return [
        Case(model, data, *setting, budget=budget) for setting in SETTINGS for budget in BUDGETS
    ]


def make_job(case: Case, options: argparse.Namespace, folder: Path, least: int) -> Job:
    """Return what the process of a case is told.

    Args:
        case: its settings.
        options: the command line's.
        folder: of the pair, with ``model`` and ``data-LENGTH`` in it.
        least: the smallest budget of these settings that works, in bytes; 0 if not yet known.
    """
    defaults = RunConfig()
    variant = {0.0: UNLIMITED, 1.0: LEAST}.get(case.budget, OURS)
    return Job(
        variant=variant,
        seed=0,
        model=options.paths[case.model],
        data=str(folder / f"data-{case.max_length}"),
        out=str(folder / case.name),
        steps=options.steps,
        rank=case.rank,
        lr=defaults.train.lr,
        tokens_per_step=defaults.train.tokens_per_step,
        max_length=case.max_length,
        budget_bytes=1 if variant == LEAST else int(case.budget * least),
        questions=0,
        max_new_tokens=1,
        or_least=variant == LEAST,
        checkpointing=case.checkpointing,
    )


def pairs(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield model, class and folder of every pair; freezes the classes."""
    options.paths = {}
    for model_id in options.models:
        model = models.ensure_local(models.resolve(model_id)).resolve()
        options.paths[model.name] = str(model)
        for data in options.datasets:
            name = datasets.label(data)
            folder = work / f"{model.name}-{name}"
            try:
                for length in sorted({length for _, length, _ in SETTINGS}):
                    datasets.prepare(
                        data,
                        model,
                        folder / f"data-{length}",
                        max_length=length,
                        number=EXAMPLES,
                        quiz=QUIZ,
                        shared=options.shared,
                    )
            except DataError as error:
                sys.stdout.write(f"{model.name}, {name}: left out. {error}\n")
                continue
            yield model.name, name, folder


def measure(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Run what is not finished, at most ``--most`` of it; return every row that is.

    Raises:
        ConfigError: if what is finished has other settings.
    """
    rows: list[dict[str, Any]] = []
    left = options.most or 10**6
    for model, data, folder in pairs(options, work):
        least: dict[tuple[Any, ...], int] = {}
        for case in cases(model, data):
            setting = (case.rank, case.max_length, case.checkpointing)
            if case.budget > 1 and setting not in least:
                continue  # the smallest budget is not known yet, or could not be run
            job = make_job(case, options, folder, least.get(setting, 0))
            result = finished(job)
            if result is None:
                if not left:
                    continue
                left -= 1
                result = run_job(job, options.timeout, state=_state(options, work))
                _tidy(Path(job.out))
            if case.budget == 1 and "error" not in result:
                least[setting] = result["budget_bytes"]
            rows.append({**asdict(case), **result})
            sys.stdout.write(f"{case.name}: {result.get('error') or _error_text(result)}\n")
            sys.stdout.flush()
    return rows


def _state(options: argparse.Namespace, work: Path) -> Path | None:
    return None if options.fresh else work / "state"


def _tidy(out: Path) -> None:
    """Drop adapters and stored weights of a run, of which dozens would fill the disk."""
    if read_json(out / "result.json") is not None:
        shutil.rmtree(out / "run", ignore_errors=True)


def error_percent(row: Mapping[str, Any]) -> float:
    """Return (predicted - measured) / measured in percent; negative: more than predicted."""
    measured = row["peak_bytes"]
    return float(100 * (row["predicted_peak_bytes"] - measured) / measured)


def _error_text(row: Mapping[str, Any]) -> str:
    return f"{error_percent(row):+.1f} %"


def over_budget(row: Mapping[str, Any]) -> bool:
    """Say whether a run held more than its budget."""
    return bool(0 < row["budget_bytes"] < row["peak_bytes"])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return worst and median error (percent, without sign) and how many passed their budget."""
    done = [row for row in rows if "error" not in row]
    errors = sorted(abs(error_percent(row)) for row in done)
    return {
        "configurations": len(rows),
        "finished": len(done),
        "median_error_percent": statistics.median(errors) if errors else None,
        "worst_error_percent": errors[-1] if errors else None,
        "most_above_prediction_percent": max((-error_percent(r) for r in done), default=None),
        "over_budget": sum(map(over_budget, done)),
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the table of a document with ``machine``, ``summary``, ``rows`` and ``profile``."""
    titles = ["model", "class", "rank", "longest", "recompute", "budget, MB", "bits"]
    table = [[*titles, "predicted, MB", "measured, MB", "error"], ["---"] * 2 + ["---:"] * 8]
    for row in document["rows"]:
        named = [row[k] for k in ("model", "data", "rank", "max_length", "checkpointing")]
        if "error" in row:
            table.append([*map(str, named), "", "", "", "failed", ""])
            continue
        budget = f"{row['budget_bytes'] / MB:.0f}" if row["budget_bytes"] else "none"
        table.append(
            [
                *map(str, named),
                budget + (" (passed)" if over_budget(row) else ""),
                f"{row['plan']['average_bits']:.2f}",
                f"{row['predicted_peak_bytes'] / MB:.0f}",
                f"{row['peak_bytes'] / MB:.0f}",
                _error_text(row),
            ]
        )
    found = document["summary"]
    parts = [
        "# Predicted and measured peak memory",
        f"Written by `benchmarks/predictions.py`: {document['steps']} steps each, every run in a "
        f"process of its own, the model's measurement on the class {document['profile']}. Error: "
        "(predicted − measured) ÷ measured; negative means more than predicted.",
        _verdict(found) if found["finished"] else "No run is finished.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        *(f"- failed: {row['error']}" for row in document["rows"] if "error" in row),
        f"Measured on: {', '.join(f'{k} {v}' for k, v in document['machine'].items())}",
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(found: Mapping[str, Any]) -> str:
    above = found["most_above_prediction_percent"]
    most = (
        f"at most {above:.1f} % more than predicted" if above > 0 else "none above its prediction"
    )
    return (
        f"{found['finished']} of {found['configurations']} runs finished. Median error "
        f"{found['median_error_percent']:.1f} %, worst {found['worst_error_percent']:.1f} %; "
        f"{most}. Budgets passed: {found['over_budget']}."
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predictions", description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=[RunConfig().model], help="ids or folders")
    add("--datasets", nargs="+", default=["english", "gsm8k"], help="names or class files")
    add("--shared", type=Path, default=datasets.SHARED, help="folder of the public data")
    add("--steps", type=int, default=3)
    add("--most", type=int, default=0, help="new runs this time; 0: all")
    add("--fresh", action="store_true", help="measure model and class anew in every run")
    add("--timeout", type=float, default=3600, help="seconds after which a run has failed")
    add("--work", type=Path, help="folder for the runs; finished ones in it are not run again")
    add("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            rows = measure(options, Path(options.work or temporary).resolve())
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    document = {
        "machine": machine([row for row in rows if "error" not in row]),
        "steps": options.steps,
        "profile": "taken anew in every run" if options.fresh else "kept between runs",
        "summary": summary(rows),
        "rows": rows,
    }
    write_results(options.results, "predictions", document, as_markdown(document))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
