"""Expansion of stored codes on a GPU: one Triton kernel per width, for the layout of ``packing``.

Every kernel gives, bit for bit, what the torch operations of ``QuantizedWeight`` give: codes minus
zero are whole numbers below 256 and so exact in every dtype, and a product of two bf16 or fp16
numbers is exact in fp32, in which it is computed, before it is rounded once.

One program takes ``BLOCK`` bytes of a plane, whichever groups they belong to, so that a group may
have any size that ``Scheme`` allows. Needs the package ``triton``, which comes with PyTorch's CUDA
build on Linux; ``core.quant.weight`` does without where it is missing.

Shapes: n groups, g weights a group; ``out`` (n, g), ``scale`` and ``zero`` (n,).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.quant.schemes import NF4

BLOCK = 1024


@triton.jit
def _bytes(n, plane: tl.constexpr, size: tl.constexpr):
    """Group of each byte of this program, its place in the plane, and whether there is one."""
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    return at // plane, at % plane, at // plane < n


@triton.jit
def _rounded(out, values, index, inside):
    """``values[index]`` in fp32, rounded to the dtype of ``out`` first, as torch does."""
    v = tl.load(values + index, mask=inside, other=0).to(tl.float32)
    return v.to(out.dtype.element_ty).to(tl.float32)


@triton.jit
def _put(out, at, code, zero, scale, inside):
    value = (code.to(tl.float32) - zero.to(tl.float32)) * scale
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def expand_2(out, codes, scale, zero, n, g: tl.constexpr, size: tl.constexpr):
    """Bytes (n, g / 4) of four codes each."""
    plane: tl.constexpr = g // 4
    group, j, inside = _bytes(n, plane, size)
    byte = tl.load(codes + group * plane + j, mask=inside, other=0)
    s = _rounded(out, scale, group, inside)
    z = tl.load(zero + group, mask=inside, other=0)
    for k in tl.static_range(4):
        _put(out, group * g + k * plane + j, (byte >> (2 * k)) & 3, z, s, inside)


@triton.jit
def expand_3(out, codes, scale, zero, n, g: tl.constexpr, size: tl.constexpr):
    """Bytes (n, 3 g / 8): a plane of two bits, then one of the third."""
    plane: tl.constexpr = g // 4
    group, j, inside = _bytes(n, plane, size)
    first = codes + group * (plane + g // 8)
    low = tl.load(first + j, mask=inside, other=0)
    s = _rounded(out, scale, group, inside)
    z = tl.load(zero + group, mask=inside, other=0)
    for k in tl.static_range(4):
        place = k * plane + j
        third = tl.load(first + plane + place // 8, mask=inside, other=0).to(tl.int32)
        code = ((low >> (2 * k)) & 3) | (((third >> (place % 8).to(tl.int32)) & 1) << 2)
        _put(out, group * g + place, code, z, s, inside)


@triton.jit
def expand_4(out, codes, scale, zero, n, g: tl.constexpr, size: tl.constexpr):
    """Bytes (n, g / 2) of two codes each."""
    plane: tl.constexpr = g // 2
    group, j, inside = _bytes(n, plane, size)
    byte = tl.load(codes + group * plane + j, mask=inside, other=0)
    s = _rounded(out, scale, group, inside)
    z = tl.load(zero + group, mask=inside, other=0)
    for k in tl.static_range(2):
        _put(out, group * g + k * plane + j, (byte >> (4 * k)) & 15, z, s, inside)


@triton.jit
def expand_8(out, codes, scale, zero, n, g: tl.constexpr, size: tl.constexpr):
    """Bytes (n, g) of one code each."""
    group, j, inside = _bytes(n, g, size)
    byte = tl.load(codes + group * g + j, mask=inside, other=0)
    s = _rounded(out, scale, group, inside)
    z = tl.load(zero + group, mask=inside, other=0)
    _put(out, group * g + j, byte, z, s, inside)


@triton.jit
def expand_nf4(out, codes, scale, book, n, g: tl.constexpr, size: tl.constexpr):
    """Bytes (n, g / 2) of two codes each, which number the levels of ``book`` (16,)."""
    plane: tl.constexpr = g // 2
    group, j, inside = _bytes(n, plane, size)
    byte = tl.load(codes + group * plane + j, mask=inside, other=0)
    s = _rounded(out, scale, group, inside)
    for k in tl.static_range(2):
        level = _rounded(out, book, ((byte >> (4 * k)) & 15).to(tl.int32), inside)
        value = (level * s).to(out.dtype.element_ty)
        tl.store(out + group * g + k * plane + j, value, mask=inside)


KERNELS: dict[int, Any] = {2: expand_2, 3: expand_3, 4: expand_4, 8: expand_8}
_CODES = {2: 4, 3: 4, 4: 2, 8: 1}  # of which a byte of the first plane holds bits
_books: dict[torch.device, Tensor] = {}


def expand(out: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> None:
    """Write the weights of ``codes`` (n, g * bits / 8) into ``out`` (n, g); all are contiguous.

    Args:
        out: bf16, fp16 or fp32.
        codes: packed bytes as ``packing.pack`` gives them.
        scale: (n,) fp16 or fp32.
        zero: (n,) uint8; without it the codes are those of NF4.
        bits: 2, 3, 4 or 8.
    """
    n, g = out.shape
    if not n:
        return
    kernel = expand_nf4 if zero is None else KERNELS[bits]
    second = _book(out.device) if zero is None else zero
    grid = (triton.cdiv(n * g // _CODES[bits], BLOCK),)
    kernel[grid](out, codes, scale, second, n, g=g, size=BLOCK)


def _book(device: torch.device) -> Tensor:
    """The codebook on ``device``, copied there once."""
    if device not in _books:
        _books[device] = NF4.to(device)
    return _books[device]
