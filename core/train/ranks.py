"""Ranks that move while training: importance of triplets, masks, revival, compaction.

Importance of triplet k, after AdaLoRA (Zhang et al. 2023):

    I_k = |s_k g_k| + mean_i |U_ik dU_ik| + mean_j |V_kj dV_kj|,   S_k = EMA(I_k) * EMA(|I_k - EMA|)

with g = dL/ds. EMAs are kept per triplet, not per element. Our interpretation: triplets compete by
density S_k / (o + i + 1), because one of a wide layer costs more; hysteresis keeps them from
flickering; a masked triplet is judged by |s_k dL/d(s_k m_k)| and may come back; at set points what
is masked is removed for good, with its moments, and only then memory is freed.

The last look falls on the end of the schedule, so that the target is reached in a run of any
length, and what it masks is removed as soon as it has faded.

Shapes: per layer o outputs, i inputs, R triplets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.events import Emit, RanksChanged
from core.layers.lora import AdapterLinear
from core.train.optimizers import replace_parameter, still_moments

BETA = 0.85
FADE_STEPS = 5
PRUNE, REVIVE = 0.9, 1.1
BEGIN, END = 0.1, 0.7  # of all steps; in between the budget falls and masks move
FIRST_LOOK = 3  # updates of a score before it says anything: its spread begins at 0
COMPACT_AT = (0.25, 0.5, 0.7)


@dataclass
class _Track:
    """Scores of one layer's triplets (R,)."""

    mean: Tensor
    spread: Tensor
    target: Tensor  # 1: takes part, 0: masked; m moves towards it
    warned: Tensor  # below the threshold at the last event already


