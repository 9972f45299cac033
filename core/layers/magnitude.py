"""An adapted linear layer with dropout of the adapter's input and a magnitude vector.

    y = g / |W| * (x Q^T + ((d(x) V^T) * (s * m)) U^T) + bias,      W = Q + U diag(s * m) V

with g (o,) trained and |W| (o,) the norms of W's rows, taken as constants in the backward pass
(DoRA, Liu et al. 2024, arXiv 2402.09353, section 4.3). Without g the factor is 1: plain LoRA with
dropout d. With neither it is :class:`AdapterLinear` itself. The norms need no dense W:

    |W_j|^2 = |Q_j|^2 + 2 (U' * Q V^T)_j 1 + (U' V V^T * U')_j 1,   U' = U diag(s * m)

``s`` holds the constant scale gamma and is not trained: gamma = alpha / sqrt(R) is rank-stabilised
(rsLoRA, Kalajdzievski 2023, arXiv 2312.03732), alpha / R is LoRA's own.

Shapes: N tokens, i inputs, o outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.layers.lora import AdapterLinear, _AdaptedLinear
from core.quant.weight import QuantizedWeight
from core.workspace import frame


class MagnitudeLinear(AdapterLinear):
    """A frozen linear layer (o, i) with triplets, adapter dropout and, if wanted, a magnitude.

    Attributes:
        dropout: probability with which an input of the adapter is left out in training.
        magnitude: g (o,), or None.
    """

    magnitude: nn.Parameter | None

    def __init__(
        self,
        quantized: QuantizedWeight,
        bias: Tensor | None = None,
        *,
        transposed: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Wrap a stored weight as :class:`AdapterLinear` does."""
        super().__init__(quantized, bias, transposed=transposed)
        self.dropout = dropout
        self.register_parameter("magnitude", None)
        self._squares: Tensor | None = None  # |Q_j|^2 (o,)
        # The stored weight alone, without an adapter: in a tuple, so that it is no module of ours.
        self._frozen = (AdapterLinear(quantized, None, transposed=transposed),)
        self.s.requires_grad_(False)

    def set_triplets(self, U: Tensor, s: Tensor, V: Tensor, m: Tensor | None = None) -> None:
        """Replace the adapter; the scale ``s`` stays a constant."""
        super().set_triplets(U, s, V, m)
        self.s.requires_grad_(False)

    def add_magnitude(self) -> None:
        """Begin with g = |W|, so that nothing changes."""
        self.magnitude = nn.Parameter(self.row_norms())

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """Norms of the rows of W (o,)."""
        with frame() as room:
            weight = self.quantized.expanded(room, torch.float32)
            if self._squares is None:
                self._squares = weight.square().sum(1)
            product = weight @ self.V.t()  # (o, R)
        U = self.U * (self.s * self.m)
        cross = (U * product).sum(1)
        own = ((U @ (self.V @ self.V.t())) * U).sum(1)
        return (self._squares + 2 * cross + own).clamp_min(1e-12).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., i) to (..., o)."""
        noisy = self.training and self.dropout > 0
        if self.magnitude is None and not noisy:
            return super().forward(x)
        y: Tensor = _AdaptedLinear.apply(x, self._frozen[0])  # type: ignore[no-untyped-call]
        if self.rank:
            seen = functional.dropout(x, self.dropout, training=noisy)
            y = y + functional.linear(functional.linear(seen, self.V) * self._gate(), self.U)
        if self.magnitude is not None:
            y = y * (self.magnitude / self.row_norms())
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _gate(self) -> Tensor:
        """The gate s * m (R,), whose gradient is gathered for the rank controller."""
        gate = (self.s.detach() * self.m).requires_grad_(torch.is_grad_enabled())
        if gate.requires_grad:
            gate.register_hook(self._gather)
        return gate

    def _gather(self, gradient: Tensor) -> None:
        known = self.gate_gradient
        self.gate_gradient = gradient if known is None else known + gradient

    def effective_weight(self) -> Tensor:
        """The dense weight (o, i) that this layer stands for."""
        weight = super().effective_weight()
        if self.magnitude is None:
            return weight
        return weight * (self.magnitude.detach() / self.row_norms())[:, None]
