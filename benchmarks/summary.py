"""Ours against QLoRA over all pairs of a model and a class: differences with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.settings import OWN
from benchmarks.table import MB, Runs, ratios, reference, summarise
from core.compare.interval import student


@dataclass(frozen=True)
class Difference:
    """Mean difference over the seeds, with a 95 % interval (None with fewer than two seeds)."""

    mean: float
    low: float | None
    high: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Difference:
        """Return mean and Student's interval of at least one paired difference."""
        mean, n = statistics.fmean(values), len(values)
        if n < 2:
            return Difference(mean, None, None)
        half = student(n - 1) * statistics.stdev(values) / math.sqrt(n)
        return Difference(mean, mean - half, mean + half)

    def verdict(self, better: str) -> str:
        """Return ``better``, ``worse`` or ``no difference seen``; empty without an interval."""
        if self.low is None or self.high is None:
            return ""
        if self.low <= 0 <= self.high:
            return "no difference seen"
        return "better" if (self.high < 0) == (better == "less") else "worse"

    def text(self, better: str) -> str:
        """Write it for a table."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}), {self.verdict(better)}"


def differences(runs: Runs, variant: str, other: str, measure: str) -> list[float]:
    """Return ``variant`` minus ``other`` of every seed that has both."""
    found = {
        (run["variant"], run["seed"]): run[measure]
        for run in runs
        if "error" not in run and run.get(measure) is not None
    }
    seeds = sorted(seed for name, seed in found if name == variant and (other, seed) in found)
    return [found[variant, seed] - found[other, seed] for seed in seeds]


def compared(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each variant of ours in a pair: against the better QLoRA in each measure.

    Empty without a QLoRA.
    """
    runs = document["runs"]
    summary = summarise(runs)
    best, over = reference(summary), ratios(summary)
    rows = []
    for variant in (v for v in OWN if v in summary and best):
        row: dict[str, Any] = {"pair": document["name"], "variant": variant, "against": best}
        row["peak_bytes"] = summary[variant]["peak_bytes"].median
        row["ratios"] = over[variant]
        for measure in ("nll", "rouge_l"):
            values = differences(runs, variant, best[measure], measure) if measure in best else []
            row[measure] = asdict(Difference.of(values)) if values else None
        rows.append(row)
    return rows


def summary_json(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of :func:`compared` for all pairs."""
    return {"rows": [row for document in documents for row in compared(document)]}


def summary_markdown(documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the table over all pairs, with links to the tables of the pairs.

    Args:
        documents: of the pairs.
        names: of their files, without suffix.
    """
    head = ["pair", "variant", "held-out loss − QLoRA", "ROUGE-L − QLoRA", "peak, MB"]
    rows = [[*head, "peak ÷ QLoRA", "time a step ÷ QLoRA"], ["---", "---", *["---:"] * 5]]
    rows += [_cells(row) for row in summary_json(documents)["rows"]]
    parts = [
        "# Ours against QLoRA",
        "Written by `benchmarks/peers.py`; [what is compared](../README.md). Differences are means "
        "over the seeds, run against run of the same seed, with a 95 % interval (Student's t); the "
        "intervals know the seeds of training only, not other quizzes. QLoRA is the better of its "
        "variants in each column. Ratios are of medians.",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "Each pair with all variants:",
        "\n".join(f"- [{name}]({name}.md)" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    nll, rouge = (
        Difference(**row[measure]).text(better) if row[measure] else ""
        for measure, better in (("nll", "less"), ("rouge_l", "more"))
    )
    ratio = row["ratios"]
    return [
        row["pair"],
        row["variant"],
        nll,
        rouge,
        f"{row['peak_bytes'] / MB:.0f}",
        f"{ratio['peak_bytes']:.2f}",
        f"{ratio['step_seconds']:.2f}" if "step_seconds" in ratio else "",
    ]
