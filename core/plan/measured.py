"""A base model whose linear layers read their weight from disk, use it and forget it.

So a model is measured, and its weights are rounded, without ever being in memory as a whole.
Shapes: N tokens, i inputs, o outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.assemble import LanguageModel, build
from core.quant.gptq import inverse_factor

DAMP = 0.01  # of mean(diag H), so that directions without input stay finite


class MeasuredLinear(nn.Module):
    """A linear layer that shows what passes through it.

    Attributes:
        on_forward: called with (layer, weight (o, i), x (N, i)); may return the weight (o, i) to go
            on with, so that later layers see what it makes of the text.
        on_backward: called with (layer, weight (o, i), x (N, i), d (N, o)), d the gradient of y.
    """

    def __init__(
        self, name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> None:
        """Stand for the layer ``name`` of the base model."""
        super().__init__()
        self.name, self.read, self.transposed = name, read, transposed
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self.on_forward: Callable[[MeasuredLinear, Tensor, Tensor], Tensor | None] | None = None
        self.on_backward: Callable[[MeasuredLinear, Tensor, Tensor, Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., i) to (..., o) as the base model does."""
        y: Tensor = _MeasuredProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class _MeasuredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: MeasuredLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        weight = layer.read()
        if layer.on_forward is not None:
            instead = layer.on_forward(layer, weight.float(), x.reshape(-1, x.shape[-1]).float())
            weight = weight if instead is None else instead
        return x @ weight.to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        layer: MeasuredLinear = ctx.layer
        weight = layer.read()
        if layer.on_backward is not None:
            flat, d = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
            layer.on_backward(layer, weight.float(), flat.float(), d.float())
        return dy @ weight.to(dy.dtype), None


def measured_model(
    path: Path, embedding_bits: int, device: torch.device | None
) -> tuple[LanguageModel, dict[str, MeasuredLinear]]:
    """Build the model at ``path``; returns it with its linear layers by name, in order."""
    layers: dict[str, MeasuredLinear] = {}

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> nn.Module:
        layers[name] = MeasuredLinear(name, read, bias, transposed)
        return layers[name]

    return build(path, store, embedding_bits=embedding_bits, device=device), layers


def backpropagate(model: LanguageModel, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
    """One forward and backward pass of a packed row, each (T,), that the layers listen to.

    Returns the mean loss per answer token. The layers hear the gradient of each token's own loss.
    """
    learned = int((labels[1:] != -100).sum())
    model.set_checkpointing(True)
    # Something must ask for gradients before the first block; its own gradient is not used.
    spark = torch.zeros((), requires_grad=True)
    handle = model.blocks[0].register_forward_pre_hook(
        lambda _m, args: ((args[0] + spark.to(args[0])), *args[1:])
    )
    loss = model.loss(ids, positions, labels)
    (loss * learned).backward()
    handle.remove()
    model.set_checkpointing(False)
    return loss.detach()


@dataclass
class InputMoments:
    """H = E[x x^T] (i, i) of a layer's inputs, and its factors."""

    gram: Tensor

    @cached_property
    def lower(self) -> Tensor:
        """L (i, i), lower triangular, with L L^T = H + damping."""
        eye = torch.eye(self.gram.shape[0], device=self.gram.device)
        factor: Tensor = torch.linalg.cholesky(
            self.gram + (DAMP * self.gram.diag().mean() + 1e-10) * eye
        )
        return factor

    @cached_property
    def inverse_upper(self) -> Tensor:
        """Upper factor of the inverse of H, for rounding with feedback."""
        return inverse_factor(self.gram)


class MomentsOfLast:
    """Keeps the moments of the input seen last: q, k and v share one, as do gate and up."""

    def __init__(self) -> None:
        self._x: Tensor | None = None
        self._moments: InputMoments | None = None

    def of(self, x: Tensor) -> InputMoments:
        """Moments of x (N, i)."""
        last = self._x
        if self._moments is None or last is None or not torch.equal(last, x):
            self._x, self._moments = x, InputMoments(x.t() @ x / x.shape[0])
        return self._moments
