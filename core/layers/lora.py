"""A linear layer with a frozen stored weight and a trainable triplet adapter.

    y = x Q^T + ((x V^T) * (s * m)) U^T + bias

after AdaLoRA's parametrisation (Zhang et al. 2023): triplet k is (U[:, k], s[k], V[k, :]), ``m`` a
mask that the rank controller moves between 0 and 1. The scale is constant, so that masking one
triplet never rescales the others.

Shapes: N tokens, i = in_features, o = out_features, R = rank; x (N, i), Q (o, i), U (o, R), s (R),
m (R), V (R, i).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from core.quant.weight import QuantizedWeight
from core.workspace import Frame, frame

# Gradients of what a layer trains, in its order; None where the adapter is empty.
AdapterGradients = tuple[Tensor | None, ...]


def adapted_product(x: Tensor, layer: AdapterLinear, out: Tensor | None = None) -> Tensor:
    """Return y (N, o) of x (N, i), written to ``out`` or to a new tensor."""
    merged = layer.merges(len(x), x.dtype)
    with frame() as room:
        y = torch.mm(x, layer.weight(room, x.dtype, merged=merged).t(), out=out)
    if not merged:
        layer.add_product(x, y)
    if layer.bias is not None:
        y.add_(layer.bias.to(x.dtype))
    return y


def adapted_gradients(
    dy: Tensor,
    x: Tensor,
    layer: AdapterLinear,
    *,
    add_to: Tensor | None = None,
    out: Tensor | None = None,
    needed: bool = True,
) -> tuple[Tensor | None, AdapterGradients]:
    """Gradients of the input (N, i) and of what the layer trains.

    Args:
        dy: gradient of y (N, o).
        x: input (N, i).
        layer: what was applied to it.
        add_to: gradient of the same input from elsewhere; this one is added to it, in place.
        out: where the gradient of the input is written; None: to a new tensor.
        needed: whether the gradient of the input is asked for.
    """
    dx, merged = add_to, layer.merges(len(x), dy.dtype)
    if needed:
        with frame() as room:
            weight = layer.weight(room, dy.dtype, merged=merged)
            dx = torch.mm(dy, weight, out=out) if dx is None else dx.addmm_(dy, weight)
    return dx, layer.add_gradients(dy, x, None if merged else dx)


class _AdaptedLinear(torch.autograd.Function):
    """Keeps only x for the backward pass; the dense weight lives for one multiplication.

    ``F.linear(x, Q.dequantize())`` would keep the dequantized weight of every layer until the
    backward pass and so save nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: AdapterLinear, *trained: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x if layer.keeper is None else layer.keeper.input_of(layer, x))
        y = adapted_product(x.reshape(-1, x.shape[-1]), layer)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        with frame() as room:
            x = kept if kept.dtype == dy.dtype else room.like(kept, dy.dtype).copy_(kept)
            dx, trained = adapted_gradients(
                dy.reshape(-1, dy.shape[-1]),
                x.reshape(-1, x.shape[-1]),
                ctx.layer,
                needed=ctx.needs_input_grad[0],
            )
        return None if dx is None else dx.view(x.shape), None, *trained


class Keeper(Protocol):
    """Keeps what a layer needs for the backward pass in a smaller form."""

    def input_of(self, layer: AdapterLinear, x: Tensor) -> Tensor:
        """What stands for the layer's input x (..., i)."""
        ...


