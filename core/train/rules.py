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

from core.layers.lora import AdapterLinear

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

    For each kind g, with theta the factors U and V of its layers and u = (before - after) / rate
    the step that the optimizer made:

        lambda_g = min(rho EMA|u_g| / |theta_g|, 0.1),  theta_g <- theta_g - rate lambda_g theta_g

    so that decay divided by step is rho. In long runs decay and step come to such a balance by
    themselves (Kosson et al. 2023, arXiv 2305.17212); short ones never reach it.

    Triplets that cancel the quantization error do not decay, since they stand for a part of the
    weight; nor does s.

    Attributes:
        layers: adapted layers by name.
        ratio: rho.
        free: which triplets decay (R,), by layer.
    """

    layers: Mapping[str, AdapterLinear]
    optimizer: Optimizer
    ratio: float
    free: dict[str, Tensor] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    _before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin: a triplet whose U is not zero at the start is there to cancel an error."""
        for name, layer in self.layers.items():
            self.free.setdefault(name, ~layer.U.data.ne(0).any(0))

    def before(self) -> None:
        """Remember the factors, before the optimizer moves them."""
        self._before = {
            name: (layer.U.data.clone(), layer.V.data.clone())
            for name, layer in self.layers.items()
            if layer.rank and bool(self.free[name].any())
        }

    def after(self, rate: float) -> dict[str, float]:
        """Let the factors decay after the optimizer's step; returns lambda by kind."""
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
        for name, before in self._before.items():
            self._shrink(name, before, rate * decay[kind_of(name)])
        self._before = {}
        return decay

    def _norms(self, rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """Norms of the factors before the step, and of the step, by kind."""
        own: dict[str, float] = {}
        moved: dict[str, float] = {}
        for name, (U, V) in self._before.items():
            layer, free, kind = self.layers[name], self.free[name], kind_of(name)
            step = [((U - layer.U.data) / rate)[:, free], ((V - layer.V.data) / rate)[free]]
            for sums, parts in ((own, [U[:, free], V[free]]), (moved, step)):
                sums[kind] = sums.get(kind, 0.0) + sum(float(t.square().sum()) for t in parts)
        return tuple({k: math.sqrt(x) for k, x in sums.items()} for sums in (own, moved))  # type: ignore[return-value]

    def _shrink(self, name: str, before: tuple[Tensor, Tensor], amount: float) -> None:
        """Take ``amount`` of what the factors were away from what they are."""
        layer, free = self.layers[name], self.free[name]
        for p, old, keep in (
            (layer.U, before[0], free[None, :]),
            (layer.V, before[1], free[:, None]),
        ):
            lost = old * keep * amount
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
        """Which triplets decay, by layer, for a checkpoint and the ledger."""
        return dict(self.free)

    def numbers(self) -> dict[str, Any]:
        """The means, for a checkpoint."""
        return {"means": self.means, "seen": self.seen}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take back what a checkpoint holds."""
        for name, layer in self.layers.items():
            self.free[name] = tensors[name].bool().to(layer.s.device)
        self.means, self.seen = dict(numbers["means"]), int(numbers["seen"])
