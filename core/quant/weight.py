"""A frozen weight as it is stored: packed codes and scales, or the weight itself at 16 bits.

Shapes: o = out_features, i = in_features, g = group, n = o * ceil(i / g) groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.quant.packing import pack, unpack_into
from core.quant.schemes import NF4, Scheme
from core.workspace import Frame, frame

# Groups that are expanded at a time: large enough that waking the threads for an operation does
# not count (two to three times as fast as 4096, docs/log.md), small enough that the scratch bytes
# do not either.
CHUNK_GROUPS = 32768


class QuantizedWeight(nn.Module):
    """The stored form of one weight (o, i); never trained.

    Buffers at 2-8 bits: ``codes`` (n, g * bits / 8) uint8, ``scale`` (n,), ``zero`` (n,) uint8
    (affine only). At 16 bits: ``dense`` (o, i).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    dense: Tensor

    def __init__(self, scheme: Scheme, out_features: int, in_features: int) -> None:
        """Describe the weight; fill it with :meth:`from_dense`, :meth:`from_codes` or buffers."""
        super().__init__()
        self.scheme = scheme
        self.out_features, self.in_features = out_features, in_features

    @property
    def padded(self) -> int:
        """Input width rounded up to whole groups."""
        return -(-self.in_features // self.scheme.group) * self.scheme.group

    @staticmethod
    def from_dense(weight: Tensor, scheme: Scheme) -> QuantizedWeight:
        """Store ``weight`` (o, i), rounding to nearest where the scheme has fewer than 16 bits."""
        if scheme.bits == 16:
            stored = QuantizedWeight(scheme, *weight.shape)
            keep = weight if weight.dtype in (torch.bfloat16, torch.float16) else weight.bfloat16()
            stored.register_buffer("dense", keep.contiguous())
            return stored
        grouped = to_groups(weight.float(), scheme.group)
        if scheme.codebook == "nf4":
            scale = grouped.abs().amax(1)
            codes = nearest_nf4(grouped / scale.clamp_min(1e-12)[:, None])
            return QuantizedWeight.from_codes(codes, scale, None, scheme, *weight.shape)
        scale, zero = affine_grid(grouped, scheme.bits)
        codes = affine_codes(grouped, scale[:, None], zero[:, None], scheme.bits)
        return QuantizedWeight.from_codes(codes, scale, zero, scheme, *weight.shape)

    @staticmethod
    def from_codes(
        codes: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        scheme: Scheme,
        out_features: int,
        in_features: int,
    ) -> QuantizedWeight:
        """Store given ``codes`` (n, g) with ``scale`` (n,) and ``zero`` (n,)."""
        stored = QuantizedWeight(scheme, out_features, in_features)
        stored.register_buffer("codes", pack(codes.to(torch.uint8), scheme.bits).contiguous())
        if zero is None:
            stored.register_buffer("scale", scale.float().contiguous())
        else:
            stored.register_buffer("scale", scale.half().contiguous())
            stored.register_buffer("zero", zero.to(torch.uint8).contiguous())
        return stored

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (o, i) in ``dtype``; a new tensor, or the stored one at 16 bits."""
        if self.scheme.bits == 16:
            return self.dense.to(dtype)
        return self._rows(slice(None), dtype, torch.empty)

    def rows(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows ``index`` (k,) as a new tensor (k, i), expanding only these."""
        if self.scheme.bits == 16:
            return self.dense[index].to(dtype)
        return self._rows(index, dtype, torch.empty)

    def expanded(self, room: Frame, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
        """Return rows (k, i) in ``dtype``, lent by ``room`` unless they are stored like that."""
        if self.scheme.bits != 16:
            return self._rows(rows, dtype, room.take)
        part = self.dense[rows]
        return part if part.dtype == dtype else room.like(part, dtype).copy_(part)

    def lends(self, dtype: torch.dtype) -> bool:
        """Whether :meth:`expanded` gives a copy, which may be changed."""
        return self.scheme.bits != 16 or self.dense.dtype != dtype

    def _rows(
        self, index: Tensor | slice, dtype: torch.dtype, empty: Callable[..., Tensor]
    ) -> Tensor:
        o, g = self.out_features, self.scheme.group
        per_row = self.padded // g
        codes = self.codes.view(o, per_row, -1)[index]
        k = codes.shape[0]
        zero = getattr(self, "zero", None)
        out = empty(k * per_row, g, dtype=dtype, device=codes.device)
        self._expand(
            out,
            codes.reshape(k * per_row, -1),
            self.scale.view(o, per_row)[index].reshape(-1),
            None if zero is None else zero.view(o, per_row)[index].reshape(-1),
        )
        return out.view(k, self.padded)[:, : self.in_features]

    def stored_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(b.nbytes for b in self.buffers())

    def _expand(self, out: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None) -> None:
        if codes.device.type != "cpu":
            kernels = _kernels()
            if kernels is not None and codes.device.type == "cuda":
                kernels.expand(out, codes, scale, zero, self.scheme.bits)
            else:
                scratch = torch.empty_like(out, dtype=torch.uint8)
                self._expand_chunk(out, codes, scale, zero, scratch)
            return
        count = min(CHUNK_GROUPS, len(out))
        with frame() as room:
            scratch = room.take(count, out.shape[1], dtype=torch.uint8, device=out.device)
            for a in range(0, len(out), CHUNK_GROUPS):
                part = slice(a, a + CHUNK_GROUPS)
                z = None if zero is None else zero[part]
                into = out[part]
                self._expand_chunk(into, codes[part], scale[part], z, scratch[: len(into)])

    def _expand_chunk(
        self, out: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, scratch: Tensor
    ) -> None:
        if self.scheme.bits == 8:
            scratch = codes
        else:
            unpack_into(scratch, codes, self.scheme.bits)
        s = scale.to(out.dtype)[:, None]
        if zero is None:
            out.copy_(NF4.to(out)[scratch.int()])
        else:
            out.copy_(scratch)
            out.sub_(zero.to(out.dtype)[:, None])
        out.mul_(s)


@functools.cache
def _kernels() -> Any:
    """The kernels for CUDA, or None where ``triton`` is missing (Windows, PyTorch for CPUs)."""
    try:
        from core.quant import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def to_groups(weight: Tensor, group: int) -> Tensor:
    """Reshape (o, i) to (n, g); the last group of a row is padded with zeros where needed."""
    pad = -weight.shape[1] % group
    if pad:
        weight = torch.nn.functional.pad(weight, (0, pad))
    return weight.reshape(-1, group)


def affine_grid(grouped: Tensor, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scale and zero (n,), (n,) of the min-max grid of ``grouped`` (n, g), shrunk by ``clip``."""
    low = grouped.amin(1).clamp_max(0) * clip
    high = grouped.amax(1).clamp_min(0) * clip
    levels = 2**bits - 1
    # Rounded to fp16 first, because that is what is stored.
    scale = ((high - low) / levels).clamp_min(1e-7).half().float()
    zero = (-low / scale).round().clamp(0, levels)
    return scale, zero


def affine_codes(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Nearest codes (float) of ``values`` on the grid; shapes broadcast."""
    return (values / scale + zero).round().clamp_(0, 2**bits - 1)


def nearest_error(weight: Tensor, bits: int, group: int, clip: float = 1.0) -> Tensor:
    """``weight`` (o, i) minus itself rounded to nearest on an affine grid shrunk by ``clip``."""
    error = torch.empty_like(weight)
    padded = -(-weight.shape[1] // group) * group
    rows = max(1, CHUNK_GROUPS * group // padded)
    for a in range(0, len(weight), rows):
        grouped = to_groups(weight[a : a + rows], group)
        scale, zero = (t[:, None] for t in affine_grid(grouped, bits, clip))
        rounded = affine_codes(grouped, scale, zero, bits).sub_(zero).mul_(scale)
        part = (grouped - rounded).view(-1, padded)
        error[a : a + rows] = part[:, : weight.shape[1]]
    return error


def nearest_nf4(values: Tensor) -> Tensor:
    """Codes (uint8) of ``values`` in [-1, 1] on the NF4 codebook."""
    book = NF4.to(values)
    return torch.bucketize(values.contiguous(), (book[1:] + book[:-1]) / 2).to(torch.uint8)