class AdapterLinear(nn.Module):
    """A frozen linear layer (o, i) with a triplet adapter of rank R.

    ``gate_gradient`` (R,) gathers dL/d(s*m) of the present optimizer step, masked triplets
    included: that is what lets a masked triplet be judged and revived. ``keeper`` holds the input
    for the backward pass; None: autograd, as it is.

    ``TRAINED`` names what is trained, ``STATE`` what a checkpoint keeps; another kind of adapter
    is a subclass with its own (:mod:`core.layers.spectral`).
    """

    TRAINED: ClassVar[tuple[str, ...]] = ("U", "s", "V")
    STATE: ClassVar[tuple[str, ...]] = ("U", "s", "V", "m")

    U: Tensor
    s: Tensor
    V: Tensor
    m: Tensor
    bias: Tensor | None

    def __init__(
        self, quantized: QuantizedWeight, bias: Tensor | None = None, *, transposed: bool = False
    ) -> None:
        """Wrap a stored weight; ``transposed`` says that the base keeps it as (i, o) (Conv1D)."""
        super().__init__()
        self.quantized = quantized
        self.out_features, self.in_features = quantized.out_features, quantized.in_features
        self.transposed = transposed
        self.register_buffer("bias", bias)
        device = next(iter(quantized.buffers())).device
        self.register_buffer("m", torch.zeros(0, device=device))
        self.gate_gradient: Tensor | None = None
        self.keeper: Keeper | None = None
        self._begin(device)

    def _begin(self, device: torch.device) -> None:
        """Make an empty adapter."""
        self.U = nn.Parameter(torch.zeros(self.out_features, 0, device=device))
        self.s = nn.Parameter(torch.zeros(0, device=device))
        self.V = nn.Parameter(torch.zeros(0, self.in_features, device=device))

    @property
    def rank(self) -> int:
        """Triplets that are stored."""
        return int(self.s.numel())

    @property
    def active_rank(self) -> int:
        """Triplets that take part (m > 0)."""
        return int((self.m > 0).sum())

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """What is trained, in the order of ``TRAINED``."""
        return tuple(getattr(self, key) for key in self.TRAINED)

    @property
    def trained_numbers(self) -> int:
        """Numbers that take part and are trained."""
        return self.active_rank * (self.out_features + self.in_features + 1)

    @property
    def basis_bytes(self) -> int:
        """Bytes of frozen tensors beside the stored weight."""
        return 0

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by the names of ``STATE``."""
        return {key: getattr(self, key) for key in self.STATE}

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` or :meth:`folded` gave."""
        self.set_triplets(tensors["U"], tensors["s"], tensors["V"], tensors.get("m"))

    def folded(self) -> dict[str, Tensor]:
        """What the finished adapter keeps: the triplets that take part, masks folded in."""
        keep = (self.m > 0).nonzero()[:, 0]
        s = (self.s.data * self.m)[keep]
        return {"U": self.U.data[:, keep], "s": s, "V": self.V.data[keep]}

    def factors(self) -> tuple[Tensor, Tensor]:
        """Left (o, R) and right (R, i) of the adapter's triplets that do something."""
        keep = ((self.m > 0) & (self.s.data != 0)).nonzero()[:, 0]
        return self.U.data[:, keep] * (self.s.data * self.m)[keep], self.V.data[keep]

    def learned_factors(self, start: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Left (o, k) and right (k, i) of the adapter minus that of ``start``, on the processor.

        Args:
            start: what :meth:`state` gave at step 0.
        """
        now = self.U.data.cpu() * (self.s.data * self.m).cpu()
        before = start["U"] * (start["s"] * start["m"])
        return torch.cat([now, -before], 1), torch.cat([self.V.data.cpu(), start["V"]], 0)

    def set_triplets(self, U: Tensor, s: Tensor, V: Tensor, m: Tensor | None = None) -> None:
        """Replace the adapter by U (o, R), s (R), V (R, i) and, if given, m (R)."""
        device = self.s.device
        self.U = nn.Parameter(U.detach().float().to(device).contiguous())
        self.s = nn.Parameter(s.detach().float().to(device).contiguous())
        self.V = nn.Parameter(V.detach().float().to(device).contiguous())
        self.m = torch.ones_like(self.s.data) if m is None else m.detach().float().to(device)
        self.gate_gradient = None

    def merges(self, tokens: int, dtype: torch.dtype) -> bool:
        """Whether the adapter is added to the weight for one product of so many tokens.

        That costs o * i * R multiplications a pass, and the thin products of tokens and adapter
        that it replaces (2 i + o) * N * R in both passes, at a tenth of the speed of the others.
        Only in fp32: a weight in 16 bits would swallow small changes.
        """
        o, i = self.out_features, self.in_features
        if dtype != torch.float32 or not self.rank or not self.quantized.lends(dtype):
            return False
        return tokens * (2 * i + o) > 2 * o * i

    def weight(self, room: Frame, dtype: torch.dtype, *, merged: bool) -> Tensor:
        """The stored weight (o, i), with or without the adapter, for one product."""
        weight = self.quantized.expanded(room, dtype)
        if merged:
            weight.addmm_(self.U.detach() * (self.s.detach() * self.m), self.V.detach())
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., i) to (..., o)."""
        y: Tensor = _AdaptedLinear.apply(x, self, *self.trained)  # type: ignore[no-untyped-call]
        return y

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """Add what the adapter makes of x (N, i) to y (N, o), in place."""
        if not self.rank:
            return
        U, s, V = (t.detach().to(x.dtype) for t in (self.U, self.s, self.V))
        y.addmm_((x @ V.t()).mul_(s * self.m.to(x.dtype)), U.t())

    def add_gradients(self, dy: Tensor, x: Tensor, dx: Tensor | None) -> AdapterGradients:
        """Gradients of what is trained, in the order of ``TRAINED``.

        Adds dL/d(s*m) to ``gate_gradient``, also for masked triplets.

        Args:
            dy: gradient of y (N, o).
            x: input (N, i).
            dx: gradient of x (N, i), to which the adapter's is added in place; None: not needed.
        """
        if not self.rank:
            return None, None, None
        U, s, V = (t.detach() for t in (self.U, self.s, self.V))
        Ux, Vx, gate = U.to(x.dtype), V.to(x.dtype), (s * self.m).to(x.dtype)  # noqa: N806
        p = x @ Vx.t()  # (N, R)
        t = dy @ Ux  # (N, R)
        d_gate = (t * p).sum(0).to(s.dtype)  # (R,), also of masked triplets
        self.gate_gradient = d_gate if self.gate_gradient is None else self.gate_gradient + d_gate
        dU = dy.t() @ p.mul_(gate)  # (o, R)
        t.mul_(gate)
        dV = t.t() @ x  # (R, i)
        if dx is not None:
            dx.addmm_(t, Vx)
        return dU.to(U.dtype), d_gate * self.m, dV.to(V.dtype)

    def delta(self) -> Tensor:
        """The adapter as a dense matrix U diag(s*m) V (o, i)."""
        return (self.U.data * (self.s.data * self.m)) @ self.V.data

    def effective_weight(self) -> Tensor:
        """Stored weight and adapter together (o, i) in fp32."""
        return self.quantized.dequantize(torch.float32) + self.delta()


def adapter_layers(model: nn.Module) -> dict[str, AdapterLinear]:
    """All adapted layers by module name, in the order of the model."""
    return {n: m for n, m in model.named_modules() if isinstance(m, AdapterLinear)}
