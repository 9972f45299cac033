"""Marks of a yes-or-no task from probabilities, with the definitions of scikit-learn. No torch.

TP, FP, TN, FN count pairs by truth and verdict. Shapes: n pairs; truth (n,) of 0 and 1, p (n,) the
probability of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10  # of the calibration error
NAMES = ("accuracy", "f1", "mcc", "auc", "pr_auc", "ece", "nll")

Floats = NDArray[np.float64]


def confusion(truth: ArrayLike, verdict: ArrayLike) -> dict[str, int]:
    """Return ``tp, fp, tn, fn``."""
    t, v = np.asarray(truth).astype(bool), np.asarray(verdict).astype(bool)
    return {
        "tp": int((t & v).sum()),
        "fp": int((~t & v).sum()),
        "tn": int((~t & ~v).sum()),
        "fn": int((t & ~v).sum()),
    }


def accuracy(c: dict[str, int]) -> float:
    """Return (TP + TN) / n; 0 without pairs."""
    return (c["tp"] + c["tn"]) / max(1, sum(c.values()))


def f1(c: dict[str, int]) -> float:
    """Return 2 TP / (2 TP + FP + FN); 0 if there is nothing to find and nothing was found."""
    return 2 * c["tp"] / max(1, 2 * c["tp"] + c["fp"] + c["fn"])


def mcc(c: dict[str, int]) -> float:
    """Matthews' correlation (TP TN - FP FN) / sqrt(...); 0 if a factor of the root is 0."""
    tp, fp, tn, fn = c["tp"], c["fp"], c["tn"], c["fn"]
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / root if root else 0.0


def pr_auc(truth: ArrayLike, p: ArrayLike) -> float:
    """Average precision: sum over thresholds of (recall step) x precision; NaN without a 1."""
    precision, recall = _curve(truth, p)
    return float((np.diff(recall, prepend=0.0) * precision).sum()) if len(recall) else math.nan


def roc_auc(truth: ArrayLike, p: ArrayLike) -> float:
    """Probability that a 1 gets more than a 0, ties counted half; NaN without both."""
    t, score = np.asarray(truth).astype(bool), np.asarray(p, np.float64)
    ones, zeros = int(t.sum()), int((~t).sum())
    if not ones or not zeros:
        return math.nan
    _, where, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[where]  # mean rank of each value, from 1
    return float((rank[t].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def ece(truth: ArrayLike, p: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015) of the probability of 1, equal-width bins.

    Sum over bins of n_b / n x |share of ones in b - mean probability in b|.
    """
    t, score = np.asarray(truth, np.float64), np.asarray(p, np.float64)
    if not len(t):
        return math.nan
    which = np.minimum((score * bins).astype(int), bins - 1)
    ones, mass = np.bincount(which, t, bins), np.bincount(which, score, bins)
    return float(np.abs(ones - mass).sum() / len(t))


def nll(truth: ArrayLike, p: ArrayLike) -> float:
    """Mean cross-entropy in nats; NaN without pairs."""
    t = np.asarray(truth).astype(bool)
    score = np.clip(np.asarray(p, np.float64), 1e-12, 1 - 1e-12)
    return float(-np.log(np.where(t, score, 1 - score)).mean()) if len(t) else math.nan


def best_threshold(truth: ArrayLike, p: ArrayLike) -> float:
    """The threshold with the highest MCC on these pairs; 0.5 where there are not both labels.

    Only cuts between neighbouring probabilities differ; of equally good ones the cut nearest to
    0.5 is taken, and it lies in the middle of its gap.
    """
    t, score = np.asarray(truth).astype(bool), np.asarray(p, np.float64)
    if not len(t) or t.all() or not t.any():
        return 0.5
    known = np.unique(score)
    cuts = [0.5, *((known[1:] + known[:-1]) / 2)]
    marks = [mcc(confusion(t, score >= cut)) for cut in cuts]
    best = max(marks)
    good = [cut for cut, mark in zip(cuts, marks, strict=True) if mark >= best - 1e-12]
    return float(min(good, key=lambda cut: abs(cut - 0.5)))


def marks(truth: Sequence[int], p: Sequence[float], threshold: float) -> dict[str, Any]:
    """All marks of probabilities at a threshold.

    Returns:
        ``examples``, ``accuracy``, ``f1``, ``mcc``, ``auc`` (ROC), ``pr_auc``, ``ece``, ``nll``,
        ``threshold`` and ``confusion`` (``tp``, ``fp``, ``tn``, ``fn``).
    """
    found = confusion(truth, np.asarray(p) >= threshold)
    return {
        "examples": len(truth),
        "accuracy": accuracy(found),
        "f1": f1(found),
        "mcc": mcc(found),
        "auc": roc_auc(truth, p),
        "pr_auc": pr_auc(truth, p),
        "ece": ece(truth, p),
        "nll": nll(truth, p),
        "threshold": threshold,
        "confusion": found,
    }


def _curve(truth: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Precision and recall at every distinct threshold, from the highest down."""
    t, score = np.asarray(truth, np.float64), np.asarray(p, np.float64)
    if not t.sum():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-score, kind="stable")
    hits, ranked = np.cumsum(t[order]), score[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last of each tie
    return hits[ends] / (ends + 1), hits[ends] / t.sum()
