"""Runs side by side: a row for each method or setting, differences against one of them, CSV.

Runs that differ in their seed alone are one row. A row is compared with the reference seed by seed,
and only where both had the very same class and quiz. No torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from core.compare.entries import MEASURES, Entry, Measure, grouped, one_a_seed
from core.compare.interval import Spread
from core.compare.words import Wording
from core.config import RunConfig
from core.methods import METHODS, composed

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a cell that a spreadsheet runs can begin
_NOT_NAMED = ("name", "train.seed", "method", "device")


@dataclass(frozen=True)
class Cell:
    """A measure of a row.

    Attributes:
        spread: over the seeds that were measured.
        difference: row minus reference over the seeds that both have; ``None`` without any.
        ratio: median of the row divided by the reference's over those seeds, of costs only.
    """

    spread: Spread
    difference: Spread | None
    ratio: float | None


@dataclass(frozen=True)
class Row:
    """A method or setting.

    Attributes:
        label: its method, and in what it differs from the other rows.
        entries: its runs, in the order in which they were given.
        cells: what was measured, by measure.
    """

    label: str
    entries: tuple[Entry, ...]
    cells: dict[str, Cell]

    @property
    def done(self) -> int:
        """How many of its runs are finished."""
        return sum(entry.status == "done" for entry in self.entries)

    @property
    def n(self) -> int:
        """How many seeds count in its figures."""
        return len(one_a_seed(self.entries))

    def summary(self, words: Wording) -> str:
        """Say how many of its runs are done, and how many seeds count."""
        done = words("done", n=self.done, of=len(self.entries))
        return f"{done} · {words('count', n=self.n)}" if self.n else done


@dataclass(frozen=True)
class Comparison:
    """Rows and what to know about them.

    Attributes:
        rows: in the order in which their runs were given.
        reference: place of the row that the others are compared with.
        measures: those that at least one row has.
        notes: what makes the rows less comparable, in sentences.
        base_nll: quiz loss of the base model, where all runs asked the same; else ``None``.
    """

    rows: tuple[Row, ...]
    reference: int
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    base_nll: float | None


def compare(entries: Sequence[Entry], words: Wording, reference: str = "") -> Comparison:
    """Compare runs.

    Args:
        entries: at least one.
        words: the language of labels and notes.
        reference: id of a run of the row that the others are compared with; the first if empty
            or not among them.
    """
    groups = grouped(entries)
    place = next((k for k, group in enumerate(groups) if reference in [e.id for e in group]), 0)
    against = one_a_seed(groups[place])
    rows = tuple(
        Row(label, tuple(group), _cells(one_a_seed(group), against, own_row=k == place))
        for k, (label, group) in enumerate(zip(labels(groups, words), groups, strict=True))
    )
    measures = tuple(m for m in MEASURES if any(m.id in row.cells for row in rows))
    bases = {(e.data, e.base_nll) for e in entries if e.base_nll is not None}
    base = next(iter(bases))[1] if len(bases) == 1 else None
    return Comparison(rows, place, measures, tuple(_notes(groups, place, words)), base)


def _cells(own: Sequence[Entry], against: Sequence[Entry], *, own_row: bool) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    other = {(e.seed, e.data): e for e in against if e.data}
    for measure in MEASURES:
        values = [e.measures[measure.id] for e in own if measure.id in e.measures]
        if not values:
            continue
        pairs = [
            (e.measures[measure.id], partner.measures[measure.id])
            for e in own
            if (partner := other.get((e.seed, e.data))) is not None
            and measure.id in e.measures
            and measure.id in partner.measures
        ]
        pairs = [] if own_row else pairs
        difference = Spread.of([a - b for a, b in pairs]) if pairs else None
        cells[measure.id] = Cell(Spread.of(values), difference, _ratio(measure, pairs))
    return cells


def _ratio(measure: Measure, pairs: Sequence[tuple[float, float]]) -> float | None:
    if not (measure.cost and pairs):
        return None
    mine, theirs = (Spread.of(values).median for values in zip(*pairs, strict=True))
    return mine / theirs if theirs else None


# --- labels --------------------------------------------------------------------------------------


def labels(groups: Sequence[Sequence[Entry]], words: Wording) -> list[str]:
    """Name rows by method and by the settings in which they differ and are not the usual ones.

    Rows of one method differ in a setting that it does not fix, of which at most one has the usual
    value; so no two rows have the same label.
    """
    firsts = [group[0] for group in groups]
    varied = _varied(firsts)
    found = []
    for entry in firsts:
        usual, fixed = _usual(entry.method), _fixed(entry.method)
        changed = [
            words.setting(path, entry.settings.get(path))
            for path in varied
            if path not in fixed and entry.settings.get(path) != usual.get(path)
        ]
        found.append(" · ".join([words.method(entry.method), *changed]))
    return found


def _varied(entries: Sequence[Entry]) -> list[str]:
    """Settings with more than one value among the rows whose methods leave them open."""
    paths = dict.fromkeys(path for entry in entries for path in entry.settings)
    return [
        path
        for path in paths
        if path not in _NOT_NAMED
        and len({repr(e.settings.get(path)) for e in entries if path not in _fixed(e.method)}) > 1
    ]


def _fixed(method_id: str) -> frozenset[str]:
    known = next((m for m in METHODS if m.id == method_id), None)
    fixed = frozenset(path for path, _ in known.settings) if known else frozenset()
    return fixed | {"budget_bytes"} if method_id == "distill" else fixed


def _usual(method_id: str) -> dict[str, Any]:
    config = RunConfig(method=method_id)
    if any(m.id == method_id for m in METHODS):
        config = composed(config)
    tree = config.to_json()
    flat = {k: v for k, v in tree.items() if not isinstance(v, dict)}
    for group, values in tree.items():
        if isinstance(values, dict):
            flat |= {f"{group}.{name}": value for name, value in values.items()}
    return flat


# --- notes ---------------------------------------------------------------------------------------


def _notes(groups: Sequence[Sequence[Entry]], place: int, words: Wording) -> list[str]:
    entries = [entry for group in groups for entry in group]
    others = [group for k, group in enumerate(groups) if k != place]
    notes = []
    quizzes = {e.seed: e.data for e in groups[place] if e.data}
    if any(e.data and e.data != quizzes.get(e.seed, e.data) for g in others for e in g):
        notes.append(words("notes.data"))
    seeds = {e.seed for e in groups[place]}
    if any(not seeds & {e.seed for e in group} for group in others):
        notes.append(words("notes.seeds"))
    if len({e.settings.get("model") for e in entries}) > 1:
        notes.append(words("notes.model"))
    limits = {e.budget_bytes for e in entries if "budget_bytes" not in _fixed(e.method)}
    if len(limits) > 1:
        notes.append(words("notes.budget"))
    if any(e.status == "done" for e in entries) and all(len(one_a_seed(g)) < 2 for g in groups):
        notes.append(words("notes.one_seed"))
    if any(e.interrupted and e.status == "done" for e in entries):
        notes.append(words("notes.interrupted"))
    if unfinished := sum(e.status != "done" for e in entries):
        notes.append(words("notes.unfinished", n=unfinished, of=len(entries)))
    return notes


# --- as documents --------------------------------------------------------------------------------


def to_json(found: Comparison, words: Wording) -> dict[str, Any]:
    """Return plain values, numbers beside the texts of a table."""
    return {
        "measures": [
            {"id": m.id, "name": words(f"measures.{m.id}"), "better": m.better}
            for m in found.measures
        ],
        "reference": found.reference,
        "base_nll": found.base_nll,
        "notes": list(found.notes),
        "rows": [_row_json(row, words) for row in found.rows],
    }


def _row_json(row: Row, words: Wording) -> dict[str, Any]:
    by_id = {m.id: m for m in MEASURES}
    return {
        "label": row.label,
        "done": row.done,
        "summary": row.summary(words),
        "budget_bytes": row.entries[0].budget_bytes,
        "runs": [
            {"id": e.id, "name": e.name, "seed": e.seed, "status": e.status, "problem": problem(e)}
            for e in row.entries
        ],
        "cells": {k: cell_json(by_id[k], cell, row, words) for k, cell in row.cells.items()},
    }


def cell_json(measure: Measure, cell: Cell, row: Row, words: Wording) -> dict[str, Any]:
    """Return a cell's numbers and its texts: value, interval and number, difference, verdict."""
    spread, gap = cell.spread, cell.difference
    interval = difference = verdict = ""
    if spread.low is not None and spread.high is not None:
        ends = {"low": measure.text(max(spread.low, 0.0)), "high": measure.text(spread.high)}
        if measure.id == "mcc":  # the one measure that can be negative
            ends["low"] = measure.text(spread.low)
        if ends["low"] != ends["high"]:
            interval = words("interval", **ends)
    if gap is not None:
        verdict = gap.verdict(measure.better)
        difference = words("ratio", x=f"{cell.ratio:.2f}") if cell.ratio else _signed(gap, words)
    return {
        "n": spread.n,
        "median": spread.median,
        "low": spread.low,
        "high": spread.high,
        "text": measure.text(spread.median),
        "interval": interval,
        "count": words("count", n=spread.n) if spread.n != row.n else "",
        "difference": gap and {"n": gap.n, "mean": gap.mean, "low": gap.low, "high": gap.high},
        "ratio": cell.ratio,
        "difference_text": difference,
        "verdict": verdict,
        "verdict_text": words(f"verdicts.{verdict}") if verdict else "",
        "over_budget": measure.id == "peak_bytes" and any(_over(e) for e in row.entries),
    }


