"""From a budget to a plan: bits and ranks of every layer, tokens of a pass, recomputation.

Order of preference when memory is short: first activations are recomputed and passes made smaller
(this costs time, not quality), then the embedding table goes to 8 bits (nearly lossless), then bits
and ranks of the layers give way, the least sensitive first. Frozen weights keep about four bits as
long as time can pay for it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.config import MB, RunConfig
from core.layers.spectral import basis_bytes, scratch_bytes
from core.plan.allocate import Floats, Solution, solve_two
from core.plan.memory import StepBytes
from core.plan.profile import RANKS, Price
from core.plan.trained import imported_bytes, trained_bytes
from core.plan.types import LinearPlan, Plan
from core.quant.schemes import Scheme

# The prediction may miss by a little (allocator, scratch memory of kernels); the budget may not be
# passed. So a plan may use this part of it.
SHARE = 0.97
# Below this mean, spend time instead of bits; above, the step to 16 bits is worth no time: on the
# starter all layers together lose 0.009 nats a token at 8 bits (docs/log.md).
COMFORT_BITS = 8
LEAST_BITS = 3.0  # below this mean, spend ranks
OVERSHOOT = 1.5  # ranks begin at this multiple of their target and are pruned to it


@dataclass(frozen=True)
class Situation:
    """What a plan depends on besides the budget. Bytes and tokens.

    Attributes:
        process: resident bytes of a training process that holds nothing.
        fixed: norms, biases, position tables.
        tables: shapes of embedding and head tables (one where tied).
        longest: tokens of the longest example.
        own: tokens of the largest step, without the beginning that its examples share.
        shared: tokens of that beginning; every pass holds it once.
        profile_peak: bytes that measuring the layers holds beside process and tables.
        least_profile_peak: the same with the least text to measure on.
    """

    prices: list[Price]
    step: StepBytes
    process: int
    fixed: int
    tables: list[tuple[int, int]]
    longest: int
    own: int
    shared: int
    profile_peak: int
    least_profile_peak: int
    model: str
    data_sha256: str
    limit: int = 0  # what the machine has; 0: unknown
    allocator: int = 0  # bytes that an allocator leaves unused whatever the step is


@dataclass(frozen=True)
class _Setting:
    """How a step runs: passes and most tokens of one, bits of the tables, part of the ranks.

    ``recomputed``: blocks whose activations are recomputed. ``work``: tokens of all passes.
    ``seconds``: time of a step, in that of the products of a token; for the order only.
    """

    recomputed: int
    passes: int
    tokens: int
    work: int
    table_bits: int
    rank_share: float
    seconds: float


def make_plan(config: RunConfig, situation: Situation) -> Plan:
    """Return the best plan under ``config.budget_bytes``, or the smallest one, not feasible.

    A budget of 0 means no limit.
    """
    table = _Table(config, situation)
    budget = config.budget_bytes or 10**15
    best = _best(config, situation, table, budget)
    minimum = table.minimum()
    if best is not None and table.peak(*best) <= budget:
        return table.plan(*best, minimum, feasible=True)
    smallest = table.smallest()
    plan = table.plan(*smallest, minimum, feasible=False)
    return replace(plan, **_suggestion(config, situation, minimum))


def minimum_budget(config: RunConfig, situation: Situation) -> int:
    """The smallest budget in bytes for which a plan exists; costs need not be known."""
    return _Table(config, situation).minimum()


def _best(
    config: RunConfig, situation: Situation, table: _Table, budget: float
) -> tuple[_Setting, Solution] | None:
    """The fastest setting with comfortable bits, or the one that leaves most room for them.

    So a larger budget never means fewer bits: they rise to a comfortable mean, stay there while
    the step gets faster, and rise again in the fastest setting.
    """
    everything = list(_settings(config, situation, table, budget))
    for k, setting in enumerate(everything):
        if setting.rank_share < 1 or not table.has_room(setting, budget):
            continue
        solution = table.solve(setting, budget)
        if solution is not None and table.mean_bits(solution) >= table.comfort:
            capped = None if k == 0 else table.solve(setting, budget, widest=COMFORT_BITS)
            return setting, capped or solution
    best: tuple[_Setting, Solution] | None = None
    for share in sorted({s.rank_share for s in everything}, reverse=True):
        roomiest = min((s for s in everything if s.rank_share == share), key=table.constant)
        solution = table.solve(roomiest, budget)
        if solution is None:
            continue
        if best is None or table.mean_bits(solution) > table.mean_bits(best[1]) + 0.05:
            best = (roomiest, solution)
        if table.mean_bits(best[1]) >= LEAST_BITS:
            break
    return best


def _settings(
    config: RunConfig, situation: Situation, table: _Table, budget: float
) -> Iterator[_Setting]:
    """From fast to frugal; tables in 8 bits and fewer ranks only when time alone does not do."""
    passes = _pass_sizes(config, situation)
    for bits, share in ((16, 1.0), (8, 1.0), (8, 0.5), (8, 0.25)):
        settings: list[_Setting] = []
        for size in passes:
            counts = _recomputed(config, situation, table, budget, (*size, bits, share))
            settings += (_setting(situation, n, *size, bits, share) for n in counts)
        yield from sorted(settings, key=lambda s: s.seconds)


def _setting(
    situation: Situation,
    recomputed: int,
    passes: int,
    tokens: int,
    work: int,
    bits: int,
    share: float,
) -> _Setting:
    """A setting with its time.

    Recomputing takes half as much again; expanding every weight for each product of a pass takes as
    long as the products of 40 tokens (docs/log.md).
    """
    part = recomputed / situation.step.layers
    seconds = work * (1 + 0.5 * part) + (2 + part) * 40 * passes
    return _Setting(recomputed, passes, tokens, work, bits, share, seconds)


def _recomputed(
    config: RunConfig,
    situation: Situation,
    table: _Table,
    budget: float,
    size: tuple[int, int, int, int, float],
) -> list[int]:
    """Numbers of blocks to recompute: none, all, and as few as leave room for comfortable bits."""
    layers = situation.step.layers
    fixed = {"on": [layers], "off": [0]}.get(config.train.checkpointing)
    if fixed is not None:
        return fixed
    room = budget * SHARE - table.comfortable(size[-1])

    def fits(count: int) -> bool:
        return table.constant(_setting(situation, count, *size)) <= room

    partly = bisect.bisect_left(range(layers + 1), True, key=fits)
    return sorted({0, min(partly, layers), layers})


def _pass_sizes(config: RunConfig, situation: Situation) -> list[tuple[int, int, int]]:
    """(passes of a step, most tokens of one, tokens of all), from one pass to many."""
    own, shared, longest = situation.own, situation.shared, situation.longest
    if config.train.micro_batch_tokens:
        tokens = max(config.train.micro_batch_tokens, longest)
        passes = -(-own // max(1, tokens - shared))
        return [(passes, tokens, own + passes * shared)]
    sizes = [(1, max(longest, shared + own), shared + own)]
    slack = (longest - shared) // 2  # whole examples never fill all passes evenly
    for passes in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        tokens = shared + -(-own // passes) + slack
        if tokens <= longest:
            break
        sizes.append((passes, tokens, own + passes * shared))
    if longest < sizes[-1][1]:
        # About two thirds of such a pass are filled.
        passes = -(-3 * own // (2 * (longest - shared)))
        sizes.append((passes, longest, own + passes * shared))
    return sizes


class _Table:
    """Costs and bytes of every layer's choices, and the sums of a whole plan."""

    def __init__(self, config: RunConfig, situation: Situation) -> None:
        self.config, self.situation = config, situation
        self.number = trained_bytes(config.train)
        self.choices = _choices(config, situation.prices)
        prices = situation.prices
        shape = (len(prices), len(self.choices))
        self.cost, self.weight, self.trained = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for row, p in enumerate(prices):
            for column, (bits, rank) in enumerate(self.choices):
                self.cost[row, column] = p.cost[bits][RANKS.index(rank)]
                self.weight[row, column] = _scheme(config, bits).stored_bytes(
                    p.out_features, p.in_features
                )
                self.trained[row, column] = rank * _rank_bytes(p, self.number)
                if config.adapter.parametrisation == "svd":
                    self.weight[row, column] += basis_bytes(*_directions(config, p))
                    self.trained[row, column] = _spectral_bytes(config, p, self.number)
        self.objective = self.cost + self._missed()
        self.bits = np.array([bits for bits, _ in self.choices])
        # The widest that is offered, if all are below the comfortable one.
        self.comfort = max((b for b in self.bits if b <= COMFORT_BITS), default=min(self.bits))
        start = OVERSHOOT if config.adapter.dynamic else 1.0
        triplet = sum(_rank_bytes(p, self.number) for p in prices)
        self.adapter_budget = start * config.adapter.rank * triplet
        if config.adapter.uniform:  # there is nothing to share out
            self.adapter_budget = math.inf

    def _missed(self) -> Floats:
        """The worth, on the scale of the costs, of what a rank leaves unlearned.

        kappa * (P(largest) - P(r)), where kappa makes the sum of P at rank 8 equal to the sum of
        costs at the middle width, so that both halves of the objective weigh alike (our
        interpretation).
        """
        prices = self.situation.prices
        middle = sorted(prices[0].cost)[len(prices[0].cost) // 2]
        costs = sum(p.cost[4 if 4 in p.cost else middle][0] for p in prices)
        gains = sum(p.gain[RANKS.index(8)] for p in prices)
        kappa = costs / gains if gains > 0 else 0.0
        missed = [[p.gain[-1] - p.gain[RANKS.index(r)] for _, r in self.choices] for p in prices]
        return kappa * np.array(missed)

    def constant(self, setting: _Setting) -> float:
        """Predicted bytes of all that the layers' choices do not change."""
        return sum(self._parts(setting).values())

    def has_room(self, setting: _Setting, budget: float) -> bool:
        """Whether comfortable bits fit beside the adapters; what does not is not worth solving."""
        return self.constant(setting) + self.comfortable(setting.rank_share) <= budget * SHARE

    def comfortable(self, rank_share: float) -> float:
        """Bytes of all layers at comfortable bits and their whole share of ranks."""
        weights = float(np.where(self.bits == self.comfort, self.weight, np.inf).min(1).sum())
        most = float(self.trained.max(1).sum())
        return weights + min(most, self.adapter_budget * rank_share)

    def _parts(self, setting: _Setting) -> dict[str, int]:
        s = self.situation
        tables = sum(Scheme(setting.table_bits).stored_bytes(*shape) for shape in s.tables)
        return {
            "process": s.process + imported_bytes(self.config.train),
            "embeddings": tables + s.fixed,
            "activations": s.step.at(setting.tokens, setting.recomputed)
            + _scratch(self.config, s.prices, setting.tokens),
            "allocator": s.allocator,
        }

    def solve(self, setting: _Setting, budget: float, widest: int = 16) -> Solution | None:
        """Best choices of at most ``widest`` bits under the budget, or None."""
        room = budget * SHARE - self.constant(setting)
        adapter = self.adapter_budget * setting.rank_share
        if room <= 0 or self._profile_peak(setting) > budget * SHARE:
            return None
        offered = [k for k, (bits, _) in enumerate(self.choices) if bits <= widest]
        if not offered:
            return None
        cost, weight, trained = (t[:, offered] for t in (self.objective, self.weight, self.trained))
        found = solve_two(cost, weight + trained, trained, room, adapter)
        return found and replace(found, picks=[offered[k] for k in found.picks])

    def _profile_peak(self, setting: _Setting) -> float:
        s, tables = self.situation, self.situation.tables
        stored = sum(Scheme(setting.table_bits).stored_bytes(*shape) for shape in tables)
        return s.process + s.fixed + stored + s.profile_peak + s.allocator

    def mean_bits(self, solution: Solution) -> float:
        """Mean bits of a weight."""
        sizes = np.array([p.out_features * p.in_features for p in self.situation.prices])
        bits = np.array([self.choices[k][0] for k in solution.picks])
        return float((sizes * bits).sum() / sizes.sum())

    def sums(self, setting: _Setting, solution: Solution) -> dict[str, int]:
        """Predicted bytes at the peak, by part."""
        rows = np.arange(len(solution.picks))
        trained = float(self.trained[rows, solution.picks].sum())
        parts = self._parts(setting)
        parts["weights"] = int(self.weight[rows, solution.picks].sum())
        parts["adapters"] = parts["gradients"] = int(4 * trained / self.number)
        parts["optimizer"] = int(trained) - 2 * parts["adapters"]
        return parts

    def peak(self, setting: _Setting, solution: Solution) -> int:
        """Predicted high-water mark of the whole run."""
        return int(max(sum(self.sums(setting, solution).values()), self._profile_peak(setting)))

    def smallest(self) -> tuple[_Setting, Solution]:
        """The plan with the fewest bytes that can still learn."""
        everything = list(_settings(self.config, self.situation, self, 0.0))
        last = everything[-1]
        settings = [
            s
            for s in everything
            if (s.table_bits, s.rank_share) == (last.table_bits, last.rank_share)
        ]
        setting = min(settings, key=self.constant)
        size = self.weight + self.trained
        rank = min((r for _, r in self.choices if r > 0), default=0)
        able = [k for k, (_, r) in enumerate(self.choices) if r == rank]
        picks = [able[int(size[row, able].argmin())] for row in range(len(size))]
        total = float(size[np.arange(len(size)), picks].sum())
        return setting, Solution(picks, 0.0, total, 0.0)

    def minimum(self) -> int:
        """The smallest budget for which a plan exists, in whole megabytes."""
        s = self.situation
        setting, solution = self.smallest()
        training = sum(self.sums(setting, solution).values())
        tables = sum(Scheme(8).stored_bytes(*shape) for shape in s.tables)
        measuring = s.process + s.fixed + tables + s.least_profile_peak + s.allocator
        peak = max(training, measuring) / SHARE
        return int(-(-peak // MB) * MB)

    def plan(self, setting: _Setting, solution: Solution, minimum: int, *, feasible: bool) -> Plan:
        """Write the choices out."""
        s, config = self.situation, self.config
        linears = [self._linear(row, solution) for row in range(len(s.prices))]
        ranks = [x.rank for x in linears]
        return Plan(
            feasible=feasible,
            budget_bytes=config.budget_bytes,
            minimum_budget_bytes=minimum,
            predicted_peak_bytes=self.peak(setting, solution),
            parts=self.sums(setting, solution),
            linears=linears,
            micro_batch=setting.tokens,
            accumulation=setting.passes,
            packing=True,
            checkpointing=_word(setting.recomputed, s.step.layers),
            recomputed=setting.recomputed,
            fused=s.step.fused,
            embedding_bits=setting.table_bits,
            average_bits=round(self.mean_bits(solution), 3),
            average_rank=round(sum(ranks) / len(ranks), 2),
            method=config.method,
            scheme=config.quant.scheme,
            model=s.model,
            data_sha256=s.data_sha256,
            dual_gap=solution.gap,
        )

    def _linear(self, row: int, solution: Solution) -> LinearPlan:
        p = self.situation.prices[row]
        bits, rank = self.choices[solution.picks[row]]
        dynamic = self.config.adapter.dynamic and not self.config.adapter.uniform
        svd = self.config.adapter.parametrisation == "svd"
        shown = _directions(self.config, p)[-1] if svd else rank
        code, values, why = self._why(row, bits, rank, shown)
        pick = solution.picks[row]
        stored = self.weight[row, pick] + 4 * self.trained[row, pick] / self.number
        return LinearPlan(
            name=p.name,
            layer=next((int(x) for x in p.name.split(".") if x.isdecimal()), -1),
            module=p.name.rpartition(".")[2],
            bits=bits,
            rank=shown,
            target_rank=round(shown / OVERSHOOT) if dynamic else shown,
            bytes=int(stored),
            why=why,
            error=float(p.cost[bits][RANKS.index(rank)]),
            out_features=p.out_features,
            in_features=p.in_features,
            why_code=code,
            why_values=values,
        )

    def _why(self, row: int, bits: int, rank: int, shown: int) -> tuple[str, dict[str, str], str]:
        """One sentence: how sensitive the layer is, and what the next lower width would cost.

        ``rank``: that of the price; ``shown``: that of the adapter.
        """
        p = self.situation.prices[row]
        order = sorted(q.cost[min(q.cost)][0] for q in self.situation.prices)
        place = order.index(p.cost[min(p.cost)][0]) / max(1, len(order) - 1)
        level = "high" if place > 0.75 else "low" if place < 0.25 else "middle"
        k = RANKS.index(rank)
        lower = max((b for b, _ in self.choices if b < bits), default=0)
        extra = p.cost[lower][k] - p.cost[bits][k] if lower else 0.0
        values = {
            "bits": str(bits),
            "rank": str(shown),
            "lower": str(lower),
            "extra": f"{extra:.4f}",
        }
        words = {
            "high": "Answers depend strongly on this layer",
            "middle": "Answers depend on this layer as on most",
            "low": "Answers hardly depend on this layer",
        }
        next_lower = f"; {lower} bits would cost {extra:.4f} nats a token more" if lower else ""
        sentence = f"{words[level]}: {bits} bits, rank {shown}{next_lower}."
        return f"plan.why.{level}" + ("" if lower else ".lowest"), values, sentence


def _word(recomputed: int, layers: int) -> str:
    """``off``, ``on`` or ``part``."""
    return "off" if recomputed == 0 else "on" if recomputed == layers else "part"


def _rank_bytes(price: Price, number: int) -> int:
    """Bytes of one trained triplet, ``number`` for each of its numbers.

    Mask, scores and counters are a few numbers beside U, s, V.
    """
    return number * (price.out_features + price.in_features + 1) + 32


def _directions(config: RunConfig, price: Price) -> tuple[int, int, int]:
    """(o, i, r) of a layer whose singular values train."""
    o, i = price.out_features, price.in_features
    return o, i, min(config.adapter.directions, o, i)


def _spectral_bytes(config: RunConfig, price: Price, number: int) -> int:
    """Bytes of r singular values and o row scales in training, ``number`` for each of them.

    The optimizer's counters are a few numbers beside.
    """
    o, _, r = _directions(config, price)
    return number * (r + o) + 32


def _scratch(config: RunConfig, prices: list[Price], tokens: int) -> int:
    """Bytes of a step that grow with the directions; a step is counted with a small rank."""
    if config.adapter.parametrisation != "svd":
        return 0
    return max(scratch_bytes(*_directions(config, p), tokens) for p in prices)


def _choices(config: RunConfig, prices: list[Price]) -> list[tuple[int, int]]:
    """(bits, rank) that a layer may take."""
    offered = sorted(set.intersection(*(set(p.cost) for p in prices)))
    widths = [config.quant.bits] if config.quant.bits else offered
    if config.quant.scheme == "nf4":
        widths = [4]
    if config.adapter.parametrisation == "svd":
        # Priced as if the whole weight were rounded; only what the directions leave is.
        return [(b, 0) for b in widths]
    if config.adapter.uniform:
        rank = min(RANKS[1:], key=lambda r: abs(r - config.adapter.rank))
        return [(b, rank) for b in widths]
    return [(b, r) for b in widths for r in RANKS]


def _scheme(config: RunConfig, bits: int) -> Scheme:
    nf4 = bits == 4 and config.quant.scheme == "nf4"
    return Scheme(bits, config.quant.group, "nf4" if nf4 else "affine")


def _suggestion(config: RunConfig, situation: Situation, minimum: int) -> dict[str, Any]:
    """The smallest change that fits: shorter examples if that is enough, else a larger budget."""
    for length in (256, 128, 64, 32):
        if length >= situation.longest:
            continue
        shorter = _Table(config, _shorter(situation, length)).minimum()
        if shorter <= config.budget_bytes:
            return {
                "suggestion": f"Cut the examples at {length} tokens, or raise the budget to "
                f"{minimum / MB:.0f} MB.",
                "suggestion_values": {"max_length": str(length), "minimum": str(minimum)},
            }
    return {
        "suggestion": f"Raise the budget to {minimum / MB:.0f} MB.",
        "suggestion_values": {"minimum": str(minimum)},
    }


def _shorter(situation: Situation, longest: int) -> Situation:
    """The same class with its examples cut."""
    return replace(
        situation,
        longest=longest,
        shared=min(situation.shared, longest - 1),
        own=min(situation.own, situation.own * longest // situation.longest + longest),
    )
