"""Penalties on the direction of the attention weights, from the adapters alone.

*Anchor* (the rows of a weight should keep their direction):

    R = mean over rows j of max(0, 1 - cos(w_j, w0_j) - eps)

w is the effective weight W = Q + U diag(s m) V, w0 what it was at the start. With X Y = W - W0,
X = [U diag(s m), -U0 diag(s0 m0)], Y = [V; V0], P = W0 Y^T and n_j = |w0_j|^2,

    dot = (X * P) 1,  q = (X (Y Y^T) * X) 1,  cos = (n + dot) / sqrt(n (n + 2 dot + q))

so that beside one product of the stored weight with R + R0 vectors no dense weight is needed.

*Trajectory* (the way should go on, not back and forth):

    R = mean over layers of 1 - cos(W_t - W_0, W_t' - W_0),   t' earlier and held fixed

from Grams of the factors only.

Both are our interpretation: the abstract that names a "weight-direction penalty factor" gives no
formula. Shapes: o outputs, i inputs, R triplets now, R0 at the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.objectives.terms import Adapted, Gradients, LossTerm
from core.quant.weight import QuantizedWeight
from core.workspace import frame

EPSILON = 1e-4  # of 1 - cos, left free: below it is rounding, and turning that does not count
EVERY = 8  # steps between two computations of the anchor, fewer in short runs
LAG = 50  # steps between two snapshots of the trajectory, fewer in short runs
ROWS = 512  # of a weight, expanded at a time: less than a step's own products need
SMALL = 1e-12  # a change whose square is smaller, relative to what it is made of, has no direction

ATTENTION = ("attn", "attention")


def attention_layers(layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of attention by name; all, where no name tells."""
    found = {
        name: layer
        for name, layer in layers.items()
        if any(word in part for part in name.lower().split(".")[:-1] for word in ATTENTION)
    }
    return found or dict(layers)


class _FrozenProduct(torch.autograd.Function):
    """Q Y^T (o, R) of a stored weight and Y (R, i); some rows of Q at a time are expanded."""

    @staticmethod
    def forward(ctx: Any, Y: Tensor, stored: QuantizedWeight) -> Tensor:
        ctx.stored = stored
        found = []
        for rows in _parts(stored):
            with frame() as room:
                found.append(stored.expanded(room, Y.dtype, rows) @ Y.t())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, dP: Tensor) -> tuple[Tensor, None]:
        dY = dP.new_zeros(dP.shape[1], ctx.stored.in_features)
        for rows in _parts(ctx.stored):
            with frame() as room:
                dY.addmm_(dP[rows].t(), ctx.stored.expanded(room, dP.dtype, rows))
        return dY, None


def _parts(stored: QuantizedWeight) -> Iterator[slice]:
    for a in range(0, stored.out_features, ROWS):
        yield slice(a, min(a + ROWS, stored.out_features))


@dataclass
class Reference:
    """A layer's start: U0 diag(s0 m0) (o, R0), V0 (R0, i), without triplets that are zero."""

    U: Tensor
    V: Tensor

    @staticmethod
    def of(layer: Adapted) -> Reference:
        """The layer as it is now."""
        scaled = layer.U.data * (layer.s.data * layer.m)
        used = scaled.ne(0).any(0)
        return Reference(scaled[:, used], layer.V.data[used].clone())


def row_norms(stored: QuantizedWeight, start: Reference) -> Tensor:
    """Squared norms (o,) of the rows of W0 = Q + U0 V0, some rows at a time."""
    found = []
    for rows in _parts(stored):
        with frame() as room:
            weight = stored.expanded(room, start.U.dtype, rows) + start.U[rows] @ start.V
            found.append(weight.square().sum(1))
    return torch.cat(found)


def row_cosines(
    scaled: Tensor, V: Tensor, stored: QuantizedWeight, start: Reference, norms: Tensor
) -> Tensor:
    """Cosines (o,) between the rows of W and W0; see the head of this file.

    Args:
        scaled: U diag(s m) (o, R).
        V: (R, i).
        stored: Q (o, i).
        start: U0 diag(s0 m0), V0.
        norms: n (o,).
    """
    X, Y = torch.cat([scaled, -start.U], 1), torch.cat([V, start.V], 0)
    product: Tensor = _FrozenProduct.apply(Y, stored)  # type: ignore[no-untyped-call]
    P = product + start.U @ (start.V @ Y.t())
    dot = (X * P).sum(1)
    q = ((X @ (Y @ Y.t())) * X).sum(1)
    n = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return (n + dot) / (n * (n + 2 * dot + q).clamp_min(1e-12 * n)).sqrt()


