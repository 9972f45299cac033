"""A linear layer whose singular values and row scales train; its singular vectors are frozen.

    W = R + diag(1 + c) U diag(g) V,   R = W0 - U diag(sigma) V,
    g = sigma * e^d  (log)   or   g = sigma + d  (additive)

after S2 (journal abstract c-s-a.org.cn 9731: only a diagonal matrix and a scaling vector train) in
the shape of OSoRA (arXiv 2505.14350). Which side is scaled, the start and the two forms of the
diagonal are our interpretation: d and c start at 0, where the layer computes what it did
before; the log form keeps singular values positive and makes steps relative. On a quantized base R
is what is quantized, so that the leading directions stay exact (as SRR, arXiv 2602.02001).

Shapes: N tokens, i = in_features, o = out_features, r = directions; x (N, i), R (o, i), U (o, r),
sigma, d, g (r,), V (r, i), c (o,).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.layers.lora import AdapterGradients, AdapterLinear
from core.quant.lowrank import Triplets
from core.quant.weight import QuantizedWeight
from core.workspace import Frame, frame


class SpectralLinear(AdapterLinear):
    """A stored residual (o, i) with r frozen singular directions; ``d`` and ``c`` train."""

    TRAINED: ClassVar[tuple[str, ...]] = ("d", "c")
    STATE: ClassVar[tuple[str, ...]] = TRAINED

    sigma: Tensor
    d: Tensor
    c: Tensor

    def __init__(
        self,
        residual: QuantizedWeight,
        basis: Triplets,
        bias: Tensor | None = None,
        *,
        transposed: bool = False,
        additive: bool = False,
    ) -> None:
        """Begin at d = c = 0.

        Args:
            residual: R, stored at any number of bits.
            basis: U, sigma, V; kept in their dtype.
            bias: (o,).
            transposed: the base keeps the weight as (i, o) (Conv1D).
            additive: g = sigma + d instead of sigma * e^d.
        """
        super().__init__(residual, bias, transposed=transposed)
        self.additive = additive
        device = self.m.device
        for key, tensor in zip(("U", "sigma", "V"), basis, strict=True):
            self.register_buffer(key, tensor.detach().to(device).contiguous())
        self.d = nn.Parameter(torch.zeros(len(self.sigma), device=device))
        self.c = nn.Parameter(torch.zeros(self.out_features, device=device))

    def _begin(self, device: torch.device) -> None:
        """The basis is given, not grown."""

    @property
    def rank(self) -> int:
        """Directions r."""
        return int(self.d.numel())

    @property
    def active_rank(self) -> int:
        """Directions r: none is ever masked."""
        return self.rank

    @property
    def trained_numbers(self) -> int:
        """Of the layer: r + o."""
        return self.rank + self.out_features

    @property
    def decaying(self) -> tuple[Tensor, ...]:
        """What balanced decay pulls back to 0, where the weight is that of the base: all of it."""
        return self.trained

    @property
    def decays_to_start(self) -> bool:
        """Not needed: the start is 0."""
        return False

    @property
    def basis_bytes(self) -> int:
        """Bytes of U, sigma and V."""
        return self.U.nbytes + self.sigma.nbytes + self.V.nbytes

    @property
    def gate(self) -> Tensor:
        """The values g (r,) in use, without a gradient."""
        sigma, d = self.sigma.float(), self.d.detach()
        return sigma + d if self.additive else sigma * d.exp()

    def merges(self, tokens: int, dtype: torch.dtype) -> bool:
        """Never: the products of the directions are made as they are."""
        return False

    def set_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take ``d`` (r,) and ``c`` (o,)."""
        for key, parameter in (("d", self.d), ("c", self.c)):
            parameter.data.copy_(tensors[key])

    def folded(self) -> dict[str, Tensor]:
        """``d`` and ``c``: all that the finished adapter keeps."""
        return {key: getattr(self, key).detach() for key in self.TRAINED}

    def factors(self) -> tuple[Tensor, Tensor]:
        """diag(1 + c) U diag(g) (o, r) and V (r, i)."""
        return self.U * self.gate * (1 + self.c.detach())[:, None], self.V.float()

    def learned_factors(self, start: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """diag(1 + c) U diag(g) - U diag(sigma) (o, r) and V (r, i), on the processor."""
        left, right = self.factors()
        return (left - self.U * self.sigma.float()).cpu(), right.cpu()

    def delta(self) -> Tensor:
        """diag(1 + c) U diag(g) V (o, i)."""
        left, right = self.factors()
        return left @ right

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """Add what the directions make of x (N, i) to y (N, o), in place."""
        with frame() as room:
            y.addmm_(x @ self._right(x.dtype, room).t(), self._left(x.dtype, room).t())

    def add_gradients(self, dy: Tensor, x: Tensor, dx: Tensor | None) -> AdapterGradients:
        """Gradients of d (r,) and c (o,); see the base class.

        Both are sums of one matrix, M = U * (dy^T x V^T) (o, r): over rows weighted by 1 + c for
        the diagonal, over columns weighted by g for c.
        """
        gate = self.gate
        with frame() as room:
            right = self._right(x.dtype, room)
            found = torch.mm(dy.t(), x @ right.t(), out=room.like(self.U, x.dtype))
            seen = room.like(self.U, torch.float32).copy_(self.U).mul_(found)
            d_gate = (1 + self.c.detach()) @ seen
            d_c = seen @ gate
            if dx is not None:
                dx.addmm_(dy @ self._left(x.dtype, room), right)
        return (d_gate if self.additive else d_gate * gate), d_c

    def _left(self, dtype: torch.dtype, room: Frame) -> Tensor:
        """diag(1 + c) U diag(g) (o, r), lent by ``room``."""
        # Copied first: operations on two dtypes at once are ten times slower.
        wide = room.like(self.U, torch.float32).copy_(self.U)
        wide.mul_(self.gate).mul_((1 + self.c.detach())[:, None])
        return wide if dtype == torch.float32 else wide.to(dtype)

    def _right(self, dtype: torch.dtype, room: Frame) -> Tensor:
        """V (r, i), lent by ``room`` unless it is stored like that."""
        return self.V if self.V.dtype == dtype else room.like(self.V, dtype).copy_(self.V)


def basis_bytes(out_features: int, in_features: int, directions: int) -> int:
    """Bytes that U and V in 16 bits and sigma in 32 take for a weight (o, i)."""
    return 2 * directions * (out_features + in_features) + 4 * directions


def scratch_bytes(out_features: int, in_features: int, directions: int, tokens: int) -> int:
    """Most bytes of an adapter's own tensors in a step of ``tokens`` (N), in fp32.

    V and three matrices like U, and two of the directions' activations (N, r).
    """
    return 4 * directions * (in_features + 3 * out_features + 2 * tokens)
