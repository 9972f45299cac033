"""Attention over a packed row: no mask of T x T, keys and values once a group of heads.

A row holds a shared beginning of p tokens and segments that see it and themselves. The segments are
taken in groups of a few hundred tokens, so that the products are large enough for the processor and
the masks small: a row of 1400 tokens in four segments costs a third of what it costs as one square.
For the backward pass q, k, v and the output wait in 16 bits; grouped keys and values are repeated
for the products only.

Shapes: T tokens, H heads, G heads of keys and values, h size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from core.layers.blocks import Kept
from core.workspace import Frame, frame

NAME = "packed"  # of this implementation in transformers' registry
GROUP = 256  # tokens of whole segments that are attended in one call, at least
_aten = torch.ops.aten


def bounds_of(positions: Tensor) -> Tensor:
    """Where a packed row is cut: p and the ends of its segments, (1, 1, 1, 1 + segments).

    Four dimensions, because ``transformers`` hands such a mask to attention as it is.

    Args:
        positions: (T,) of a row as :class:`core.data.packing.Row` has them.
    """
    starts = (positions[1:] != positions[:-1] + 1).nonzero()[:, 0] + 1
    shared = int(positions[starts[0]]) if len(starts) else 0
    # The first segment begins after the beginning, where nothing in the positions tells it.
    ends = [*starts.tolist(), len(positions)]
    return torch.tensor([shared, *ends]).view(1, 1, 1, -1)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as ``transformers`` calls it: query (1, H, T, h), key and value (1, G, T, h).

    ``attention_mask`` is what :func:`bounds_of` returns, or anything else for the library's own.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    shared, *ends = attention_mask.flatten().tolist()
    row = _Row(shared, ends, scaling or 1 / math.sqrt(query.shape[-1]), sliding_window)
    if query.device.type == "cpu":
        keep: Kept = module.keep  # type: ignore[assignment]
        out: Tensor = _PackedAttention.apply(query, key, value, row, keep)  # type: ignore[no-untyped-call]
    else:
        repeats = query.shape[1] // key.shape[1]
        k, v = (t.repeat_interleave(repeats, 1) for t in (key, value))
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, g.queries],
                g.take(k),
                g.take(v),
                attn_mask=g.mask(query),
                is_causal=g.causal,
                scale=row.scale,
            )
            for g in row.groups
        ]
        out = torch.cat(parts, 2)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Group:
    """Queries a..b and what they see: the beginning (p tokens) and themselves, by segment."""

    def __init__(self, a: int, b: int, shared: int, ends: Sequence[int], window: int | None):
        self.queries = slice(a, b)
        self.shared = shared if a else 0  # the first group has the beginning among its own
        self.within = shared if a == 0 else 0
        self.lengths = [y - x for x, y in zip([a + self.within, *ends], ends, strict=False)]
        longest = self.shared + self.within + max(self.lengths)
        self.window = window if window is not None and window < longest else None
        alone = len(ends) == 1 or (len(self.lengths) == 1)
        self.causal = alone and not self.shared and self.window is None

    def take(self, t: Tensor) -> Tensor:
        """Keys or values (1, H, n, h) that the group sees."""
        own = t[:, :, self.queries]
        return torch.cat([t[:, :, : self.shared], own], 2) if self.shared else own

    def give(self, into: Tensor, gradient: Tensor) -> None:
        """Add the gradient of :meth:`take`'s result to that of all keys or values."""
        into[:, :, : self.shared] += gradient[:, :, : self.shared]
        into[:, :, self.queries] += gradient[:, :, self.shared :]

    def mask(self, like: Tensor) -> Tensor | None:
        """0 where a query sees a key, else -inf, (queries, keys)."""
        if self.causal:
            return None
        p = self.shared + self.within
        own = torch.cat([torch.full((n,), k + 1) for k, n in enumerate(self.lengths)])
        places = torch.cat([torch.arange(p, p + n) for n in self.lengths])
        key_segment = torch.cat([torch.zeros(p, dtype=own.dtype), own])
        key_place = torch.cat([torch.arange(p), places])
        first = self.shared  # keys that are no queries
        segment, place = key_segment[first:, None], key_place[first:, None]
        sees = ((key_segment == segment) | (key_segment == 0)) & (key_place <= place)
        if self.window is not None:
            sees &= key_place > place - self.window
        hidden = torch.zeros(sees.shape, dtype=like.dtype).masked_fill_(~sees, -math.inf)
        return hidden.to(like.device)


