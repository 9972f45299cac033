"""Turns plans and events into the small documents that the pages draw.

No drawing happens here: the browser gets grids and columns of numbers, and only what is new since
its cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import Problem
from studio.text import Words

PARTS = (
    "process",
    "weights",
    "embeddings",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "buffers",
    "allocator",
)
_STEP_COLUMNS = (
    "step",
    "loss",
    "lr",
    "tokens_per_second",
    "memory_bytes",
    "peak_bytes",
    "seconds_left",
)
# Only the last of these matters to a page; the others are passed on one by one.
_LATEST = ("phase", "memory", "verdict", "sample", "data", "checkpoint", "status")


def plan_grid(plan: dict[str, Any], words: Words) -> dict[str, Any]:
    """Return a plan as layers x modules.

    Args:
        plan: ``Plan.to_json()``.
        words: the language of the sentences.

    Returns:
        ``modules`` (columns), ``layers`` (rows), and by row and column ``names``, ``bits``,
        ``ranks``, ``targets`` and ``why``; an absent cell is ``None``.
    """
    linears = plan["linears"]
    modules = list(dict.fromkeys(x["module"] for x in linears))
    layers = sorted({x["layer"] for x in linears})
    column = {name: i for i, name in enumerate(modules)}
    row = {layer: i for i, layer in enumerate(layers)}
    grid: dict[str, Any] = {"modules": modules, "layers": layers}
    for key in ("names", "bits", "ranks", "targets", "why"):
        grid[key] = [[None] * len(modules) for _ in layers]
    for x in linears:
        r, c = row[x["layer"]], column[x["module"]]
        grid["names"][r][c] = x["name"]
        grid["bits"][r][c] = x["bits"]
        grid["ranks"][r][c] = x["rank"]
        grid["targets"][r][c] = x["target_rank"]
        grid["why"][r][c] = why(x, words)
    return grid


def why(linear: dict[str, Any], words: Words) -> str:
    """Return the one sentence why a layer got its bits and rank, in the page's language."""
    code = linear.get("why_code", "").replace(".lowest", "_lowest")
    pattern = words.get(code, "")
    if not pattern:
        return str(linear["why"])
    try:
        return pattern.format(**linear.get("why_values", {}))
    except (KeyError, IndexError, ValueError):
        return str(linear["why"])


def parts_of(plan: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the predicted bytes at the peak, largest first, nothing left out."""
    parts: dict[str, int] = plan["parts"]
    known = [(name, parts[name]) for name in PARTS if parts.get(name)]
    other = [(name, size) for name, size in parts.items() if name not in PARTS and size]
    return sorted(known + other, key=lambda part: -part[1])


def live_delta(events: Sequence[dict[str, Any]], words: Words) -> dict[str, Any]:
    """Return what a live page has to add for ``events``.

    Returns:
        ``steps``: one list a step in the order of ``columns``; ``base`` and ``tuned``: held-out
        ``[step, nll]``; ``ranks`` and ``bits``: the newest value by layer name; ``changes``: a
        sentence for every change of bits while training, kept or taken back; ``pairs``: marks of a
        model that compares questions; ``plan``: a grid when a plan was made; ``notes``; and the
        newest of each other kind under its name.
    """
    delta: dict[str, Any] = {"columns": _STEP_COLUMNS, "steps": [], "base": [], "tuned": []}
    delta |= {"ranks": {}, "bits": {}, "notes": [], "changes": [], "pairs": []}
    for event in events:
        kind = event.get("kind")
        if kind == "step":
            delta["steps"].append([event.get(name) for name in _STEP_COLUMNS])
            delta["total"] = event.get("steps")
        elif kind == "evaluated":
            which = "base" if event.get("which") == "base" else "tuned"
            delta[which].append([event["step"], event["nll"]])
        elif kind == "pairs":
            delta["pairs"].append({k: event[k] for k in ("step", "slice", "marks")})
        elif kind in ("ranks", "bits"):
            delta[kind].update(event[kind])
        elif kind in ("requantized", "rolled_back"):
            delta["changes"].append(_change(event, words))
        elif kind == "plan":
            delta["plan"] = plan_summary(event["plan"], words)
        elif kind == "note":
            note = Problem("", event["text"], code=event.get("code", ""))
            delta["notes"].append(words.problem(note).what)
        elif kind == "failed":
            delta["failed"] = _failure(event, words)
        elif kind in _LATEST:
            delta[str(kind)] = {k: v for k, v in event.items() if k not in ("kind", "seq")}
    return delta


def _change(event: dict[str, Any], words: Words) -> str:
    """Say that a layer was stored in other bits, or that this was taken back."""
    after = event.get("loss_after")
    values = {
        "step": event["step"],
        "layer": event["layer"],
        "before": event["from_bits"],
        "after": event["to_bits"],
        "loss_before": f"{event['loss_before']:.3f}",
    }
    if event["kind"] == "requantized":
        return words("train.requantized", **values, loss_after=f"{after:.3f}")
    if after is None:
        return words("train.no_room", **{k: values[k] for k in ("step", "layer", "after")})
    return words("train.rolled_back", **values, loss_after=f"{after:.3f}")


def _failure(event: dict[str, Any], words: Words) -> dict[str, str]:
    problem = words.problem(
        Problem(event.get("where", ""), event["what"], event["action"], code=event.get("code", ""))
    )
    return {"what": problem.what, "action": problem.action, "code": problem.code}


def plan_summary(plan: dict[str, Any], words: Words) -> dict[str, Any]:
    """Return the grid of a plan and the figures shown beside it."""
    keys = ("predicted_peak_bytes", "budget_bytes", "average_bits", "average_rank", "micro_batch")
    return {"grid": plan_grid(plan, words), **{key: plan.get(key) for key in keys}}
