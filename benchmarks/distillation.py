"""``python -m benchmarks.distillation``: what each term of a distillation adds, at equal steps.

Every run is one ``core.cli distill`` in a process of its own: the same student, class, seed, steps
and optimizer; only the weights of the terms differ. Finished runs are kept in ``--work``, and the
same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import MB, Spread
from core.home import CHECKOUT
from core.runs.folder import read_json, write_json

# answers, outputs, features, relations, share of the steps with the student's own answers
ARMS: dict[str, tuple[float, float, float, float, float]] = {
    "answers alone": (1.0, 0.0, 0.0, 0.0, 0.0),
    "outputs": (0.3, 0.5, 0.0, 0.0, 0.0),
    "outputs, features": (0.3, 0.5, 0.1, 0.0, 0.0),
    "outputs, features, relations": (0.3, 0.5, 0.1, 0.1, 0.0),
    "all, with own answers": (0.3, 0.5, 0.1, 0.1, 0.25),
}
OPTIONS = ("answer-weight", "output-weight", "feature-weight", "attention-weight", "own-share")
MARKS = ("perplexity", "bleu", "rouge_l", "cer")


@dataclass(frozen=True)
class Job:
    """One run."""

    arm: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.arm.replace(', ', '-').replace(' ', '_')}-{self.seed}"


def command(job: Job, out: Path, chosen: argparse.Namespace) -> list[str]:
    """The argument list of a run."""
    weights = zip(OPTIONS, ARMS[job.arm], strict=True)
    terms = [part for name, value in weights for part in (f"--{name}", str(value))]
    given = ["--model", chosen.model, "--data", chosen.data, "--student", chosen.student]
    given += ["--steps", str(chosen.steps), "--seed", str(job.seed), "--out", str(out)]
    given += ["--no-stop-early", "--checkpoint-every", str(chosen.steps)]
    given += ["--max-new-tokens", "48", *terms, *chosen.more]
    return [sys.executable, "-m", "core.cli", "distill", *given, "--json"]


def done(job: Job, chosen: argparse.Namespace) -> dict[str, Any]:
    """The result of a run: kept from before, or made now.

    Raises:
        SystemExit: if it fails.
    """
    out = Path(chosen.work) / job.folder
    kept = out / "measured.json"
    known = read_json(kept)
    if known is not None:
        return known
    shutil.rmtree(out, ignore_errors=True)
    sys.stderr.write(f"{job.arm}, seed {job.seed}\n")
    told = subprocess.run(
        command(job, out, chosen), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=False
    )
    if told.returncode:
        raise SystemExit(f"{job.arm}, seed {job.seed}: ended with {told.returncode}")
    found = measured(json.loads(told.stdout))
    for large in ("checkpoints", "model", "student-start", "base"):
        shutil.rmtree(out / large, ignore_errors=True)
    write_json(kept, found)
    return found


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run that the table shows."""
    quiz, sizes = result["quiz"], result["sizes"]
    found: dict[str, Any] = {"step_seconds": result["seconds"]["train"] / result["steps"]}
    for who, which in (("teacher", "base"), ("student", "tuned")):
        found[who] = {name: quiz[which][name] for name in (*MARKS, "nll", "tokens_per_second")}
        found[who] |= sizes[who]
    return found


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Arms as rows: the median over the seeds, smallest and largest in brackets."""
    heads = ["", "perplexity", "BLEU", "ROUGE-L", "CER", "MB", "tokens/s", "s/step"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    first = next(iter(results.values()))
    lines.append(_row("the teacher", [r["teacher"] for r in first], None))
    for arm, runs in results.items():
        seconds = [float(r["step_seconds"]) for r in runs]
        lines.append(_row(arm, [r["student"] for r in runs], seconds))
    return "\n".join(lines)


def _row(name: str, marks: Sequence[Mapping[str, float]], seconds: Sequence[float] | None) -> str:
    shown = [("perplexity", 2), ("bleu", 1), ("rouge_l", 3), ("cer", 2)]
    cells = [
        Spread.of([m[key] for m in marks]).text(lambda v, d=digits: f"{v:.{d}f}")  # type: ignore[misc]
        for key, digits in shown
    ]
    cells.append(Spread.of([m["bytes"] for m in marks]).text(lambda v: f"{v / MB:.0f}"))
    cells.append(Spread.of([m["tokens_per_second"] for m in marks]).text(lambda v: f"{v:.1f}"))
    cells.append(Spread.of(seconds).text(lambda v: f"{v:.1f}") if seconds else "")
    return "| " + " | ".join([name, *cells]) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all arms and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter", help="the teacher")
    parser.add_argument("--data", default=str(CHECKOUT / "assets" / "samples" / "english.csv"))
    parser.add_argument("--student", default="layers", help="as of the command line")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--work", default="build/distillation", help="folder of finished runs")
    parser.add_argument("--out", default="", metavar="NAME", help="write results/NAME.md, .json")
    parser.add_argument("more", nargs="*", help="further options of the command line, after --")
    chosen = parser.parse_args(arguments)
    # A seed of all arms before the next: a benchmark that is ended early still compares.
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen.arms}
    for seed in chosen.seeds:
        for arm in chosen.arms:
            results[arm].append(done(Job(arm, seed), chosen))
    text = table(results)
    sys.stdout.write(text + "\n")
    if chosen.out:
        folder = CHECKOUT / "benchmarks" / "results"
        settings = {k: v for k, v in vars(chosen).items() if k not in ("work", "out", "data")}
        settings["data"] = Path(chosen.data).name
        write_json(folder / f"{chosen.out}.json", {"settings": settings, "runs": results})
        (folder / f"{chosen.out}.md").write_text(text + "\n", "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
