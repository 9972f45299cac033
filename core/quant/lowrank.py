"""Truncated singular value decompositions: randomized for a matrix, exact for a product.

Shapes: M (o, i), r triplets; U (o, r), S (r,) descending, V (r, i).
"""

from __future__ import annotations

import torch
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]


def truncated_svd(matrix: Tensor, rank: int, *, iterations: int = 2, seed: int = 0) -> Triplets:
    """The leading ``rank`` triplets by randomized subspace iteration (Halko et al. 2011).

    With 8 extra directions, two iterations miss 0.4 % of the optimal residual, four 0.04 %.
    """
    rank = min(rank, *matrix.shape)
    width = min(rank + 8, *matrix.shape)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, generator=generator).to(matrix)
    basis = torch.linalg.qr(matrix @ start)[0]
    for _ in range(iterations):
        basis = torch.linalg.qr(matrix.t() @ basis)[0]
        basis = torch.linalg.qr(matrix @ basis)[0]
    u, s, v = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


def exact_svd(matrix: Tensor, rank: int) -> Triplets:
    """The leading ``rank`` triplets in float64, from the eigenvectors of the smaller Gram matrix.

    Much faster than a full decomposition. A vector is right to about 1e-16 |M|^2 over the distance
    of its squared singular value to the next; directions under 1e-6 |M| are zeros.
    """
    wide = matrix.double()
    tall = wide.shape[0] >= wide.shape[1]
    values, vectors = torch.linalg.eigh(wide.t() @ wide if tall else wide @ wide.t())
    s = values.flip(0)[:rank].clamp_min(0).sqrt()
    near = vectors.flip(1)[:, :rank]
    real = s > 1e-6 * s[0].clamp_min(1e-300)
    inverse = torch.where(real, 1 / s.clamp_min(1e-300), 0.0)
    near, s = near * real, s * real
    far = (wide @ near if tall else wide.t() @ near) * inverse
    return (far, s, near.t()) if tall else (near, s, far.t())


def weighted_fit(
    error: Tensor, rows: Tensor, lower: Tensor, rank: int, *, iterations: int = 2
) -> tuple[Tensor, Tensor]:
    """U (o, r) and V (r, i) with the least |diag(rows) (error - U V) lower|.

    The truncated decomposition of the weighted matrix, unweighted again: the exact optimum as far
    as :func:`truncated_svd` is one, because both weights are invertible.

    Args:
        error: what U V shall cancel (o, i).
        rows: weights of the outputs (o,), all positive.
        lower: weight of the inputs (i, i), lower triangular.
        rank: r.
        iterations: of :func:`truncated_svd`.
    """
    u, s, v = truncated_svd((error * rows[:, None]) @ lower, rank, iterations=iterations)
    right = torch.linalg.solve_triangular(lower, v, upper=False, left=False)
    return u * s / rows[:, None], right


def product_svd(left: Tensor, right: Tensor) -> Triplets:
    """Exact decomposition of ``left`` (o, r) times ``right`` (r, i) without forming it."""
    ql, rl = torch.linalg.qr(left)
    qr, rr = torch.linalg.qr(right.t())
    u, s, v = torch.linalg.svd(rl @ rr.t())
    return ql @ u, s, v @ qr.t()
