"""What surrounds a step: how its rate runs, what a gradient may be, and what decays.

The parts of EduAdapt beside its mask (core/train/optimizers.py), each of use with any optimizer.
What is published in the abstract that they are inspired by is that gradients are clipped by their
norm and rates decay exponentially late in training; every formula here is our interpretation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMOOTH = 0.97  # of the means of norms
SEEN = 25  # norms from which on they say what is usual
SPREADS = 2.5  # above the usual logarithm of a norm, a gradient is cut
LATE = 0.3  # of the steps at the full rate, with the schedule ``late``
MOST_DECAY = 0.1  # largest decay of a step, times the rate
NO_GAIN = 0.001  # a quiz loss that falls by less than this part of itself has not fallen
# Parts of a module's name, the first that fits: the kinds of layers that decay alike. Layers that
# hold several of q, k and v in one weight are a kind of their own.
KINDS = {
    "qkv": ("qkv", "c_attn", "query_key_value", "qkv_proj"),
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
}


def rate_at(step: int, steps: int, peak: float, warmup: float, schedule: str) -> float:
    """The rate at ``step`` of ``steps``: a linear warm-up to ``peak``, then by ``schedule``."""
    warm = max(1.0, warmup * steps)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    if schedule == "constant":
        return peak
    if schedule == "late":
        return peak * math.exp(-math.log(10) * max(0.0, step / steps - LATE) / (1 - LATE))
    share = (step - warm) / max(1.0, steps - warm)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


@dataclass
class AdaptiveClip:
    """Largest norm of a gradient, from the norms that were seen: exp(mu + 2.5 sigma).

    mu and sigma are mean and spread of their logarithms, smoothed with 0.97 and corrected for their
    beginning at 0. A gradient does not count for its own limit.

    Attributes:
        first: the limit as long as fewer than 25 were seen.
    """

    first: float = 1.0
    seen: int = 0
    mean: float = 0.0
    square: float = 0.0

    @property
    def limit(self) -> float:
        """The largest norm that is let through now."""
        if self.seen < SEEN:
            return self.first
        correction = 1 - SMOOTH**self.seen
        mu = self.mean / correction
        sigma = math.sqrt(max(0.0, self.square / correction - mu * mu))
        return math.exp(mu + SPREADS * sigma)

    def see(self, norm: float) -> None:
        """Take a gradient's norm into account, as it was before it was clipped."""
        if not 0 < norm < math.inf:
            return
        self.seen += 1
        log = math.log(norm)
        self.mean = SMOOTH * self.mean + (1 - SMOOTH) * log
        self.square = SMOOTH * self.square + (1 - SMOOTH) * log * log


def kind_of(name: str) -> str:
    """To which kind of layers one belongs: q, k, v, qkv, o or mlp, by its dotted name."""
    *path, last = name.lower().split(".")
    if not any("attn" in part or "attention" in part for part in path):
        return "mlp"
    return next((kind for kind, words in KINDS.items() if any(w in last for w in words)), "o")


