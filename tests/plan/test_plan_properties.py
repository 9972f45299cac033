"""What holds for every plan, on random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.adapters.start import scheme_of
from core.config import MB, RunConfig
from core.layers.lora import AdapterLinear
from core.plan.memory import StepBytes
from core.plan.planner import Situation, make_plan
from core.plan.profile import RANKS, Price
from core.plan.types import LinearPlan, Plan
from core.quant.weight import QuantizedWeight

SLACK = 0.1  # mean bits that a larger budget may spend on ranks instead


def price(random: np.random.Generator, k: int) -> Price:
    """Costs that fall with bits and rank, as measured ones do."""
    o, i = (32 * int(n) for n in random.integers(1, 40, 2))
    scale = float(np.exp(random.normal(0, 2)))
    left = np.cumprod(random.uniform(0.6, 1, len(RANKS)))
    cost = {b: (scale * 4.0**-b * left).tolist() for b in (2, 3, 4, 8)}
    gain = np.cumsum(random.uniform(0, 1, len(RANKS))) * float(random.random())
    return Price(
        f"blocks.{k}.proj", o, i, {**cost, 16: [0.0] * len(RANKS)}, (gain - gain[0]).tolist()
    )


def situation_of(seed: int) -> Situation:
    random = np.random.default_rng(seed)
    layers = int(random.integers(1, 7))
    lines = {}
    for switch, more in (("on", 1), ("off", 8)):
        for moment in ("loss", "backward"):
            f, t, bf, bt = random.random(4) * (10**6, 10**4, 10**5, more * 10**3)
            lines[f"{moment} {switch}"] = [f, t, bf, bt]
    longest = int(random.integers(32, 256))
    shared = int(random.integers(0, longest // 2))
    measuring = int(random.integers(0, 20 * MB))
    return Situation(
        prices=[price(random, k) for k in range(layers)],
        step=StepBytes(layers, lines, [10**5, 2 * 10**3], [128.0, 10**4, 10**6]),
        process=int(random.integers(50, 500)) * MB,
        fixed=int(random.integers(0, MB)),
        tables=[(int(random.integers(100, 4000)), 64)],
        longest=longest,
        own=int(random.integers(longest, 1024)),
        shared=shared,
        profile_peak=measuring,
        least_profile_peak=measuring,
        model="random",
        data_sha256="",
    )


def config_of(seed: int) -> RunConfig:
    random = np.random.default_rng([seed, 1])
    config = RunConfig()
    nf4 = random.random() < 0.2
    widths = (0, 0, 0, 4) if nf4 else (0, 0, 0, 2, 3, 4, 8)
    return replace(
        config,
        quant=replace(
            config.quant,
            scheme="nf4" if nf4 else "affine",
            bits=int(random.choice(widths)),
            group=int(random.choice([32, 64, 128])),
        ),
        adapter=replace(
            config.adapter,
            rank=int(random.choice([1, 4, 8, 32])),
            uniform=bool(random.random() < 0.2),
            dynamic=bool(random.random() < 0.7),
        ),
        train=replace(config.train, checkpointing=str(random.choice(["auto", "on", "off"]))),
    )


def planned(config: RunConfig, situation: Situation, budget: int) -> Plan:
    return make_plan(replace(config, budget_bytes=budget), situation)


def held(plan: Plan, linear: LinearPlan, group: int) -> tuple[int, int]:
    """Bytes that real tensors of a layer hold: its codes, its adapter."""
    o, i, r = linear.out_features, linear.in_features, linear.rank
    stored = QuantizedWeight.from_dense(torch.zeros(o, i), scheme_of(plan, linear, group))
    layer = AdapterLinear(stored)
    layer.set_triplets(torch.zeros(o, r), torch.ones(r), torch.zeros(r, i))
    return stored.stored_bytes(), sum(t.nbytes for t in (layer.U, layer.s, layer.V))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), room=st.floats(0.3, 3), more=st.floats(1, 2))
def test_every_plan_keeps_its_promises(seed: int, room: float, more: float) -> None:
    config, situation = config_of(seed), situation_of(seed)
    minimum = planned(config, situation, 10 * MB).minimum_budget_bytes
    variable = sum(p.out_features * p.in_features for p in situation.prices) + 20 * MB
    budget = max(10 * MB, minimum + int((room - 1) * variable))
    plan = planned(config, situation, budget)
    assert sum(plan.parts.values()) <= plan.predicted_peak_bytes
    if not plan.feasible:
        smallest = plan.minimum_budget_bytes
        assert smallest > budget or config.adapter.uniform
        assert planned(config, situation, smallest).feasible
        return
    assert plan.predicted_peak_bytes <= budget
    assert 0 <= plan.dual_gap <= 1
    larger = planned(config, situation, int(budget * more))
    assert larger.feasible
    assert larger.average_bits >= plan.average_bits - SLACK
    if seed % 10 == 0:
        sizes = [held(plan, x, config.quant.group) for x in plan.linears]
        assert sum(codes for codes, _ in sizes) == plan.parts["weights"]
        # Beside U, s and V a few numbers a triplet: mask and scores.
        ranks = sum(x.rank for x in plan.linears)
        trained = sum(adapter for _, adapter in sizes)
        assert 0 <= plan.parts["adapters"] - trained <= 8 * ranks
        for linear, (codes, adapter) in zip(plan.linears, sizes, strict=True):
            assert 0 <= linear.bytes - codes - adapter <= 8 * linear.rank
