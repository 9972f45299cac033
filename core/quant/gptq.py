"""Rounding with error feedback, after GPTQ (Frantar et al. 2022), for several widths at once.

Columns are rounded one after the other; what rounding one column costs is taken back from the
columns that are still to come, weighted by the inverse of H = E[x x^T]. Weights that see the same
input share H, and so do the widths that are compared: they are stacked as rows and go through one
sweep.

Shapes: o = rows, i = inputs, g = group, W: (o, i), H: (i, i).
Our own: the clip of each group's grid is searched to minimise the error weighted by E[x^2].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.55)
# Of mean(diag H). In order on 4,166 tokens, 3 bits everywhere: perplexity 6.60, with 0.02 7.13.
DAMP = 0.1


@dataclass
class Rounded:
    """Codes (o, i padded) uint8 with scale and zero (o, groups) of one width."""

    bits: int
    codes: Tensor
    scale: Tensor
    zero: Tensor

    def rows(self, a: int, b: int) -> Rounded:
        """The rows a..b (one of the stacked weights)."""
        return Rounded(self.bits, self.codes[a:b], self.scale[a:b], self.zero[a:b])

    def stored(self, scheme: Scheme, in_features: int) -> QuantizedWeight:
        """Pack the codes."""
        o = self.codes.shape[0]
        return QuantizedWeight.from_codes(
            self.codes.reshape(-1, scheme.group),
            self.scale.reshape(-1),
            self.zero.reshape(-1),
            scheme,
            o,
            in_features,
        )


def inverse_factor(gram: Tensor, damp: float = DAMP) -> Tensor:
    """Upper Cholesky factor of the inverse of ``gram`` (i, i) + damp * mean(diag) * I."""
    i = gram.shape[0]
    eye = torch.eye(i, dtype=gram.dtype, device=gram.device)
    damped = gram + (damp * gram.diag().mean() + 1e-8) * eye
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def round_with_feedback(
    weight: Tensor,
    gram: Tensor,
    widths: Sequence[int],
    group: int = 64,
    *,
    upper: Tensor | None = None,
) -> dict[int, Rounded]:
    """Round ``weight`` (o, i) to every width of ``widths`` at once.

    Args:
        weight: the weights that share the input, stacked by rows.
        gram: E[x x^T] (i, i) of that input.
        widths: bits per code, each 2..8.
        group: weights along the input that share a scale.
        upper: :func:`inverse_factor` of ``gram`` (i, i), if it is known already.
    """
    o, i = weight.shape
    pad = -i % group
    upper = inverse_factor(gram.float()) if upper is None else upper
    importance = gram.diag().float().clamp_min(1e-2 * float(gram.diag().mean()))
    if pad:  # padded inputs are always zero: they neither cost nor pass on an error
        weight = torch.nn.functional.pad(weight, (0, pad))
        importance = torch.nn.functional.pad(importance, (0, pad), value=1.0)
        upper = torch.block_diag(upper, torch.eye(pad, dtype=upper.dtype, device=upper.device))
    stacked = weight.float().repeat(len(widths), 1)
    levels = torch.tensor([2.0**b - 1 for b in widths], device=weight.device)
    levels = levels.repeat_interleave(o)
    codes = torch.empty(stacked.shape, dtype=torch.uint8, device=weight.device)
    scales, zeros = [], []
    for a in range(0, i + pad, group):
        part = slice(a, a + group)
        block = stacked[:, part].contiguous()
        scale, zero = _search_grid(block, importance[part], levels)
        codes[:, part], errors = _round_block(block, upper[part, part], scale, zero, levels)
        stacked[:, a + group :].addmm_(errors, upper[part, a + group :], alpha=-1)
        scales.append(scale)
        zeros.append(zero)
    scale, zero = torch.stack(scales, 1), torch.stack(zeros, 1)
    return {
        b: Rounded(b, codes[k * o : (k + 1) * o], scale[k * o : (k + 1) * o], zero[k * o :][:o])
        for k, b in enumerate(widths)
    }


def _search_grid(block: Tensor, importance: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero (o,) of the clip with the least error weighted by E[x^2]."""
    low, high = block.amin(1).clamp_max(0), block.amax(1).clamp_min(0)
    best_error: Tensor | None = None
    best = (low, high)
    for clip in CLIPS:
        scale = ((high - low) * clip / levels).clamp_min(1e-7).half().float()
        zero = torch.minimum((-low * clip / scale).round().clamp_min(0), levels)
        codes = (block / scale[:, None]).add_(zero[:, None]).round_().clamp_min_(0)
        codes = torch.minimum(codes, levels[:, None])
        error = (codes.sub_(zero[:, None]).mul_(scale[:, None]).sub_(block)).square_() @ importance
        if best_error is None:
            best_error, best = error, (scale, zero)
        else:
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = (torch.where(better, scale, best[0]), torch.where(better, zero, best[1]))
    return best


def _round_block(
    block: Tensor, upper: Tensor, scale: Tensor, zero: Tensor, levels: Tensor
) -> tuple[Tensor, Tensor]:
    """Round one group column by column; returns codes (o, g) and scaled errors (o, g).

    Within a group every row has one scale, so the sweep runs in units of codes, and columns lie as
    rows, so that every operation touches contiguous memory.
    """
    values = (block / scale[:, None]).add_(zero[:, None]).t().contiguous()  # (g, o)
    codes, errors = torch.empty_like(values), torch.empty_like(values)
    inverse = upper.diag().reciprocal().tolist()
    columns = zip(values.unbind(), codes.unbind(), errors.unbind(), strict=True)
    for j, (v, q, e) in enumerate(columns):
        torch.round(v, out=q)
        torch.minimum(q.clamp_min_(0), levels, out=q)
        torch.sub(v, q, out=e)
        e.mul_(inverse[j])
        values[j + 1 :].addr_(upper[j, j + 1 :], e, alpha=-1)
    return codes.t().to(torch.uint8), (errors * scale).t().contiguous()