def _over(entry: Entry) -> bool:
    return 0 < entry.budget_bytes < entry.measures.get("peak_bytes", 0.0)


def _signed(gap: Spread, words: Wording) -> str:
    if gap.low is None:
        return f"{gap.mean:+.3f}"
    return words(
        "difference", mean=f"{gap.mean:+.3f}", low=f"{gap.low:+.3f}", high=f"{gap.high:+.3f}"
    )


def problem(entry: Entry) -> str:
    """Return why a run failed, and what to do, in a line; empty if it did not."""
    return entry.problem.sentence() if entry.problem else ""


def as_text(found: Comparison, words: Wording) -> list[str]:
    """Return the comparison as lines for a terminal: a row, then what was measured in it."""
    lines = []
    for k, row in enumerate(found.rows):
        mark = f" ({words('is_reference')})" if k == found.reference and len(found.rows) > 1 else ""
        lines.append(f"{row.label}, {row.summary(words)}{mark}")
        for m in found.measures:
            if (cell := row.cells.get(m.id)) is not None:
                said = cell_json(m, cell, row, words)
                parts = ("text", "interval", "count", "difference_text", "verdict_text")
                texts = "  ".join(said[part] for part in parts if said[part])
                lines.append(f"  {words(f'measures.{m.id}')}: {texts}")
        lines += [f"  {problem(e)}" for e in row.entries if e.problem]
    return lines + list(found.notes)


