"""Answer-only cross-entropy over a frozen output head, computed in chunks.

The logits of a whole batch never exist: for every chunk of answer tokens the loss and its gradient
with respect to the hidden states are computed at once, and the chunk's logits are dropped. Frozen
heads need no weight gradient, which is what makes this possible in the forward pass.

Shapes: N answer tokens, d = hidden size, v = vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.quant.embedding import row_blocks
from core.quant.weight import QuantizedWeight
from core.workspace import Frame, frame

# Memory of the logits of one chunk. Every chunk expands the stored head twice, so that larger
# chunks are faster; one tensor of this size lives at a time (two with a softcap).
CHUNK_BYTES = 24 * 2**20


def chunk_rows(vocabulary: int) -> int:
    """Answer tokens whose logits are computed at a time."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: QuantizedWeight,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float,
        chunk: int,
    ) -> Tensor:
        """Mean negative log-likelihood; hidden (N, d), targets (N,)."""
        n = hidden.shape[0]
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = []
        for a in range(0, n, chunk):
            h, y = hidden[a : a + chunk], targets[a : a + chunk]
            with frame() as room:
                logits = _logits(room, h, table, bias, scale, softcap)  # (k, v) fp32
                lse = _logsumexp(logits)
                losses.append(lse - logits.gather(1, y[:, None])[:, 0])
                if gradient is not None:
                    gradient[a : a + chunk] = _hidden_gradient(
                        logits, lse, y, table, scale, softcap, hidden.dtype
                    ).div_(n)
        ctx.save_for_backward(gradient)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None, None, None, None, None


def answer_loss(
    hidden: Tensor,
    table: QuantizedWeight,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> Tensor:
    """Mean negative log-likelihood in nats per answer token.

    Args:
        hidden: last hidden states (T, d) of all positions, already shifted: row t predicts
            ``targets[t]``.
        table: the stored output head (v, d).
        targets: token ids (T,), -100 where nothing is learned.
        bias: optional bias (v,) of the head.
        scale: factor on the logits.
        softcap: tanh cap on the logits, 0 for none (Gemma 2).

    Returns:
        A scalar that carries gradients to ``hidden``. NaN if no target is learned.
    """
    learned = targets != -100
    chunk = chunk_rows(table.out_features)
    loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden[learned], table, bias, targets[learned], scale, softcap, chunk
    )
    return loss


@torch.no_grad()
def answer_losses(
    hidden: Tensor,
    table: QuantizedWeight,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> Tensor:
    """Negative log-likelihood (N,) of every learned target, without gradients."""
    learned = targets != -100
    h, y = hidden[learned], targets[learned]
    chunk = chunk_rows(table.out_features)
    parts = []
    for a in range(0, len(y), chunk):
        with frame() as room:
            logits = _logits(room, h[a : a + chunk], table, bias, scale, softcap)
            parts.append(_logsumexp(logits) - logits.gather(1, y[a : a + chunk, None])[:, 0])
    return torch.cat(parts) if parts else hidden.new_zeros(0)


def _logits(
    room: Frame,
    h: Tensor,
    table: QuantizedWeight,
    bias: Tensor | None,
    scale: float,
    softcap: float,
) -> Tensor:
    logits = room.take(h.shape[0], table.out_features, dtype=torch.float32, device=h.device)
    for rows in row_blocks(table):
        with frame() as inner:
            logits[:, rows] = h @ table.expanded(inner, h.dtype, rows).t()
    if bias is not None:
        logits.add_(bias.float())
    if scale != 1.0:
        logits.mul_(scale)
    if softcap:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _logsumexp(logits: Tensor) -> Tensor:
    """Row by row in small groups: the library makes a second tensor of its argument's size."""
    return torch.cat([rows.logsumexp(-1) for rows in logits.split(16)])


def _hidden_gradient(
    logits: Tensor,
    lse: Tensor,
    y: Tensor,
    table: QuantizedWeight,
    scale: float,
    softcap: float,
    dtype: torch.dtype,
) -> Tensor:
    """d(sum of losses)/d(hidden) (k, d); overwrites ``logits``."""
    slope = 1 - (logits / softcap).square_() if softcap else None
    d_logits = logits.sub_(lse[:, None]).exp_()
    d_logits[torch.arange(len(y), device=y.device), y] -= 1
    if slope is not None:
        d_logits.mul_(slope)
    total = torch.zeros(len(y), table.in_features, dtype=dtype, device=y.device)
    for rows in row_blocks(table):
        with frame() as room:
            weight = table.expanded(room, dtype, rows)
            total.addmm_(d_logits[:, rows].to(dtype), weight, alpha=scale)
    return total