class Anchor(LossTerm):
    """Rows of the attention weights should keep the direction that they began with."""

    name = "anchor"

    def __init__(self, layers: Mapping[str, Any], steps: int) -> None:
        """Take the layers' present weights as their start."""
        self.layers = attention_layers(layers)
        self.every = min(EVERY, max(1, steps // 12))
        self.start: dict[str, Reference] = {}
        self.norms: dict[str, Tensor] = {}
        for name in self.layers:
            self.renew(name)

    def renew(self, name: str) -> None:
        """The layer's present weight is its start from now on."""
        if name in self.layers:
            self._begin(name, Reference.of(self.layers[name]))

    def _begin(self, name: str, start: Reference) -> None:
        self.start[name] = start
        self.norms[name] = row_norms(self.layers[name].quantized, start)

    def gradients(self) -> tuple[float, Gradients]:
        """R and its gradients, layer by layer."""
        rows = sum(len(n) for n in self.norms.values())
        total = 0.0
        found: Gradients = {}
        for name, layer in self.layers.items():
            if not layer.rank:
                continue
            with torch.enable_grad():
                U, s, V = (p.detach().requires_grad_() for p in layer.trained)
                start, norms = self.start[name], self.norms[name]
                cosines = row_cosines(U * (s * layer.m), V, layer.quantized, start, norms)
                value = (1 - cosines - EPSILON).clamp_min(0).sum() / rows
            total += float(value.detach())
            if value > 0:
                dU, ds, dV = torch.autograd.grad(value, (U, s, V))
                found[name] = dU, ds, dV
        return total, found

    def tensors(self) -> dict[str, Tensor]:
        """Starts and norms by layer."""
        out = {f"{name}.norms": n for name, n in self.norms.items()}
        for name, start in self.start.items():
            out |= {f"{name}.U": start.U, f"{name}.V": start.V}
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take starts and norms back."""
        for name, layer in self.layers.items():
            kept = (tensors[f"{name}.{key}"].to(layer.s.device) for key in ("U", "V", "norms"))
            U, V, self.norms[name] = kept
            self.start[name] = Reference(U, V)


def inner(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Inner product of the matrices X Y and X' Y', given as factors, in double precision.

    A change is the difference of two products that are nearly alike, of which single precision
    would leave little.
    """
    (X, Y), (X_, Y_) = ((t.double() for t in factors) for factors in (a, b))
    return ((X.t() @ X_) * (Y @ Y_.t())).sum()


def path_cosine(
    now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], start: Reference
) -> Tensor | None:
    """Cosine between the changes since the start, now and at an earlier time.

    Args:
        now: U diag(s m) (o, R) and V (R, i).
        then: the same at an earlier time.
        start: U0 diag(s0 m0) and V0.

    Returns:
        A scalar, or None if one of the changes is about zero.
    """
    change, before = (
        (torch.cat([X, -start.U], 1), torch.cat([Y, start.V], 0)) for X, Y in (now, then)
    )
    squares = inner(change, change), inner(before, before)
    for square, factors in zip(squares, (change, before), strict=True):
        X, Y = (t.detach().double() for t in factors)
        made_of = float((X.square().sum(0) * Y.square().sum(1)).sum())
        if float(square.detach()) <= SMALL * made_of:
            return None
    return inner(change, before) / (squares[0] * squares[1]).sqrt()


class Trajectory(LossTerm):
    """The change of the attention weights should go on in the direction of an earlier one.

    A snapshot is taken every ``lag`` steps and compared with until the next one, so that its age
    is at most ``lag``; one for every step of the last 50 would be 50 copies of the adapter.
    """

    name = "trajectory"

    def __init__(self, layers: Mapping[str, Any], steps: int) -> None:
        """Take the layers' present weights as their start; there is no snapshot yet."""
        self.layers = attention_layers(layers)
        self.lag = min(LAG, max(1, steps // 8))
        self.start = {name: Reference.of(layer) for name, layer in self.layers.items()}
        self.then: dict[str, Reference] = {}

    def renew(self, name: str) -> None:
        """The layer's way begins anew."""
        if name in self.layers:
            self.start[name] = Reference.of(self.layers[name])
            self.then.pop(name, None)

    def after_step(self, done: int) -> None:
        """Take a snapshot every ``lag`` steps."""
        if done % self.lag == 0:
            self.then = {name: Reference.of(layer) for name, layer in self.layers.items()}

    def gradients(self) -> tuple[float, Gradients]:
        """R and its gradients, layer by layer."""
        total = 0.0
        found: Gradients = {}
        for name, layer in self.layers.items():
            then = self.then.get(name)
            if not layer.rank or then is None:
                continue
            with torch.enable_grad():
                U, s, V = (p.detach().requires_grad_() for p in layer.trained)
                now = U * (s * layer.m), V
                cosine = path_cosine(now, (then.U, then.V), self.start[name])
                if cosine is None or float(cosine.detach()) >= 1 - EPSILON:
                    continue  # no direction, or the same: its gradient would be rounding
                value = (1 - cosine) / len(self.layers)
            total += float(value.detach())
            dU, ds, dV = torch.autograd.grad(value, (U, s, V))
            found[name] = dU, ds, dV
        return total, found

    def tensors(self) -> dict[str, Tensor]:
        """Starts and snapshots by layer."""
        out: dict[str, Tensor] = {}
        for key, kept in (("start", self.start), ("then", self.then)):
            for name, state in kept.items():
                out |= {f"{name}.{key}.U": state.U, f"{name}.{key}.V": state.V}
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take starts and snapshots back."""
        self.start, self.then = {}, {}
        for key, kept in (("start", self.start), ("then", self.then)):
            for name, layer in self.layers.items():
                if f"{name}.{key}.U" in tensors:
                    U, V = (tensors[f"{name}.{key}.{x}"].to(layer.s.device) for x in "UV")
                    kept[name] = Reference(U, V)


# By the value of the setting ``train.direction``; each is made of layers and steps of the run.
TERMS: dict[str, type[Anchor] | type[Trajectory]] = {"anchor": Anchor, "trajectory": Trajectory}


def make_terms(direction: str, layers: Mapping[str, Any], steps: int) -> list[LossTerm]:
    """The terms that the setting ``train.direction`` asks for."""
    return [TERMS[direction](layers, steps)] if direction in TERMS else []
