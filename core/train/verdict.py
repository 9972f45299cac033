"""Is it learning, memorising, or not learning? A plain word from two curves. No torch."""

from __future__ import annotations

from collections.abc import Sequence

CLEAR = 0.03  # of the first quiz loss; smaller changes say nothing


def verdict(losses: Sequence[float], quiz: Sequence[tuple[int, float]]) -> str:
    """Return ``too_early``, ``learning``, ``memorising`` or ``not_learning``.

    Args:
        losses: training loss of each step.
        quiz: (step, loss on the held-out quiz), the first at or near the start.

    ``memorising``: the quiz loss has risen clearly above its best while the training loss went on
    falling. ``not_learning``: neither curve has fallen clearly.
    """
    if len(quiz) < 2 or len(losses) < 4:
        return "too_early"
    first, best, last = quiz[0][1], min(v for _, v in quiz), quiz[-1][1]
    third = max(1, len(losses) // 3)
    falling = _mean(losses[-third:]) < _mean(losses[:third]) * (1 - CLEAR)
    if last > best + max(CLEAR * first, 0.02) and falling:
        return "memorising"
    if last < first * (1 - CLEAR):
        return "learning"
    return "learning" if falling and last <= first else "not_learning"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
