"""Embedding table and output head in one stored form, used once where they are tied.

Shapes: v = vocabulary, d = hidden size, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.quant.weight import QuantizedWeight
from core.workspace import frame


class QuantizedEmbedding(nn.Module):
    """Looks up rows of a stored table (v, d); no gradient goes to it.

    ``source`` is the module it replaces: scaled embeddings (Gemma) keep their factor.
    """

    def __init__(self, table: QuantizedWeight, source: nn.Module, dtype: torch.dtype) -> None:
        """Wrap ``table``; outputs are in ``dtype``."""
        super().__init__()
        self.table, self.dtype = table, dtype
        factor = getattr(source, "embed_scale", None)
        self.factor = 1.0 if factor is None else float(factor)

    @property
    def weight(self) -> Tensor:
        """A zero-sized stand-in that tells dtype and device (some models ask their embedding)."""
        device = next(iter(self.table.buffers())).device
        return torch.empty(0, dtype=self.dtype, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., d) of ids (...)."""
        rows = self.table.rows(ids.reshape(-1), self.dtype)
        if self.factor != 1.0:
            rows = rows * self.factor
        return rows.view(*ids.shape, -1)


class QuantizedHead(nn.Module):
    """Logits (..., v) from hidden states (..., d) and a stored table (v, d), block by block.

    Only inference calls it; training uses a loss that never makes all logits.
    """

    def __init__(self, table: QuantizedWeight, bias: Tensor | None = None) -> None:
        """Wrap ``table``."""
        super().__init__()
        self.table = table
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The dense table (v, d); dequantized on each use."""
        return self.table.dequantize()

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits for every position."""
        logits: Tensor = _FrozenHead.apply(hidden, self)  # type: ignore[no-untyped-call]
        return logits


class _FrozenHead(torch.autograd.Function):
    """Linear map by a stored table that keeps nothing of it for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: QuantizedHead) -> Tensor:
        ctx.head = head
        blocks = []
        for rows in row_blocks(head.table):
            with frame() as room:
                blocks.append(hidden @ head.table.expanded(room, hidden.dtype, rows).t())
        logits = torch.cat(blocks, -1)
        bias: Tensor | None = head.bias  # type: ignore[assignment]
        return logits if bias is None else logits + bias.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        table = ctx.head.table
        total = None
        for rows in row_blocks(table):
            with frame() as room:
                part = dy[..., rows] @ table.expanded(room, dy.dtype, rows)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total, None


# Rows of a table that are dense at a time: 4096 x 4096 fp32 are 64 MiB.
ROW_BLOCK = 4096


def row_blocks(table: QuantizedWeight, rows: int = ROW_BLOCK) -> list[slice]:
    """Slices of the table's rows, so that a block of it is dense at a time."""
    return [slice(a, min(a + rows, table.out_features)) for a in range(0, table.out_features, rows)]
