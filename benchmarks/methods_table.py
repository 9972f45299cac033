"""The table of ``benchmarks.methods``: medians with intervals, and what they mean. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.summary import Difference, differences
from benchmarks.table import MB, Runs

LESS = ("nll", "perplexity", "cer")  # marks of which less is better
Looks = Sequence[Sequence[float]]  # (step, held-out loss), in the order of time


@dataclass(frozen=True)
class Column:
    """A field of the runs that is shown."""

    name: str
    title: str
    show: Callable[[float], str]


def _mark(name: str, title: str, digits: int = 3) -> Column:
    return Column(name, title, lambda v: f"{v:.{digits}f}")


MARKS = {
    column.name: column
    for column in (
        _mark("accuracy", "accuracy"),
        _mark("f1", "F1"),
        _mark("mcc", "MCC"),
        _mark("em", "exact match"),
        _mark("exact", "right numbers"),
        _mark("bleu", "BLEU", 1),
        _mark("rouge_l", "ROUGE-L"),
        _mark("cer", "CER"),
        _mark("nist", "NIST", 2),
        _mark("nll", "loss"),
        _mark("perplexity", "perplexity", 2),
    )
}
COSTS = (
    Column("trained_numbers", "trained numbers", lambda v: f"{v:,.0f}"),
    Column("file_bytes", "file, kB", lambda v: f"{v / 1e3:,.0f}"),
    Column("model_bytes", "model, MB", lambda v: f"{v / MB:,.0f}"),
    Column("peak_bytes", "peak, MB", lambda v: f"{v / MB:,.0f}"),
    Column("seconds", "training, s", lambda v: f"{v:,.0f}"),
    Column("step_seconds", "s/step", lambda v: f"{v:.2f}"),
    Column("tokens_per_second", "writes, tokens/s", lambda v: f"{v:.1f}"),
)


def better(mark: str) -> str:
    """``less`` or ``more``."""
    return "less" if mark in LESS else "more"


# --- steps to a loss ----------------------------------------------------------------------------


def steps_to(looks: Looks, target: float) -> float | None:
    """Steps until the held-out loss is at ``target``, between two looks linearly; None if never."""
    before: Sequence[float] | None = None
    for look in looks:
        step, loss = look
        if loss <= target:
            if before is None or before[1] <= loss:
                return float(step)
            share = (before[1] - target) / (before[1] - loss)
            return float(before[0] + share * (step - before[0]))
        before = look
    return None


def target_of(runs: Runs, against: str) -> float | None:
    """The loss that every seed of ``against`` reaches: the largest of their smallest losses."""
    lowest = [
        min(loss for _, loss in run["looks"])
        for run in runs
        if run["variant"] == against and len(run.get("looks", ())) > 2
    ]
    return max(lowest) if lowest else None


# --- summary ------------------------------------------------------------------------------------


def with_summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with ``summary`` in each part, computed from its runs."""
    main, against = document["main"], document["against"]
    parts = [{**part, "summary": summary_of(part, main, against)} for part in document["parts"]]
    return {**document, "parts": parts}