def to_csv(found: Comparison, words: Wording) -> str:
    """Return a line for each run with what it measured, and one for each row with its summary.

    Decimal points and commas between cells whatever the language. A text that a spreadsheet would
    take for a formula begins with an apostrophe.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    head = [words(f"columns.{name}") for name in ("kind", "label", "run", "seed", "status", "why")]
    for m in found.measures:
        name = words(f"measures.{m.id}")
        head += [name, *(f"{name} · {words(f'columns.{part}')}" for part in _PARTS)]
    writer.writerow([safe(cell) for cell in head])
    for row in found.rows:
        for e in row.entries:
            cells = [[e.measures.get(m.id, ""), *[""] * len(_PARTS)] for m in found.measures]
            lead = ["run", row.label, e.name, e.seed, e.status, problem(e)]
            writer.writerow([safe(cell) for cell in chain(lead, *cells)])
        cells = [_summary(row.cells.get(m.id)) for m in found.measures]
        lead = ["summary", row.label, "", "", words("done", n=row.done, of=len(row.entries)), ""]
        writer.writerow([safe(cell) for cell in chain(lead, *cells)])
    return file.getvalue()


_PARTS = ("n", "low", "high", "difference", "difference_low", "difference_high")


def _summary(cell: Cell | None) -> list[Any]:
    if cell is None:
        return [""] * (1 + len(_PARTS))
    spread, gap = cell.spread, cell.difference
    gaps = [gap.mean, gap.low, gap.high] if gap else [""] * 3
    found = [spread.median, spread.n, spread.low, spread.high, *gaps]
    return ["" if value is None else value for value in found]


def safe(cell: Any) -> Any:
    """Return a cell that no spreadsheet runs; numbers stay numbers."""
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell
