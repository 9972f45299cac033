"""Medians and spreads over seeds, and the table that people read. No torch in here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.settings import NOTES, QLORA, VARIANTS
from core.runs.folder import write_json

Runs = Sequence[Mapping[str, Any]]

MB = 1e6


@dataclass(frozen=True)
class Spread:
    """One measure over the seeds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return median, smallest and largest of at least one value."""
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, show: Callable[[float], str]) -> str:
        """Write ``median (low-high)``; the median alone where all would read the same."""
        low, middle, high = show(self.low), show(self.median), show(self.high)
        return middle if low == high else f"{middle} ({low}-{high})"


@dataclass(frozen=True)
class Measure:
    """A column: what it is called, how a value is written, whether less or more is better."""

    name: str
    title: str
    show: Callable[[float], str]
    better: str = ""


MEASURES = (
    Measure("peak_bytes", "peak, MB", lambda v: f"{v / MB:.0f}", "less"),
    Measure("tokens_per_second", "tokens/s", lambda v: f"{v:.1f}", "more"),
    Measure("step_seconds", "s/step", lambda v: f"{v:.2f}", "less"),
    Measure("saved_seconds", "whole, s", lambda v: f"{v:.0f}"),
    Measure("nll", "held-out loss", lambda v: f"{v:.3f}", "less"),
    Measure("rouge_l", "ROUGE-L", lambda v: f"{v:.3f}", "more"),
    Measure("trained_numbers", "trained, millions", lambda v: f"{v / 1e6:.2f}"),
    Measure("adapter_bytes", "adapter, MB", lambda v: f"{v / MB:.1f}"),
)


RATIOS = ("peak_bytes", "tokens_per_second", "step_seconds")
TIMED = ("tokens_per_second", "step_seconds", "saved_seconds")


def summarise(runs: Runs) -> dict[str, dict[str, Spread]]:
    """Return the spread of every measure by variant; failed runs do not count.

    Variants without a run that succeeded are absent, and so are measures that are nowhere given.
    """
    summary: dict[str, dict[str, Spread]] = {}
    for variant in VARIANTS:
        done = [run for run in runs if run["variant"] == variant and "error" not in run]
        for measure in MEASURES:
            values = [run[measure.name] for run in done if run.get(measure.name) is not None]
            if values:
                summary.setdefault(variant, {})[measure.name] = Spread.of(values)
    return summary


def reference(summary: Mapping[str, Mapping[str, Spread]]) -> dict[str, str]:
    """Return the QLoRA to compare with: by measure, the variant that is best in it.

    Empty without a QLoRA.
    """
    known = [variant for variant in QLORA if variant in summary]
    best = {}
    for measure in MEASURES:
        given = [v for v in known if measure.name in summary[v]]
        if given and measure.better:
            choose = min if measure.better == "less" else max
            best[measure.name] = choose(given, key=lambda v: summary[v][measure.name].median)
    return best


def ratios(summary: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, float]]:
    """Return each variant's median over that of the :func:`reference`, by variant and measure."""
    best = reference(summary)
    return {
        variant: {
            m: of[m].median / summary[best[m]][m].median for m in RATIOS if m in best and m in of
        }
        for variant, of in summary.items()
    }


def as_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with medians, spreads and ratios beside its ``runs``."""
    summary = summarise(document["runs"])
    return {
        **document,
        "summary": {v: {m: asdict(s) for m, s in of.items()} for v, of in summary.items()},
        "qlora": reference(summary),
        "ratios": ratios(summary),
    }


def as_markdown(document: Mapping[str, Any], chart: str = "") -> str:
    """Return the table with what it was measured on.

    Args:
        document: ``machine``, ``settings`` and ``data`` (flat), ``base`` (the marks of the
            untrained model; may be empty) and ``runs``: each ``variant``, ``seed`` and either the
            fields of a result or ``error``.
        chart: name of the picture beside it; empty for none.
    """
    summary = summarise(document["runs"])
    parts = [
        "# Ours against PEFT's LoRA, QLoRA and AdaLoRA",
        "Written by `benchmarks/peers.py`; [what the columns mean](../README.md). Median over the "
        "seeds, smallest and largest in parentheses.",
        _rows(summary),
        *([f"![Held-out loss against peak memory]({chart})"] if chart else []),
        *_remarks(document, summary),
        "## Measured with",
        "\n".join(
            f"- {group}: {', '.join(f'{k} {v}' for k, v in document[group].items())}"
            for group in ("machine", "settings", "data")
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(summary: Mapping[str, Mapping[str, Spread]]) -> str:
    titles = [m.title for m in MEASURES]
    head = ["variant", titles[0], "÷ QLoRA", titles[1], "× QLoRA", *titles[2:]]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    over = ratios(summary)
    for variant, of in summary.items():
        cells = [of[m.name].text(m.show) if m.name in of else "" for m in MEASURES]
        memory, speed = (
            f"{over[variant][m]:.2f}" if m in over[variant] else ""
            for m in ("peak_bytes", "tokens_per_second")
        )
        rows.append([variant, cells[0], memory, cells[1], speed, *cells[2:]])
    if not any(set(TIMED) & set(of) for of in summary.values()):
        timed = {m.title for m in MEASURES if m.name in TIMED} | {"× QLoRA"}
        rows = [
            [c for c, title in zip(row, head, strict=True) if title not in timed] for row in rows
        ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _remarks(document: Mapping[str, Any], summary: Mapping[str, Mapping[str, Spread]]) -> list[str]:
    """Which variant is what, what QLoRA stands for, the base model's marks, what failed."""
    remarks = ["\n".join(f"- `{variant}`: {NOTES[variant]}" for variant in summary)]
    if best := reference(summary):
        speed = best.get("tokens_per_second")
        remarks.append(
            f"QLoRA stands for the better of its variants: `{best['peak_bytes']}` for the peak"
            + (f", `{speed}` for the speed." if speed else "; other work ran beside, so no times.")
        )
    if base := document["base"]:
        remarks.append(
            f"Before training: held-out loss {base['nll']:.3f}"
            + (f", ROUGE-L {base['rouge_l']:.3f}." if base["rouge_l"] is not None else ".")
        )
    remarks += _budgets(document["runs"])
    failed = [
        f"- `{run['variant']}`, seed {run['seed']}: {run['error']}"
        for run in document["runs"]
        if "error" in run
    ]
    if failed:
        remarks.append("Failed:\n\n" + "\n".join(failed))
    return remarks


def _budgets(runs: Runs) -> list[str]:
    """The budgets that ours was given, and what its plans made of them."""
    lines = []
    for variant in VARIANTS:
        for run in runs:
            if run["variant"] == variant and run.get("budget_bytes"):
                plan = run["plan"]
                lines.append(
                    f"- `{variant}`, seed {run['seed']}: {run['budget_bytes'] / MB:.0f} MB, "
                    f"{plan['average_bits']:.2f} bits and rank {plan['average_rank']:.1f} on "
                    f"average, checkpointing {plan['checkpointing']}"
                    + (
                        f"; {run['asked_bytes'] / MB:.0f} MB were asked for, less than it needs"
                        if MB < run["asked_bytes"] < run["budget_bytes"]
                        else ""
                    )
                )
    return ["Budgets of ours:\n\n" + "\n".join(lines)] if lines else []


def write_results(folder: Path, name: str, document: dict[str, Any], text: str) -> None:
    """Write ``NAME.json`` and its table ``NAME.md`` into ``folder``, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", document)
    (folder / f"{name}.md").write_text(text, "utf-8")