def summary_of(part: Mapping[str, Any], main: str, against: str) -> dict[str, Any]:
    """By arm: ``median`` and ``interval`` of every measure, and how it stands to ``against``.

    ``difference`` is that of the main mark, run against run of the same seed; ``score_share`` and
    ``numbers_share`` are medians over those of ``against``. Failed runs do not count.
    """
    runs = [run for run in part["runs"] if "error" not in run]
    target = target_of(runs, against)
    names = [*MARKS, *(column.name for column in COSTS)]
    found: dict[str, Any] = {}
    for arm in part["arms"]:
        own = [run for run in runs if run["variant"] == arm]
        values = {n: [r[n] for r in own if r.get(n) is not None] for n in names}
        measures = {n: _spread(v) for n, v in values.items() if v}
        if measures:
            found[arm] = {"seeds": len(own), "measures": measures}
            gaps = differences(runs, arm, against, main) if arm != against else []
            if gaps:
                found[arm]["difference"] = asdict(Difference.of(gaps))
        if measures and target is not None:
            found[arm]["steps_to"] = _reached(own, target)
    return {"target": target, "arms": _with_shares(found, main, against)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    around = Difference.of(values)
    interval = None if around.low is None else [around.low, around.high]
    return {"median": statistics.median(values), "interval": interval}


def _reached(runs: Runs, target: float) -> dict[str, Any]:
    steps = [steps_to(run.get("looks", ()), target) for run in runs]
    done = [s for s in steps if s is not None]
    return {"never": len(steps) - len(done), **(_spread(done) if done else {"median": None})}


def _with_shares(found: dict[str, Any], main: str, against: str) -> dict[str, Any]:
    reference = found.get(against, {}).get("measures", {})
    for arm, facts in found.items():
        for share, name in (("score_share", main), ("numbers_share", "trained_numbers")):
            own = facts["measures"].get(name)
            base = reference.get(name)
            if arm != against and own and base and base["median"] > 0:
                facts[share] = own["median"] / base["median"]
    return found


# --- markdown -----------------------------------------------------------------------------------


def as_markdown(document: Mapping[str, Any]) -> str:
    """The document of :func:`with_summary` as a page."""
    suite = document["suite"]
    settings = ", ".join(f"{k} {v}" for k, v in document["settings"].items())
    pages = [
        f"# {document['title']}: {suite['title']}",
        "Written by `benchmarks/methods.py`; [how](../README.md#methods-on-public-suites). Median "
        "over the seeds; in parentheses Student's 95 % interval of the mean over them. Differences "
        f"are to `{document['against']}`, run against run of the same seed. Intervals know the "
        "seeds of training only, not other test examples.",
        f"{suite['note']} Licence of the data: {suite['licence']}. Nothing of it is in this file.",
        *(page for part in document["parts"] for page in _part(document, part)),
        *_listed("Left out:", document["left_out"]),
        "## Measured with",
        "\n".join(
            [
                f"- machine: {', '.join(f'{k} {v}' for k, v in document['machine'].items())}",
                f"- settings: {settings}",
            ]
        ),
    ]
    return "\n\n".join(pages) + "\n"


def _part(document: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    """What one model gave."""
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in part["data"].items())
    shown = _columns(document, part)
    failed = [
        f"`{run['variant']}`, seed {run['seed']}: {run['error']}"
        for run in part["runs"]
        if "error" in run
    ]
    return [
        f"## {part['model']}",
        _table(document, part, shown),
        *_untrained(part, shown),
        *_listed("", _standings(document, part)),
        *_listed("Rates:", _rates(part)),
        *_listed("Left out:", part["left_out"]),
        *_listed("Failed:", failed),
        f"Examples: {facts}.",
    ]


def _columns(document: Mapping[str, Any], part: Mapping[str, Any]) -> list[Column]:
    """The suite's marks, the one compared if it is another, and every cost that a run has."""
    names = list(dict.fromkeys([*document["suite"]["shown"], document["main"]]))
    have = {name for facts in part["summary"]["arms"].values() for name in facts["measures"]}
    columns = [MARKS[name] for name in names] + list(COSTS)
    return [column for column in columns if column.name in have]


def _table(document: Mapping[str, Any], part: Mapping[str, Any], shown: Sequence[Column]) -> str:
    summary, main = part["summary"], document["main"]
    target = summary["target"]
    head = ["", "rate", "seeds", *(c.title for c in shown), f"{MARKS[main].title}, difference"]
    if target is not None:
        head.append(f"steps to a loss of {target:.3f}")
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for arm, facts in summary["arms"].items():
        cells = [_cell(facts["measures"].get(c.name), c.show) for c in shown]
        gap = facts.get("difference")
        row = [f"`{arm}`", f"x{part['arms'][arm]['tuning']['factor']:g}", str(facts["seeds"])]
        row += [*cells, Difference(**gap).text(better(main)) if gap else ""]
        if target is not None:
            row.append(_steps(facts["steps_to"]))
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(spread: Mapping[str, Any] | None, show: Callable[[float], str]) -> str:
    if spread is None:
        return ""
    if spread["interval"] is None:
        return show(spread["median"])
    low, high = (show(v) for v in spread["interval"])
    middle = show(spread["median"])
    return middle if low == high == middle else f"{middle} ({low} to {high})"


def _steps(reached: Mapping[str, Any]) -> str:
    if reached["median"] is None:
        return "never"
    text = _cell(reached, lambda v: f"{v:.1f}")
    return f"{text}; {reached['never']} seeds never" if reached["never"] else text


def _untrained(part: Mapping[str, Any], shown: Sequence[Column]) -> list[str]:
    """Marks of the untrained model, and of comparing words alone where pairs were marked."""
    named = [("Before training", part["before"])]
    words = next((r["words_alone"] for r in part["runs"] if "words_alone" in r), None)
    named.append(("Comparing words alone", words or {}))
    lines = []
    for title, found in named:
        told = [f"{c.title} {c.show(found[c.name])}" for c in shown if c.name in found]
        if told:
            lines.append(f"{title}: {', '.join(told)}.")
    if "error" in part["before"]:
        lines.append(f"Before training: not measured, {part['before']['error']}.")
    return lines


def _standings(document: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    """What part of the reference's mark and trained numbers each arm has."""
    against, title = document["against"], MARKS[document["main"]].title
    lines = []
    for arm, facts in part["summary"]["arms"].items():
        if "score_share" in facts:
            said = f"`{arm}`: {100 * facts['score_share']:.1f} % of the {title} of `{against}`"
            if "numbers_share" in facts:
                said += f", with {100 * facts['numbers_share']:.2g} % of its trained numbers"
            lines.append(said + ".")
    return lines


def _rates(part: Mapping[str, Any]) -> list[str]:
    """What was tried for each arm, and a warning where a better rate may lie outside."""
    lines = []
    for arm, facts in part["arms"].items():
        tuning = facts["tuning"]
        tried = ", ".join(
            f"x{factor} {'failed' if loss is None else f'{loss:.3f}'}"
            for factor, loss in tuning["losses"].items()
        )
        said = f"`{arm}`: loss on the slice held out of training: {tried}" if tried else ""
        if tuning["factor"] is None:
            said += "; no rate worked"
        elif tuning["edge"]:
            said += "; the best is at the edge of the grid"
        if said:
            lines.append(said + ".")
    return lines


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return [*([title] if title else []), "\n".join(f"- {line}" for line in lines)]
