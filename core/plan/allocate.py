"""Bits and ranks of all layers under a byte budget: a multiple-choice knapsack.

Every layer picks one (bits, rank). The sum of costs is minimised while the sum of bytes stays under
the budget and the adapters stay under their own share. Lagrange multipliers, one a limit, price the
bytes; what they pick is filled up and improved by exchanges, and a problem of a few layers is
searched to the end. Every solution comes with a certificate: how far it is at most from the best.
methods.md S1b.3, our interpretation of "SVD-assessed importance decides precision layer by layer".

Shapes: n layers, c choices a layer, m limits (one or two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Picks = NDArray[np.intp]

# Trained numbers cost weight, gradient and two moments, each fp32.
TRAINED_BYTES = 16
PRECISION = 1e-7  # relative, of a multiplier
LEAST = 1e-15  # a multiplier that is less of the largest cost a byte is none
# So many single changes, the nearest to worth it, are tried in pairs, and in threes.
EXCHANGED = {2: 400, 3: 80}
SEARCHED_LAYERS, SEARCHED_NODES = 6, 6_000  # what is searched to the end, if it has one


@dataclass(frozen=True)
class Solution:
    """Index of the choice of every layer, its cost and bytes, and the optimality certificate.

    ``gap``: no choice under the limits costs less than ``cost * (1 - gap)``; 0 if proven optimal.
    """

    picks: list[int]
    cost: float
    bytes: float
    gap: float


def solve(cost: Floats, size: Floats, budget: float) -> Solution | None:
    """Pick one choice a row: least total ``cost`` (n, c) with total ``size`` (n, c) <= budget.

    Costs and sizes are not negative. Returns None if even the smallest choices do not fit.
    """
    return _Problem(cost, size[None], np.array([budget])).solution()


def solve_two(
    cost: Floats, size: Floats, adapter: Floats, budget: float, adapter_budget: float
) -> Solution | None:
    """As :func:`solve`, with a second limit on the sum of ``adapter`` (n, c) bytes.

    Returns None where nothing was found that keeps both limits.
    """
    limits = np.array([budget, min(adapter_budget, adapter.max(1).sum())])
    return _Problem(cost, np.stack([size, adapter]), limits).solution()


@dataclass
class _Problem:
    """One problem, with the best picks and the best lower bound found so far.

    Attributes:
        cost: (n, c).
        uses: (m, n, c), what a choice takes of each limit.
        limits: (m,).
    """

    cost: Floats
    uses: Floats
    limits: Floats
    best: Picks | None = None
    best_cost: float = np.inf
    bound: float = -np.inf
    multipliers: Floats = field(default_factory=lambda: np.zeros(0))  # of the best bound

    def solution(self) -> Solution | None:
        """Solve."""
        if (self.uses.min(2).sum(1) > self.limits).any():
            return None
        self._price(np.zeros(len(self.limits)), len(self.limits) - 1)
        # One that meets the bound is proven: there is nothing to search for.
        few = len(self.cost) <= SEARCHED_LAYERS
        if few and self.best_cost > self.bound and self._search():
            self.bound = self.best_cost
        if self.best is not None and self.best_cost > self.bound:
            self._exchange(self.best.copy())
        if self.best is None:
            return None
        total = self.best_cost
        gap = min(1.0, max(0.0, total - self.bound) / total) if total > 0 else 0.0
        return Solution(self.best.tolist(), total, float(self._used(self.best)[0]), gap)

    def _used(self, picks: Picks) -> Floats:
        used: Floats = self.uses[:, np.arange(len(picks)), picks].sum(1)
        return used

    def _look(self, multipliers: Floats) -> Floats:
        """Picks at these prices: keep them if they are the best that fit; returns what they use."""
        priced = self.cost + np.tensordot(multipliers, self.uses, 1)
        picks = _cheapest(priced, self.uses[0])
        used = self._used(picks)
        bound = float(priced.min(1).sum() - multipliers @ self.limits)
        if bound > self.bound or not len(self.multipliers):
            self.bound, self.multipliers = bound, multipliers.copy()
        self._look_at(picks)
        return used

    def _look_at(self, picks: Picks) -> None:
        """Keep picks that fit and are the best."""
        cost = float(self.cost[np.arange(len(picks)), picks].sum())
        if cost < self.best_cost and (self._used(picks) <= self.limits).all():
            self.best, self.best_cost = picks.copy(), cost

    def _price(self, multipliers: Floats, k: int) -> Floats:
        """Least multipliers of limits 0..k at which the picks keep these limits, by bisection.

        The later limit is bisected outside of the earlier. The bound that goes with them is the
        greatest, since it is concave and its slope is what is used beyond the limit. Returns what
        the picks use; ``multipliers`` (m,) are changed.
        """
        if k < 0:
            return self._look(multipliers)

        def use_at(price: float) -> float:
            multipliers[k] = price
            return float(self._price(multipliers, k - 1)[k])

        if use_at(0.0) <= self.limits[k]:
            return self._look(multipliers)
        # Where all choices cost the same, any price above nothing tells them apart.
        scale = float(np.ptp(self.cost) / max(np.ptp(self.uses[k]), 1e-300)) or 1.0
        low, high = 0.0, 1e-3 * scale
        while use_at(high) > self.limits[k] and high < 1e30:
            low, high = high, high * 8
        while high - low > max(PRECISION * high, LEAST * scale):
            middle = (low + high) / 2
            if use_at(middle) <= self.limits[k]:
                high = middle
            else:
                low = middle
        use_at(high)
        return self._look(multipliers)

    def _exchange(self, picks: Picks) -> None:
        """Improve ``picks`` by single changes, then pairs and threes, until none wins."""
        rows, columns = np.indices(self.cost.shape).reshape(2, -1)
        while True:
            saved = self.cost[np.arange(len(picks)), picks][:, None] - self.cost  # (n, c)
            taken = self.uses - self.uses[:, np.arange(len(picks)), picks][:, :, None]
            room = (self.limits - self._used(picks))[:, None]  # (m, 1)
            won, more = saved.reshape(-1), taken.reshape(len(taken), -1)
            change = self._single(won, more, room)
            for number in EXCHANGED:
                change = change or self._together(number, rows, won, more, room)
            if change is None:
                break
            picks[rows[change]] = columns[change]
        self._look_at(picks)

    def _single(self, won: Floats, more: Floats, room: Floats) -> list[int] | None:
        """The change that fits and wins most for what it takes of the limits."""
        allowed = (won > 1e-12 * self.best_cost) & (more <= room).all(0)
        if not allowed.any():
            return None
        share = (more.clip(0) / np.maximum(self.limits, 1e-300)[:, None]).sum(0)
        return [int(np.where(allowed, won / (share + 1e-12), -np.inf).argmax())]

    def _together(
        self, number: int, rows: Picks, won: Floats, more: Floats, room: Floats
    ) -> list[int] | None:
        """So many changes of different layers that fit together and win most."""
        loss = self.multipliers @ more - won  # at the prices of the limits
        changes = (won != 0) | (more != 0).any(0)
        near = np.argsort(np.where(changes, loss, np.inf), kind="stable")[: EXCHANGED[number]]
        sets = np.indices((len(near),) * number).reshape(number, -1)
        sets = near[sets[:, (sets[:-1] < sets[1:]).all(0)]]  # each once
        wins = won[sets].sum(0)
        allowed = (wins > 1e-9 * self.best_cost) & (more[:, sets].sum(1) <= room).all(0)
        for j in range(number):
            for k in range(j):
                allowed &= rows[sets[j]] != rows[sets[k]]
        if not allowed.any():
            return None
        return [int(x) for x in sets[:, np.where(allowed, wins, -np.inf).argmax()]]

    def _search(self) -> bool:
        """Depth first over all picks that the bound does not rule out.

        The bound of what is open: the rest at its cheapest prices, and every limit's least use.
        Returns whether it ended, so that there are no better ones.
        """
        n, m = len(self.cost), len(self.limits)
        priced = self.cost + np.tensordot(self.multipliers, self.uses, 1)
        order = priced.argsort(1, kind="stable").tolist()
        after = np.append(priced.min(1)[::-1].cumsum()[::-1], 0.0)
        after -= float(self.multipliers @ self.limits)
        least = np.zeros((n + 1, m))
        least[:-1] = self.uses.min(2).T[::-1].cumsum(0)[::-1]
        picks, nodes = np.zeros(n, np.intp), 0

        def descend(row: int, price: float, used: Floats) -> None:
            nonlocal nodes
            if row == n:
                self._look_at(picks)
                return
            for k in order[row]:
                nodes += 1
                if price + priced[row, k] + after[row + 1] >= self.best_cost:
                    return
                then = used + self.uses[:, row, k]
                if (then + least[row + 1] <= self.limits * (1 + 1e-12)).all():
                    picks[row] = k
                    if nodes < SEARCHED_NODES:
                        descend(row + 1, price + priced[row, k], then)

        descend(0, 0.0, np.zeros(m))
        return nodes < SEARCHED_NODES


def _cheapest(priced: Floats, size: Floats) -> Picks:
    """The least ``priced`` (n, c) choice of each row; ties take the smaller size."""
    tied = priced <= priced.min(1, keepdims=True) * (1 + 1e-12) + 1e-300
    picks: Picks = np.where(tied, size, np.inf).argmin(1)
    return picks


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
