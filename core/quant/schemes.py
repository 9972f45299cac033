"""The visible table of storage formats for frozen weights.

A weight matrix (out x in) is cut along its input into groups; every group has one scale. ``affine``
stores ``s * (q - z)``; ``nf4`` stores ``s * codebook[q]`` with the NormalFloat codebook of QLoRA
(Dettmers et al. 2023), whose codes equal those of bitsandbytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.errors import ConfigError


@dataclass(frozen=True)
class Scheme:
    """How one weight is stored.

    Attributes:
        bits: bits of one code; 16 stores the weight as it is.
        group: weights along the input that share a scale.
        codebook: ``affine`` or ``nf4``.
    """

    bits: int
    group: int = 64
    codebook: str = "affine"

    def __post_init__(self) -> None:
        """Refuse what has no planes.

        Raises:
            ConfigError: for other widths, a group that bytes do not divide, or an unknown codebook.
        """
        if self.bits not in (2, 3, 4, 8, 16) or (self.codebook == "nf4" and self.bits != 4):
            raise ConfigError(
                f"Weights cannot be stored in {self.bits} bits ({self.codebook}).",
                where="quant.bits",
                action="Choose 2, 3, 4, 8 or 16 (nf4: 4).",
            )
        if self.group % 32:
            raise ConfigError(
                f"A group of {self.group} weights cannot be packed.",
                where="quant.group",
                action="Choose a multiple of 32, for example 64.",
            )

    @property
    def overhead_bits(self) -> float:
        """Bits per weight beside the code: fp16 scale and 8-bit zero, or an fp32 scale (nf4)."""
        if self.bits == 16:
            return 0.0
        return (32 if self.codebook == "nf4" else 24) / self.group

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Exact bytes of codes and scales of a weight, padding of the last group included."""
        if self.bits == 16:
            return 2 * out_features * in_features
        groups = out_features * -(-in_features // self.group)
        per_group = self.group * self.bits // 8 + (4 if self.codebook == "nf4" else 3)
        return groups * per_group


# Codebook of bitsandbytes' NF4 (quantiles of a normal, 0 exact), ascending.
NF4 = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
