"""Where the adapters of a pair model start.

U = 0, so that nothing changes at first. V (R, i) is either

- along the gradient: the R leading right singular vectors of G = sum over tokens of d x^T, the
  gradient of a layer's weight on some of the pairs (after LoRA-GA, Wang et al. 2024, arXiv
  2407.05000; with U = 0 instead of their second factor: our interpretation). The first step of U
  then goes where the loss falls fastest for this rank; or
- at random, uniform within 1 / sqrt(i), as LoRA's own start in PEFT.

The scale gamma = alpha / sqrt(R) (or alpha / R) stands in ``s``.

Shapes: N tokens, i inputs, o outputs, R rank; x (N, i), d = dL/dy (N, o).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.layers.magnitude import MagnitudeLinear
from core.pairs.model import PairModel
from core.quant.lowrank import truncated_svd

Loss = Callable[[], Tensor]


def scale_of(alpha: float, rank: int, *, stabilised: bool) -> float:
    """Return gamma = alpha / sqrt(rank) if ``stabilised``, else alpha / rank."""
    return alpha / (math.sqrt(rank) if stabilised else rank)


def start(
    model: PairModel, rank: int, scale: float, *, loss: Loss | None, magnitude: bool, seed: int
) -> None:
    """Give every layer its triplets.

    Args:
        model: with empty adapters.
        rank: R of every layer, or the layer's smaller side where that is less.
        scale: gamma.
        loss: the loss whose gradient gives V; None: at random.
        magnitude: whether a magnitude is trained as well.
        seed: of what is random.
    """
    along = directions(model, rank, loss) if loss is not None else {}
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.layers.items():
        o, i = layer.out_features, layer.in_features
        r = min(rank, o, i)
        V = along.get(name)
        if V is None or len(V) < r:
            found = torch.zeros(0, i) if V is None else V.cpu()
            drawn = (torch.rand(r - len(found), i, generator=generator) * 2 - 1) / math.sqrt(i)
            V = torch.cat([found, drawn])
        layer.set_triplets(torch.zeros(o, r), torch.full((r,), scale), V)
        if magnitude:
            layer.add_magnitude()


def directions(model: PairModel, rank: int, loss: Loss) -> dict[str, Tensor]:
    """Leading right singular vectors (R, i) of every layer's gradient of ``loss``.

    One forward and one backward pass; a layer's gradient is decomposed when it is known and then
    forgotten, so that never more than one of them is held.
    """
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(partial(_listen, name, rank, found))
        for name, layer in model.layers.items()
    ]
    embedding: nn.Module = model.inner.get_input_embeddings()
    # No weight asks for a gradient yet: let it begin at the embeddings.
    hooks.append(embedding.register_forward_hook(_begin))
    try:
        with torch.enable_grad():
            loss().backward()
    finally:
        for hook in hooks:
            hook.remove()
    model.head.grad = None
    return found


def _begin(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def _listen(
    name: str,
    rank: int,
    found: dict[str, Tensor],
    layer: MagnitudeLinear,
    inputs: tuple[Tensor],
    output: Tensor,
) -> None:
    x = inputs[0].detach().reshape(-1, layer.in_features)

    def take(d: Tensor) -> None:
        gradient = d.reshape(-1, layer.out_features).t() @ x  # (o, i)
        if name not in found and torch.isfinite(gradient).all() and gradient.any():
            found[name] = truncated_svd(gradient, rank, iterations=4)[2]

    output.register_hook(take)
