"""Bits and ranks of all layers under a byte budget: a multiple-choice knapsack.

Every layer picks one (bits, rank). The sum of costs is minimised while the sum of bytes stays under
the budget and the adapters stay under their own share; solved by Lagrange multipliers with a greedy
fill, which comes with a certificate: the gap to the dual bound. methods.md S1b.3, our
interpretation of "SVD-assessed importance decides precision layer by layer".

Shapes: n layers, c choices a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Trained numbers cost weight, gradient and two moments, each fp32.
TRAINED_BYTES = 16


@dataclass(frozen=True)
class Choice:
    """One way to hold a layer."""

    bits: int
    rank: int


@dataclass(frozen=True)
class Solution:
    """Index of the choice of every layer, its cost and bytes, and the optimality certificate.

    ``gap``: (cost - dual bound) / cost, 0 if proven optimal.
    """

    picks: list[int]
    cost: float
    bytes: float
    gap: float


def solve(cost: Floats, size: Floats, budget: float) -> Solution | None:
    """Pick one choice a row: least total ``cost`` (n, c) with total ``size`` (n, c) <= budget.

    Returns None if even the smallest choices do not fit.
    """
    n = len(cost)
    rows = np.arange(n)
    smallest = size.argmin(1)
    if size[rows, smallest].sum() > budget:
        return None
    best, multiplier = smallest, 0.0
    if size[rows, pick_at(cost, size, 0.0)].sum() <= budget:
        best = pick_at(cost, size, 0.0)
    else:
        low, high = 0.0, _enough(cost, size, budget)
        for _ in range(60):
            middle = (low + high) / 2
            picks = pick_at(cost, size, middle)
            if size[rows, picks].sum() <= budget:
                high, best = middle, picks
            else:
                low = middle
        multiplier = high
    dual = _dual(cost, size, budget, multiplier)
    best = _fill(cost, size, budget, best.copy())
    total = float(cost[rows, best].sum())
    gap = max(0.0, total - dual) / total if total > 0 else 0.0
    return Solution(best.tolist(), total, float(size[rows, best].sum()), gap)


def pick_at(cost: Floats, size: Floats, multiplier: float) -> NDArray[np.intp]:
    """The best choice of each row when a byte costs ``multiplier``; ties take the smaller size."""
    priced = cost + multiplier * size
    tied = priced <= priced.min(1, keepdims=True) * (1 + 1e-12) + 1e-300
    picks: NDArray[np.intp] = np.where(tied, size, np.inf).argmin(1)
    return picks


def solve_two(
    cost: Floats, size: Floats, adapter: Floats, budget: float, adapter_budget: float
) -> Solution | None:
    """As :func:`solve`, with a second limit on the sum of ``adapter`` (n, c) bytes.

    The second multiplier is bisected outside of the first.
    """
    rows = np.arange(len(cost))

    def at(second: float) -> Solution | None:
        return solve(cost + second * adapter, size, budget)

    def used(solution: Solution) -> float:
        return float(adapter[rows, solution.picks].sum())

    free = at(0.0)
    if free is None or used(free) <= adapter_budget:
        return free
    low, high = 0.0, _enough(cost, adapter, adapter_budget)
    best: Solution | None = None
    for _ in range(40):
        middle = (low + high) / 2
        found = at(middle)
        if found is not None and used(found) <= adapter_budget:
            high, best = middle, found
        else:
            low = middle
    if best is None:
        return None
    total = float(cost[rows, best.picks].sum())
    return Solution(best.picks, total, float(size[rows, best.picks].sum()), best.gap)


def _enough(cost: Floats, size: Floats, budget: float) -> float:
    """A multiplier at which the picks fit."""
    high = 1e-12
    rows = np.arange(len(cost))
    for _ in range(200):
        if size[rows, pick_at(cost, size, high)].sum() <= budget:
            return high
        high *= 4
    return high


def _dual(cost: Floats, size: Floats, budget: float, multiplier: float) -> float:
    """Lower bound of every feasible cost."""
    return float((cost + multiplier * size).min(1).sum() - multiplier * budget)


def _fill(cost: Floats, size: Floats, budget: float, picks: NDArray[np.intp]) -> NDArray[np.intp]:
    """Spend what is left on the upgrade that wins most per byte, until none fits."""
    rows = np.arange(len(cost))
    left = budget - size[rows, picks].sum()
    while True:
        more = size - size[rows, picks][:, None]
        won = cost[rows, picks][:, None] - cost
        allowed = (won > 0) & (more <= left)
        if not allowed.any():
            return picks
        rate = np.where(allowed, won / np.maximum(more, 1.0), -np.inf)
        row, column = np.unravel_index(rate.argmax(), rate.shape)
        left -= more[row, column]
        picks[row] = column


def exact(cost: Sequence[Sequence[float]], size: Sequence[Sequence[int]], budget: int) -> float:
    """Least cost by dynamic programming over whole bytes; for tests on small problems."""
    best: dict[int, float] = {0: 0.0}
    for costs, sizes in zip(cost, size, strict=True):
        extended: dict[int, float] = {}
        for used, value in best.items():
            for c, s in zip(costs, sizes, strict=True):
                if used + s <= budget:
                    extended[used + s] = min(extended.get(used + s, np.inf), value + c)
        best = extended
    return min(best.values(), default=np.inf)
