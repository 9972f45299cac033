"""Penalties on the direction of the attention weights, from what is trained alone.

*Anchor* (the rows of a weight should keep their direction):

    R = mean over rows j of max(0, 1 - cos(w_j, w0_j) - eps)

w is the effective weight, w0 what it was at the start.

*Trajectory* (the way should go on, not back and forth):

    R = mean over layers of 1 - cos(W_t - W_0, W_t' - W_0),   t' earlier and held fixed

How the cosines are computed, for each kind of layer and mostly without a dense weight, is said in
:mod:`core.objectives.directed`. Both penalties are our interpretation: the abstract that names a
"weight-direction penalty factor" gives no formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.objectives.directed import Directed, State, directed
from core.objectives.terms import Gradients, LossTerm

EPSILON = 1e-4  # of 1 - cos, left free: below it is rounding, and turning that does not count
EVERY = 8  # steps between two computations of the anchor, fewer in short runs
LAG = 50  # steps between two snapshots of the trajectory, fewer in short runs

ATTENTION = ("attn", "attention")


def attention_layers(layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of attention by name; all, where no name tells."""
    found = {
        name: layer
        for name, layer in layers.items()
        if any(word in part for part in name.lower().split(".")[:-1] for word in ATTENTION)
    }
    return found or dict(layers)


def _of_attention(layers: Mapping[str, Any]) -> dict[str, Directed]:
    return {name: directed(layer) for name, layer in attention_layers(layers).items()}


def _gradients(value: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return tuple(
        torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)
    )


def _leaves(layer: Directed) -> tuple[Tensor, ...]:
    return tuple(p.detach().requires_grad_() for p in layer.trained)


def _taken(name: str, layer: Directed, tensors: Mapping[str, Tensor]) -> State:
    """What was kept of a layer under ``name``."""
    device = layer.trained[0].device
    kept = {key: tensors.get(f"{name}.{key}") for key in layer.KEYS}
    return {key: t.to(device) for key, t in kept.items() if t is not None}


class Anchor(LossTerm):
    """Rows of the attention weights should keep the direction that they began with."""

    name = "anchor"

    def __init__(self, layers: Mapping[str, Any], steps: int) -> None:
        """Take the layers' present weights as their start."""
        self.layers = _of_attention(layers)
        self.every = min(EVERY, max(1, steps // 12))
        self.start: dict[str, State] = {}
        self.norms: dict[str, Tensor] = {}
        for name in self.layers:
            self.renew(name)

    @torch.no_grad()
    def renew(self, name: str) -> None:
        """The layer's present weight is its start from now on."""
        if name in self.layers:
            layer = self.layers[name]
            self.start[name] = layer.begin()
            self.norms[name] = layer.norms(self.start[name])

    def gradients(self) -> tuple[float, Gradients]:
        """R and its gradients, layer by layer."""
        rows = sum(len(n) for n in self.norms.values())
        total = 0.0
        found: Gradients = {}
        for name, layer in self.layers.items():
            if not layer.rank:
                continue
            with torch.enable_grad():
                leaves = _leaves(layer)
                cosines = layer.cosines(leaves, self.start[name], self.norms[name])
                value = (1 - cosines - EPSILON).clamp_min(0).sum() / rows
            total += float(value.detach())
            if value > 0:
                found[name] = _gradients(value, leaves)
        return total, found

    def tensors(self) -> dict[str, Tensor]:
        """Starts and norms by layer."""
        out = {f"{name}.norms": n for name, n in self.norms.items()}
        for name, start in self.start.items():
            out |= {f"{name}.{key}": t for key, t in start.items()}
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take starts and norms back."""
        for name, layer in self.layers.items():
            self.norms[name] = tensors[f"{name}.norms"].to(layer.trained[0].device)
            self.start[name] = _taken(name, layer, tensors)


class Trajectory(LossTerm):
    """The change of the attention weights should go on in the direction of an earlier one.

    A snapshot is taken every ``lag`` steps and compared with until the next one, so that its age
    is at most ``lag``; one for every step of the last 50 would be 50 copies of the adapter.
    """

    name = "trajectory"

    def __init__(self, layers: Mapping[str, Any], steps: int) -> None:
        """Take the layers' present weights as their start; there is no snapshot yet."""
        self.layers = _of_attention(layers)
        self.lag = min(LAG, max(1, steps // 8))
        self.start = {name: layer.begin() for name, layer in self.layers.items()}
        self.then: dict[str, State] = {}

    def renew(self, name: str) -> None:
        """The layer's way begins anew."""
        if name in self.layers:
            self.start[name] = self.layers[name].begin()
            self.then.pop(name, None)

    def after_step(self, done: int) -> None:
        """Take a snapshot every ``lag`` steps."""
        if done % self.lag == 0:
            self.then = {name: layer.state() for name, layer in self.layers.items()}

    def gradients(self) -> tuple[float, Gradients]:
        """R and its gradients, layer by layer."""
        total = 0.0
        found: Gradients = {}
        for name, layer in self.layers.items():
            then = self.then.get(name)
            if not layer.rank or then is None:
                continue
            with torch.enable_grad():
                leaves = _leaves(layer)
                cosine = layer.path(leaves, then, self.start[name])
                if cosine is None or float(cosine.detach()) >= 1 - EPSILON:
                    continue  # no direction, or the same: its gradient would be rounding
                value = (1 - cosine) / len(self.layers)
            total += float(value.detach())
            found[name] = _gradients(value, leaves)
        return total, found

    def tensors(self) -> dict[str, Tensor]:
        """Starts and snapshots by layer."""
        out: dict[str, Tensor] = {}
        for key, kept in (("start", self.start), ("then", self.then)):
            for name, state in kept.items():
                out |= {f"{name}.{key}.{part}": t for part, t in state.items()}
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take starts and snapshots back."""
        self.start, self.then = {}, {}
        for key, kept in (("start", self.start), ("then", self.then)):
            for name, layer in self.layers.items():
                found = _taken(f"{name}.{key}", layer, tensors)
                if found or key == "start":
                    kept[name] = found


# By the value of the setting ``train.direction``; each is made of layers and steps of the run.
TERMS: dict[str, type[Anchor] | type[Trajectory]] = {"anchor": Anchor, "trajectory": Trajectory}


def make_terms(direction: str, layers: Mapping[str, Any], steps: int) -> list[LossTerm]:
    """The terms that the setting ``train.direction`` asks for."""
    return [TERMS[direction](layers, steps)] if direction in TERMS else []