class _Row:
    """The groups of a packed row."""

    def __init__(self, shared: int, ends: Sequence[int], scale: float, window: int | None):
        self.scale = scale
        self.groups: list[_Group] = []
        a, inside = 0, []
        for end in ends:
            inside.append(end)
            if end - a >= GROUP or end == ends[-1]:
                self.groups.append(_Group(a, end, shared, inside, window))
                a, inside = end, []


class _PackedAttention(torch.autograd.Function):
    """The library's fused attention for processors, a group of segments at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, row: _Row, keep: Kept) -> Tensor:
        out = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        weights = []
        for g in row.groups:
            with frame() as room:
                part, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
                    q[:, :, g.queries],
                    _repeated(room, g.take(k), q),
                    _repeated(room, g.take(v), q),
                    0.0,
                    g.causal,
                    attn_mask=g.mask(q),
                    scale=row.scale,
                )
            if len(row.groups) == 1:
                out = part
            else:
                out[:, :, g.queries] = part
            weights.append(lse)
        ctx.row = row
        saved = [keep(name, t) for name, t in (("query", q), ("key", k), ("value", v))]
        ctx.save_for_backward(*saved, keep.output(out.transpose(1, 2)), *weights)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, kept_out, *weights = ctx.saved_tensors
        saved, dtype = (query, key, value), dy.dtype
        dq: Tensor = dy.new_empty(dy.shape)
        dk, dv = (dy.new_zeros(t.shape) for t in saved[1:])
        with frame() as room:
            q, k, v = (_widened(room, t, dtype) for t in saved)
            out = _widened(room, kept_out, dtype).transpose(1, 2)
            for g, lse in zip(ctx.row.groups, weights, strict=True):
                with frame() as inner:
                    part, of_k, of_v = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
                        dy[:, :, g.queries],
                        q[:, :, g.queries],
                        _repeated(inner, g.take(k), q),
                        _repeated(inner, g.take(v), q),
                        out[:, :, g.queries],
                        lse,
                        0.0,
                        g.causal,
                        attn_mask=g.mask(q),
                        scale=ctx.row.scale,
                    )
                if len(ctx.row.groups) == 1:
                    dq = part
                else:
                    dq[:, :, g.queries] = part
                g.give(dk, _gathered(of_k, k))
                g.give(dv, _gathered(of_v, v))
        return dq, dk, dv, None, None


def _repeated(room: Frame, t: Tensor, like: Tensor) -> Tensor:
    """Keys or values (1, G, n, h) once for each head (1, H, n, h)."""
    _, groups, n, size = t.shape
    repeats = like.shape[1] // groups
    if repeats == 1:
        return t
    into = room.take(1, groups, repeats, n, size, dtype=t.dtype, device=t.device)
    return into.copy_(t[:, :, None].expand_as(into)).flatten(1, 2)


def _widened(room: Frame, t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t`` in the dtype of the products."""
    return t if t.dtype == dtype else room.like(t, dtype).copy_(t)


def _gathered(gradient: Tensor, like: Tensor) -> Tensor:
    """The sum over the heads (1, H, n, h) that share keys or values (1, G, n, h)."""
    groups = like.shape[1]
    if gradient.shape[1] == groups:
        return gradient
    summed: Tensor = gradient.unflatten(1, (groups, -1)).sum(2)
    return summed
