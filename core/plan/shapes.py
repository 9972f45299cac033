"""A plan for a model of which only ``config.json`` is there: a prediction, nothing is measured.

Bytes are counted as for any model: the stored sizes of all layers are exact, and a step is counted
on shapes (:mod:`core.plan.memory`). What is not known is how much each layer matters. Our
assumption, said in every line of the plan: all layers are alike. What b bits cost a layer is
proportional to 4^-b and to its number of weights (the mean squared error of a uniform grid); a rank
takes its share r / min(o, i) of that away (a flat spectrum); and what a rank can learn is the same
for every byte that it takes, with diminishing returns (square root of r). The same solver then
shares bits and ranks out. The costs have no unit, so no loss is predicted.

On a card (``cuda``) further assumptions, none of them measured: activations in bfloat16; a context
of :data:`core.device.CONTEXT_BYTES` and no libraries of the processor; every large tensor rounded
up by as much as :data:`CUDA_ROUND`; attention as on the processor; a layer expanded as a whole,
with its codes.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core import modelcheck
from core.config import RunConfig
from core.device import CONTEXT_BYTES
from core.errors import ConfigError, ModelError
from core.plan.memory import PIECES, Probe, measure_step, probe
from core.plan.planner import SHARE, Situation, make_plan
from core.plan.planning import LEAST_TOKENS, calibration_tokens, shape_of
from core.plan.profile import RANKS, WIDTHS, Price
from core.plan.types import LinearPlan, Plan

CUDA_ROUND = 2**20  # the caching allocator leaves up to so much of a large block unused
# Bytes of scratch a weight while a layer is expanded on a card: its codes, and for 3 bits the place
# in the table (4 bytes for 8 weights) and what is found there (8 for 8).
CUDA_EXPANSION = 2.5
ASSUMED = "No weights were measured: all layers are taken to be alike, so the"


def plan_shape(
    source: Path | Mapping[str, Any],
    config: RunConfig,
    *,
    device: str = "cpu",
    data_sha256: str = "",
) -> Plan:
    """Plan for a model that is not there (see the head of this file).

    Args:
        source: a folder with ``config.json``, or what is in one.
        config: settings and budget; a step is taken to have ``train.tokens_per_step`` tokens, its
            longest example ``train.max_length``.
        device: ``cpu`` or ``cuda``.
        data_sha256: hash of the data, if there is any.

    Raises:
        ModelError: if the configuration is missing, unsafe, or of no supported family.
        ConfigError: for another device.
    """
    if device not in ("cpu", "cuda"):
        where = "device"
        raise ConfigError(
            f"{where} cannot be {device!r}."[:200],
            where=where,
            action="Choose cpu or cuda.",
            code="config.choice",
        )
    if isinstance(source, Path):
        return _plan(source, config, device, data_sha256)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(source)), "utf-8")
        return _plan(Path(folder), config, device, data_sha256)


def _plan(folder: Path, config: RunConfig, device: str, data_sha256: str) -> Plan:
    _check(folder)
    shape = shape_of(folder)
    found = _on_card(folder, shape) if device == "cuda" else probe(folder, torch.device("cpu"))
    step, longest = found.step, config.train.max_length
    rest = _rounding(shape["linears"]) if device == "cuda" else PIECES
    room = config.budget_bytes * SHARE - found.process - rest
    room -= shape["fixed"] + shape["tables_8"]
    room = room if config.budget_bytes else math.inf
    seen = max(calibration_tokens(config, step, shape["pricing"], room), longest)
    linears = shape["linears"]
    situation = Situation(
        prices=assumed_prices(linears),
        step=step,
        process=found.process,
        fixed=shape["fixed"],
        tables=shape["tables"],
        longest=longest,
        own=max(config.train.tokens_per_step, longest),
        shared=0,
        profile_peak=int(step.at(seen, step.layers) + shape["pricing"]),
        least_profile_peak=int(step.at(max(LEAST_TOKENS, longest), step.layers) + shape["pricing"]),
        model=config.model,
        data_sha256=data_sha256,
        allocator=rest,
    )
    plan = make_plan(config, situation)
    return replace(plan, linears=[_assumed(x) for x in plan.linears])


def _check(folder: Path) -> None:
    """Refuse what no other part of the studio would open."""
    family = modelcheck.check_json(folder / "config.json").get("model_type")
    if family not in modelcheck.FAMILIES:
        raise ModelError(
            f"Models of the family {str(family)[:40]!r} are not supported.",
            where=folder.name,
            action=f"Supported: {', '.join(modelcheck.FAMILIES)}.",
            code="model.unsupported",
        )


def _on_card(folder: Path, shape: Mapping[str, Any]) -> Probe:
    """A step and a process on a card, as far as they can be known without one."""
    step = measure_step(folder, dtype=torch.bfloat16)
    largest = max(o * i for _, o, i in shape["linears"])
    lines = {
        moment: [f + CUDA_EXPANSION * largest, *rest] for moment, (f, *rest) in step.lines.items()
    }
    return Probe(CONTEXT_BYTES, replace(step, lines=lines))


def _rounding(linears: list[tuple[str, int, int]]) -> int:
    """What a card's allocator leaves unused of the codes: at most their own size again."""
    return sum(min(CUDA_ROUND, o * i // 4) for _, o, i in linears)


def assumed_prices(linears: list[tuple[str, int, int]]) -> list[Price]:
    """Prices of linear layers (name, o, i) that are all alike.

    In units of what 4 bits cost in all layers together, without adapters.
    """
    weights = sum(o * i for _, o, i in linears)

    def price(name: str, o: int, i: int) -> Price:
        kept = [max(0.0, 1 - r / min(o, i)) for r in RANKS]
        cost = {
            b: [4.0 ** (4 - b) * o * i / weights * left for left in kept] for b in (*WIDTHS, 8, 16)
        }
        return Price(name, o, i, cost, [(o + i + 1) * r**0.5 for r in RANKS])

    return [price(*linear) for linear in linears]


def _assumed(linear: LinearPlan) -> LinearPlan:
    """The line of a layer, without the sentence and the loss that only a measurement can give."""
    why = f"{ASSUMED} budget gives {linear.bits} bits and rank {linear.rank} here."
    return replace(linear, why=why, why_code="", why_values={}, error=0.0)
