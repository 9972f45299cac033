"""Losses of a classification head: weighted cross-entropy, and agreement of two noisy passes.

R-Drop (Liang et al. 2021, arXiv 2106.14448): with two passes 1, 2 whose dropout differs,

    L = 1/2 (CE_1 + CE_2) + a/4 (KL(p_1 | p_2) + KL(p_2 | p_1))

half of the published sum, so that it stays of the size of one cross-entropy.

Shapes: B pairs, C classes; logits (B, C), labels (B,), weights (C,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def class_weights(labels: Tensor, classes: int = 2) -> Tensor:
    """Weights (C,) inverse to the classes' shares, whose mean over these ``labels`` (n,) is 1."""
    counts = torch.bincount(labels, minlength=classes).float()
    return counts.sum() / (classes * counts.clamp_min(1.0))


def classification_losses(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted cross-entropy of every pair (B,).

    Not divided by the weights of this batch, so that the gradients of several batches of one step
    add up to that of the whole.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return losses if weights is None else losses * weights[labels]


def r_drop_loss(
    first: Tensor, second: Tensor, labels: Tensor, weights: Tensor | None, strength: float
) -> Tensor:
    """Mean R-Drop loss of two passes over the same pairs; ``strength`` is a."""
    losses = classification_losses(first, labels, weights)
    losses = (losses + classification_losses(second, labels, weights)) / 2
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    gap = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)  # KL(p|q) + KL(q|p)
    return (losses + strength / 4 * gap).mean()
