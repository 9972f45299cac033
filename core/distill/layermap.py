"""Which layer of the teacher each layer of the student follows.

Shapes: N tokens, L_S and L_T layers of student and teacher, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def proportional_map(student_layers: int, teacher_layers: int) -> list[int]:
    """Layer l of the student follows layer round(l L_T / L_S) of the teacher (from 1).

    Returns:
        Index (from 0) of the teacher's layer for each layer of the student; the last of the
        student follows the last of the teacher.
    """
    ratio = teacher_layers / student_layers
    # Half up: Python's own rounding goes to the even neighbour and would jump back and forth.
    return [max(0, int(layer * ratio + 0.5) - 1) for layer in range(1, student_layers + 1)]


def centred_gram(features: Tensor) -> Tensor:
    """Gram matrix (N, N) of features (N, d), centred over tokens, in double precision."""
    x = features.double()
    x = x - x.mean(0)
    return x @ x.t()


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment, 0..1, of two :func:`centred_gram` matrices.

    Kornblith et al. 2019 (arXiv 1905.00414): |Y^T X|^2 / (|X^T X| |Y^T Y|) in Frobenius norms,
    written with the Gram matrices. Unchanged by rotations and by one factor for all.
    """
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size else 0.0


def similarities(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """CKA (L_S, L_T) of all pairs of layers, from their features (N, d) on the same tokens."""
    mine, theirs = [centred_gram(f) for f in student], [centred_gram(f) for f in teacher]
    return torch.tensor([[linear_cka(a, b) for b in theirs] for a in mine])


def aligned_map(similarity: Tensor) -> list[int]:
    """The monotone map of the largest total similarity (L_S, L_T), by dynamic programming.

    Layers of the teacher never go back; where the teacher has at least as many layers as the
    student, no two layers of the student share one. Of equal totals the earlier layers win.
    """
    students, teachers = similarity.shape
    step = 1 if teachers >= students else 0
    best = similarity[0].tolist()
    choices: list[list[int]] = []
    for layer in range(1, students):
        before: list[int] = []
        totals: list[float] = []
        for j in range(teachers):
            last = j - step
            candidates = range(last + 1)
            at = max(candidates, key=lambda i: (best[i], -i), default=-1)
            before.append(at)
            reachable = at >= 0 and best[at] > float("-inf")
            totals.append(best[at] + float(similarity[layer, j]) if reachable else float("-inf"))
        best, choices = totals, [*choices, before]
    found = [max(range(teachers), key=lambda j: (best[j], -j))]
    for before in reversed(choices):
        found.insert(0, before[found[0]])
    return found
