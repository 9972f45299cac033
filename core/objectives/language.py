"""Answer-only cross-entropy over a frozen output head, computed in blocks of its vocabulary.

The logits of a whole batch never exist. A first pass over blocks of the vocabulary gathers the
normaliser of every answer token as it goes (after the online softmax of Milakov and Gimelshein,
2018), a second computes the blocks' logits again and from them the gradient with respect to the
hidden states (after Cut Cross-Entropy, Wijmans et al. 2024). So the stored head is expanded twice,
however many tokens there are. Frozen heads need no weight gradient, which is what makes it possible
in the forward pass.

Shapes: N answer tokens, d = hidden size, v = vocabulary, b = rows of a block of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.quant.embedding import ROW_BLOCK, row_blocks
from core.quant.weight import QuantizedWeight
from core.workspace import frame

# Memory of the logits of a block of the vocabulary; one tensor of this size lives at a time (two
# with a softcap).
BLOCK_BYTES = 24 * 2**20


def tokens_at_once(vocabulary: int) -> int:
    """Answer tokens whose logits with a block of the vocabulary are computed at a time."""
    return max(1, BLOCK_BYTES // (4 * min(ROW_BLOCK, vocabulary)))


@dataclass(frozen=True)
class _Head:
    """The output head and what follows it: ``cap(scale * (W h + bias))``."""

    table: QuantizedWeight
    bias: Tensor | None
    scale: float
    softcap: float

    def logits(self, out: Tensor, h: Tensor, weight: Tensor, rows: slice) -> Tensor:
        """Write the logits (k, b) fp32 of ``weight`` (b, d), rows of the table, for h (k, d)."""
        if h.dtype == out.dtype:
            torch.mm(h, weight.t(), out=out)
        else:
            out.copy_(h @ weight.t())
        if self.bias is not None:
            out.add_(self.bias[rows].float())
        if self.scale != 1.0:
            out.mul_(self.scale)
        if self.softcap:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        return out

    def normaliser(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the sum of all exp(logit) (k,), and the targets' logits (k,)."""
        k = len(y)
        largest = torch.full((k,), -torch.inf, device=h.device)
        total, wanted = torch.zeros(k, device=h.device), torch.zeros(k, device=h.device)
        for rows in row_blocks(self.table):
            with frame() as room:
                weight = self.table.expanded(room, h.dtype, rows)
                out = room.take(k, len(weight), dtype=torch.float32, device=h.device)
                logits = self.logits(out, h, weight, rows)
                here, column = _targets_in(y, rows)
                wanted[here] = logits[here, column]
                before, largest = largest, torch.maximum(largest, logits.amax(1))
                total.mul_((before - largest).exp_())
                total.add_(logits.sub_(largest[:, None]).exp_().sum(1))
        return largest + total.log(), wanted

    def gradient(self, h: Tensor, y: Tensor, lse: Tensor) -> Tensor:
        """d(sum of losses)/d(hidden) (k, d)."""
        found = torch.zeros_like(h)
        for rows in row_blocks(self.table):
            with frame() as room:
                weight = self.table.expanded(room, h.dtype, rows)
                out = room.take(len(y), len(weight), dtype=torch.float32, device=h.device)
                logits = self.logits(out, h, weight, rows)
                slope = 1 - (logits / self.softcap).square_() if self.softcap else None
                d_logits = logits.sub_(lse[:, None]).exp_()
                d_logits[_targets_in(y, rows)] -= 1
                if slope is not None:
                    d_logits.mul_(slope)
                found.addmm_(d_logits.to(h.dtype), weight, alpha=self.scale)
        return found


def _targets_in(y: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in a block of the vocabulary, and in which of its columns."""
    here = ((y >= rows.start) & (y < rows.stop)).nonzero()[:, 0]
    return here, y[here] - rows.start


class _BlockwiseLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: _Head) -> Tensor:
        """Mean negative log-likelihood; hidden (N, d), targets (N,)."""
        n = hidden.shape[0]
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = [hidden.new_zeros(0, dtype=torch.float32)]
        at_once = tokens_at_once(head.table.out_features)
        for a in range(0, n, at_once):
            part = slice(a, a + at_once)
            h, y = hidden[part], targets[part]
            lse, wanted = head.normaliser(h, y)
            losses.append(lse - wanted)
            if gradient is not None:
                gradient[part] = head.gradient(h, y, lse).div_(n)
        ctx.save_for_backward(gradient)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


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
    head = _Head(table, bias, scale, softcap)
    loss: Tensor = _BlockwiseLoss.apply(  # type: ignore[no-untyped-call]
        hidden[learned], targets[learned], head
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
    head = _Head(table, bias, scale, softcap)
    at_once = tokens_at_once(table.out_features)
    parts = []
    for a in range(0, len(y), at_once):
        lse, wanted = head.normaliser(h[a : a + at_once], y[a : a + at_once])
        parts.append(lse - wanted)
    return torch.cat(parts) if parts else hidden.new_zeros(0)