@dataclass
class RankController:
    """Owns the masks of all adapted layers.

    Attributes:
        layers: adapted layers by name.
        steps: optimizer steps of the whole run.
        target_cost: sum over triplets of (o + i + 1) that may remain in the end.
        on_keep: called with a layer's name and the indices of the triplets that it keeps, for
            those that remember something of each triplet.
    """

    layers: Mapping[str, AdapterLinear]
    optimizer: torch.optim.Optimizer
    steps: int
    target_cost: float
    tracks: dict[str, _Track] = field(default_factory=dict)
    updates: int = 0
    start_cost: float = 0.0
    on_keep: Callable[[str, Tensor], None] = lambda name, index: None

    def __post_init__(self) -> None:
        """Begin with every stored triplet taking part."""
        for name, layer in self.layers.items():
            zero = torch.zeros(layer.rank)
            self.tracks[name] = _Track(
                zero.clone(), zero.clone(), layer.m.cpu().ceil(), zero.bool()
            )
        self.start_cost = self._cost()
        self.target_cost = min(self.target_cost, self.start_cost)

    @property
    def every(self) -> int:
        """Steps between two looks at the masks."""
        return max(3, self.steps // 20)

    @property
    def looks(self) -> set[int]:
        """Steps after which masks move, counted from 1; the last is the end of the schedule."""
        begin = max(FIRST_LOOK, math.ceil(BEGIN * self.steps))
        return set(range(self._end, begin - 1, -self.every))

    @property
    def compactions(self) -> set[int]:
        """Steps after which what is masked is removed; the last when the last fade is over."""
        shares = {max(1, int(share * self.steps)) for share in COMPACT_AT}
        return shares | {min(self.steps, self._end + FADE_STEPS - 1)}

    @property
    def _end(self) -> int:
        return max(1, int(END * self.steps))

    def after_backward(
        self, step: int, emit: Emit, *, finite: bool = True, scored: bool = False
    ) -> None:
        """Update scores from this step's gradients; at event steps move masks.

        Args:
            step: optimizer steps done before this one.
            emit: receives rank changes.
            finite: whether this step's gradients are numbers; else nothing can be learned of them.
            scored: whether :meth:`score` has seen them already.
        """
        if finite and not scored:
            self.score()
        at = step + 1
        if at in self.looks and self.updates >= FIRST_LOOK:
            self._move(at, emit)
        self._fade()
        if at in self.compactions:
            self.compact(at, emit)

    def budget(self, step: int) -> float:
        """Cost that may take part at ``step``: cubic from the start to the target."""
        t = (step - BEGIN * self.steps) / max(1e-9, self._end - BEGIN * self.steps)
        left = (1 - min(1.0, max(0.0, t))) ** 3
        return self.target_cost + (self.start_cost - self.target_cost) * left

    def _cost(self) -> float:
        return sum(
            float(self.tracks[n].target.sum()) * (x.out_features + x.in_features + 1)
            for n, x in self.layers.items()
        )

    def score(self) -> None:
        """Update scores from the gradients that the layers hold."""
        self.updates += 1
        for name, layer in self.layers.items():
            if not layer.rank or layer.gate_gradient is None:
                continue
            track = self.tracks[name]
            importance = (layer.s.data * layer.gate_gradient).abs()
            if layer.U.grad is not None and layer.V.grad is not None:
                importance = importance + (layer.U.data * layer.U.grad).abs().mean(0)
                importance = importance + (layer.V.data * layer.V.grad).abs().mean(1)
            importance = importance.cpu()
            track.mean.mul_(BETA).add_(importance, alpha=1 - BETA)
            deviation = (importance - track.mean / (1 - BETA**self.updates)).abs()
            track.spread.mul_(BETA).add_(deviation, alpha=1 - BETA)
            layer.gate_gradient = None

    def _densities(self) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Names, density, cost and owner index of all triplets, in a fixed order."""
        correction = (1 - BETA**self.updates) ** 2
        names = [n for n, x in self.layers.items() if x.rank]
        density, cost, owner = [], [], []
        for k, name in enumerate(names):
            layer, track = self.layers[name], self.tracks[name]
            price = layer.out_features + layer.in_features + 1
            density.append(track.mean * track.spread / correction / price)
            cost.append(torch.full((layer.rank,), float(price)))
            owner.append(torch.full((layer.rank,), k))
        return names, torch.cat(density), torch.cat(cost), torch.cat(owner)

    def _move(self, step: int, emit: Emit) -> None:
        """Prune and revive so that the cost stays within the budget of this step."""
        if not any(x.rank for x in self.layers.values()):
            return
        names, density, cost, owner = self._densities()
        budget = self.budget(step)
        # Stable sort: equal densities keep their order, so that ties are decided exactly.
        order = torch.sort(density, descending=True, stable=True).indices
        inside = cost[order].cumsum(0) <= budget
        edge = int(inside.sum()) - 1
        threshold = float(density[order[max(0, edge)]])
        target = torch.cat([self.tracks[n].target for n in names])
        warned = torch.cat([self.tracks[n].warned for n in names])
        low = density < PRUNE * threshold
        pruned = (target > 0) & low & warned
        revived = (target == 0) & (density > REVIVE * threshold)
        target[pruned] = 0.0
        target[revived] = 1.0
        self._fit(target, density, cost, order, budget)
        for k, name in enumerate(names):
            self.tracks[name].target = target[owner == k]
            self.tracks[name].warned = low[owner == k]
        ranks = {n: int(self.tracks[n].target.sum()) for n in names}
        emit(RanksChanged(step, ranks, "importance"))

    @staticmethod
    def _fit(target: Tensor, density: Tensor, cost: Tensor, order: Tensor, budget: float) -> None:
        """Drop the least dense until the rest fits; ties by index, the later one first."""
        used = float((target * cost).sum())
        for k in reversed(order.tolist()):
            if used <= budget:
                return
            if target[k] > 0:
                target[k] = 0.0
                used -= float(cost[k])

    def _fade(self) -> None:
        """Move m towards its target in small steps; still moments where it has arrived at 0."""
        for name, layer in self.layers.items():
            if not layer.rank:
                continue
            target = self.tracks[name].target.to(layer.m.device)
            if torch.equal(layer.m, target):
                continue
            moved = layer.m + (target - layer.m).clamp(-1 / FADE_STEPS, 1 / FADE_STEPS)
            # The nearest fifth, so that sums of fifths do not drift away from 0 and 1.
            layer.m = (moved * FADE_STEPS).round() / FADE_STEPS
            gone = layer.m == 0
            if gone.any():
                for p, dim in ((layer.U, 1), (layer.s, 0), (layer.V, 0)):
                    still_moments(self.optimizer, p, gone.nonzero()[:, 0], dim)

    def compact(self, step: int, emit: Emit) -> None:
        """Remove what is masked, with its moments, and free the memory."""
        changed: dict[str, int] = {}
        for name, layer in self.layers.items():
            track = self.tracks[name]
            keep = ((track.target > 0) | (layer.m.cpu() > 0)).nonzero()[:, 0]
            if len(keep) == layer.rank:
                continue
            self._keep(layer, keep)
            self.on_keep(name, keep.to(layer.s.device))
            for key in ("mean", "spread", "target", "warned"):
                setattr(track, key, getattr(track, key)[keep])
            changed[name] = int(track.target.sum())
        if changed:
            emit(RanksChanged(step, changed, "compacted"))

    def _keep(self, layer: AdapterLinear, keep: Tensor) -> None:
        index = keep.to(layer.s.device)
        old = {"U": layer.U, "s": layer.s, "V": layer.V}
        layer.set_triplets(
            layer.U.data[:, index], layer.s.data[index], layer.V.data[index], layer.m[index]
        )
        for key, before in old.items():
            after = getattr(layer, key)
            replace_parameter(self.optimizer, before, after, index, 1 if key == "U" else 0)

    def renew(self, name: str, kept: Tensor) -> None:
        """Take other triplets of a layer: as many as ``kept`` (indices), which they stand for.

        Which of them matters is not known yet, so each begins with the mean score of those kept.
        """
        track, count = self.tracks[name], len(kept)
        mean, spread = (t[kept].mean().repeat(count) for t in (track.mean, track.spread))
        self.tracks[name] = _Track(mean, spread, torch.ones(count), torch.zeros(count).bool())

    def scores(self) -> Iterator[Tensor]:
        """All tensors that this controller holds, for the ledger."""
        for track in self.tracks.values():
            yield from (track.mean, track.spread, track.target, track.warned)

    def tensors(self) -> dict[str, Tensor]:
        """Scores by name, for a checkpoint."""
        return {
            f"scores.{name}.{key}": getattr(track, key).float()
            for name, track in self.tracks.items()
            for key in ("mean", "spread", "target", "warned")
            if track.mean.numel()
        }

    def restore(self, tensors: Mapping[str, Tensor], updates: int, start_cost: float) -> None:
        """Take scores back from a checkpoint; the layers have their triplets already."""
        self.updates, self.start_cost = updates, start_cost
        for name, layer in self.layers.items():
            if layer.rank:
                values = {k: tensors[f"scores.{name}.{k}"] for k in ("mean", "spread", "target")}
                warned = tensors[f"scores.{name}.warned"].bool()
                self.tracks[name] = _Track(**values, warned=warned)
            else:
                none = torch.zeros(0)
                self.tracks[name] = _Track(none, none, none, none.bool())
