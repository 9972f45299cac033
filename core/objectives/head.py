"""Any loss of logits, chunk by chunk: the logits of a whole batch never exist.

For every chunk of tokens the logits, the loss and its gradient with respect to hidden states and
head are computed at once, in the forward pass, and the chunk's logits are dropped.

Shapes: N tokens, k tokens of a chunk, d = hidden size, v = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from core.quant.embedding import row_blocks
from core.quant.weight import QuantizedWeight
from core.workspace import frame

# Memory of the scores of one chunk; a loss that compares two models needs about eight such tensors.
CHUNK_BYTES = 8 * 2**20

# Summed loss of the logits (k, v) of the tokens ``slice``; may carry gradients to the logits only.
Criterion = Callable[[Tensor, slice], Tensor]


class Head(Protocol):
    """What turns hidden states into logits."""

    weight: Tensor | None
    bias: Tensor | None

    @property
    def vocabulary(self) -> int:
        """Tokens v that get a logit."""

    def raw(self, hidden: Tensor) -> Tensor:
        """Scores (k, v) fp32 of hidden states (k, d) before :meth:`finished`; no gradients."""

    def finished(self, raw: Tensor) -> Tensor:
        """Logits of raw scores; carries gradients."""

    def pulled(self, d_raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Gradient (k, d) of the hidden states from that of the raw scores (k, v)."""


def _finished(raw: Tensor, scale: float, softcap: float) -> Tensor:
    if scale != 1.0:
        raw = raw * scale
    return torch.tanh(raw / softcap) * softcap if softcap else raw


@dataclass
class DenseHead:
    """A head with a dense weight (v, d), which may be trained."""

    weight: Tensor | None
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0

    @property
    def vocabulary(self) -> int:
        """Rows v of the weight."""
        return int(self._weight.shape[0])

    @property
    def _weight(self) -> Tensor:
        assert self.weight is not None
        return self.weight

    def raw(self, hidden: Tensor) -> Tensor:
        """Scores (k, v) before scale and softcap."""
        bias = None if self.bias is None else self.bias.detach()
        return torch.nn.functional.linear(hidden.detach(), self._weight.detach(), bias).float()

    def finished(self, raw: Tensor) -> Tensor:
        """Apply scale and softcap."""
        return _finished(raw, self.scale, self.softcap)

    def pulled(self, d_raw: Tensor, dtype: torch.dtype) -> Tensor:
        """d_raw (k, v) times the weight: (k, d)."""
        return d_raw.to(self._weight.dtype).mm(self._weight.detach()).to(dtype)


@dataclass
class StoredHead:
    """A frozen head whose weight (v, d) is stored in few bits and expanded in blocks of rows."""

    table: QuantizedWeight
    fixed_bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    weight: Tensor | None = None  # nothing to train
    bias: Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """Rows v of the table."""
        return self.table.out_features

    def raw(self, hidden: Tensor) -> Tensor:
        """Scores (k, v) before scale and softcap."""
        h = hidden.detach()
        scores = torch.empty(h.shape[0], self.vocabulary, device=h.device)
        for rows in row_blocks(self.table):
            with frame() as room:
                scores[:, rows] = (h @ self.table.expanded(room, h.dtype, rows).t()).float()
        return scores if self.fixed_bias is None else scores.add_(self.fixed_bias.float())

    def finished(self, raw: Tensor) -> Tensor:
        """Apply scale and softcap."""
        return _finished(raw, self.scale, self.softcap)

    def pulled(self, d_raw: Tensor, dtype: torch.dtype) -> Tensor:
        """d_raw (k, v) times the expanded weight: (k, d)."""
        total = torch.zeros(
            d_raw.shape[0], self.table.in_features, dtype=dtype, device=d_raw.device
        )
        for rows in row_blocks(self.table):
            with frame() as room:
                total.addmm_(d_raw[:, rows].to(dtype), self.table.expanded(room, dtype, rows))
        return total


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        head: Head,
        criterion: Criterion,
        chunk: int,
    ) -> Tensor:
        """Sum of the criterion over all chunks; hidden (N, d)."""
        dh, dw, db = (
            torch.zeros_like(t) if needed and t is not None else None
            for t, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        )
        total = torch.zeros((), device=hidden.device)
        for a in range(0, hidden.shape[0], chunk):
            part = slice(a, min(a + chunk, hidden.shape[0]))
            raw = head.raw(hidden[part]).requires_grad_()
            with torch.enable_grad():
                value = criterion(head.finished(raw), part)
            total += value.detach()
            if not value.requires_grad:
                continue
            (d_raw,) = torch.autograd.grad(value, raw)
            if dh is not None:
                dh[part] = head.pulled(d_raw, hidden.dtype)
            if dw is not None:
                dw.addmm_(d_raw.t().to(dw.dtype), hidden[part].to(dw.dtype))
            if db is not None:
                db.add_(d_raw.sum(0))
        ctx.save_for_backward(dh, dw, db)
        return total

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        found = (None if t is None else t * d_loss for t in ctx.saved_tensors)
        return *found, None, None, None


def head_loss(hidden: Tensor, head: Head, criterion: Criterion, *, chunk: int = 0) -> Tensor:
    """Sum of ``criterion`` over tokens, with gradients to hidden states and to a trained head.

    Args:
        hidden: last hidden states (N, d) of the tokens.
        head: the output head.
        criterion: summed loss of the logits (k, v) of a slice of the tokens.
        chunk: tokens at a time; 0: as many as :data:`CHUNK_BYTES` allow.

    Returns:
        A scalar; 0 for no tokens.
    """
    chunk = chunk or max(1, CHUNK_BYTES // (4 * head.vocabulary))
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head, criterion, chunk
    )
    return loss


@torch.no_grad()
def each_chunk(
    hidden: Tensor, head: Head, see: Callable[[Tensor, slice], None], *, chunk: int = 0
) -> None:
    """Show the logits (k, v) of every chunk of tokens to ``see``, without gradients."""
    chunk = chunk or max(1, CHUNK_BYTES // (4 * head.vocabulary))
    for a in range(0, hidden.shape[0], chunk):
        part = slice(a, min(a + chunk, hidden.shape[0]))
        see(head.finished(head.raw(hidden[part])), part)