@dataclass
class BalancedDecay:
    """Decay in the same ratio to the step in every kind of layers.

    For each kind g, with theta what its layers train, measured from where it decays to, and
    u = (before - after) / rate the step that the optimizer made:

        lambda_g = min(rho EMA|u_g| / |theta_g|, 0.1),  theta_g <- theta_g - rate lambda_g theta_g

    so that decay divided by step is rho. In long runs decay and step come to such a balance by
    themselves (Kosson et al. 2023, arXiv 2305.17212); short ones never reach it.

    Of triplets U and V decay, and s does not; nor do triplets that cancel the quantization error,
    since they stand for a part of the weight. What other layers let decay, and whether to 0 or to
    where it began, they say themselves (:class:`core.objectives.directed.Directed`).

    Attributes:
        layers: by name: layers of triplets, or what says of itself what decays.
        ratio: rho.
        free: which triplets decay (R,), by layer of triplets.
        start: where others decay to, by layer; without an entry, to 0.
    """

    layers: Mapping[str, Any]
    optimizer: Optimizer
    ratio: float
    free: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, list[Tensor]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    _before: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin: a triplet whose U is not zero at the start is there to cancel an error."""
        for name, layer in self.layers.items():
            if not _says(layer):
                self.free.setdefault(name, ~layer.U.data.ne(0).any(0))
            elif layer.decays_to_start:
                self.start.setdefault(name, [p.detach().clone() for p in layer.decaying])

    def before(self) -> None:
        """Remember what decays, before the optimizer moves it."""
        self._before = {
            name: [p.detach().clone() for p, _ in self._parts(name)]
            for name in self.layers
            if name not in self.free or bool(self.free[name].any())
        }

    def after(self, rate: float) -> dict[str, float]:
        """Let it decay after the optimizer's step; returns lambda by kind."""
        if rate <= 0:
            self._before = {}
            return {}
        own, moved = self._norms(rate)
        self.seen += 1
        decay: dict[str, float] = {}
        for kind, norm in moved.items():
            mean = SMOOTH * self.means.get(kind, 0.0) + (1 - SMOOTH) * norm
            self.means[kind] = mean
            usual = mean / (1 - SMOOTH**self.seen)
            decay[kind] = min(self.ratio * usual / (own[kind] + 1e-8), MOST_DECAY)
        for name in self._before:
            self._shrink(name, rate * decay[kind_of(name)])
        self._before = {}
        return decay

    def _parts(self, name: str) -> list[tuple[Tensor, Tensor | None]]:
        """Parameters that decay, each with a mask of its elements that do (None: all)."""
        layer, free = self.layers[name], self.free.get(name)
        if free is None:
            return [(p, None) for p in layer.decaying]
        return [(layer.U, free[None, :]), (layer.V, free[:, None])]

    def _own(self, name: str) -> list[Tensor]:
        """What was there before the step, measured from where it decays to."""
        found = self._before[name]
        if name in self.start:
            found = [b - first for b, first in zip(found, self.start[name], strict=True)]
        masks = [mask for _, mask in self._parts(name)]
        return [t if m is None else t * m for t, m in zip(found, masks, strict=True)]

    def _norms(self, rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """Norms of what decays before the step, and of the step, by kind."""
        own: dict[str, float] = {}
        moved: dict[str, float] = {}
        for name, before in self._before.items():
            kind, step = kind_of(name), []
            for (p, mask), b in zip(self._parts(name), before, strict=True):
                u = (b - p.detach()) / rate
                step.append(u if mask is None else u * mask)
            for sums, found in ((own, self._own(name)), (moved, step)):
                sums[kind] = sums.get(kind, 0.0) + sum(float(t.square().sum()) for t in found)
        return tuple({k: math.sqrt(x) for k, x in sums.items()} for sums in (own, moved))  # type: ignore[return-value]

    def _shrink(self, name: str, amount: float) -> None:
        """Take ``amount`` of what was there before the step away from what is there now."""
        for (p, _), own in zip(self._parts(name), self._own(name), strict=True):
            lost = own.mul_(amount) if name in self.start else own * amount
            p.data.sub_(lost)
            z = self.optimizer.state.get(p, {}).get("z")
            if z is not None:  # the other end of Schedule-Free's line goes with it
                z.sub_(lost)

    def keep(self, name: str, index: Tensor) -> None:
        """Triplets of a layer were removed, all but ``index``."""
        self.free[name] = self.free[name][index]

    def renew(self, name: str) -> None:
        """A layer was fitted anew: all its triplets stand for a part of its weight now."""
        rank = self.layers[name].rank
        self.free[name] = torch.zeros(rank, dtype=torch.bool, device=self.layers[name].s.device)

    def tensors(self) -> dict[str, Tensor]:
        """Which triplets decay, and starts, by layer, for a checkpoint and the ledger."""
        starts = {
            f"{name}.start.{k}": t
            for name, found in self.start.items()
            for k, t in enumerate(found)
        }
        return {**self.free, **starts}

    def numbers(self) -> dict[str, Any]:
        """The means, for a checkpoint."""
        return {"means": self.means, "seen": self.seen}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take back what a checkpoint holds."""
        for name, known in self.free.items():
            self.free[name] = tensors[name].bool().to(known.device)
        for name, found in self.start.items():
            kept = (tensors[f"{name}.start.{k}"] for k in range(len(found)))
            self.start[name] = [t.to(f.device) for t, f in zip(kept, found, strict=True)]
        self.means, self.seen = dict(numbers["means"]), int(numbers["seen"])


def _says(layer: Any) -> bool:
    """Whether a layer says what decays in it; layers of triplets do not."""
    return hasattr(layer, "decaying")
