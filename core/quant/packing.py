"""Codes of 2, 3, 4 and 8 bits in byte planes, exactly as many bytes as bits.

Layout of one group of ``g`` codes: a 2-bit plane of g/4 bytes (byte j holds codes j, j+g/4, j+2g/4,
j+3g/4), a 4-bit plane of g/2 bytes (codes j and j+g/2), and for 3 bits a 2-bit plane followed by a
1-bit plane of g/8 bytes (byte j holds the third bits of codes 8j..8j+7). Codes of one plane lie
next to each other after a shift, so that unpacking is a handful of vector operations.

Shapes: n groups, g weights a group.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` (n, g) uint8 into bytes (n, g * bits / 8).

    Raises:
        ValueError: for a width without planes.
    """
    if bits == 8:
        return codes.contiguous()
    parts = 8 // bits if bits != 3 else 4
    quarter = codes.shape[1] // parts
    if bits == 4:
        return codes[:, :quarter] | (codes[:, quarter:] << 4)
    if bits == 2:
        q = [codes[:, k * quarter : (k + 1) * quarter] for k in range(4)]
        return q[0] | (q[1] << 2) | (q[2] << 4) | (q[3] << 6)
    if bits == 3:
        return torch.cat([pack(codes & 3, 2), _pack_1(codes >> 2)], 1)
    raise ValueError(f"no planes for {bits} bits")


def unpack_into(out: Tensor, packed: Tensor, bits: int) -> None:
    """Write the codes of ``packed`` (n, g * bits / 8) into ``out`` (n, g) uint8."""
    g = out.shape[1]
    if bits == 8:
        out.copy_(packed)
    elif bits == 4:
        torch.bitwise_and(packed, 15, out=out[:, : g // 2])
        torch.bitwise_right_shift(packed, 4, out=out[:, g // 2 :])
    else:
        low, quarter = packed[:, : g // 4], g // 4
        for k in range(4):
            part = out[:, k * quarter : (k + 1) * quarter]
            torch.bitwise_right_shift(low, 2 * k, out=part)
            if k < 3:
                part.bitwise_and_(3)
        if bits == 3:
            table = _HIGH_BITS.to(packed.device)
            high = table[packed[:, g // 4 :].int()].view(torch.uint8)  # (n, g)
            out.bitwise_or_(high.view(-1, g))


def unpack(packed: Tensor, bits: int, group: int) -> Tensor:
    """Return the codes (n, group) uint8 of ``packed`` (n, group * bits / 8)."""
    out = torch.empty(packed.shape[0], group, dtype=torch.uint8, device=packed.device)
    unpack_into(out, packed, bits)
    return out


def _pack_1(bit: Tensor) -> Tensor:
    eight = bit.view(bit.shape[0], -1, 8)
    out = torch.zeros(eight.shape[:2], dtype=torch.uint8, device=bit.device)
    for j in range(8):
        out |= eight[:, :, j] << j
    return out


def _high_bits() -> Tensor:
    """256 rows of eight bytes, byte j holding bit j shifted to the place of a third code bit."""
    rows = [[((byte >> j) & 1) << 2 for j in range(8)] for byte in range(256)]
    return torch.tensor(rows, dtype=torch.uint8).view(torch.int64)[:, 0].contiguous()


# One look-up writes eight codes at once: twice as fast as eight shifts (docs/log.md).
_HIGH_BITS = _high_bits()
