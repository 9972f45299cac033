"""How much each term counts: scaled by its own size, and faded towards the end. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.config import DistillConfig

ANSWERS, OUTPUT, FEATURES, RELATIONS = "answers", "output", "features", "relations"
TERMS = (ANSWERS, OUTPUT, FEATURES, RELATIONS)
FIRST_STEPS = 50  # whose mean a term is divided by
# Least size of a term. Two models that agree differ by rounding alone, which must not be blown up
# to the size of a real difference.
FLOOR = 1e-3


@dataclass
class Scales:
    """The mean of every term over the first steps in which it was computed.

    The scale of a step is the mean of the steps before it; the first step is measured beforehand
    (:meth:`prime`), so that every step is divided by something known before its gradient.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    primed: dict[str, float] = field(default_factory=dict)

    def prime(self, values: dict[str, float]) -> None:
        """Take what the terms are before the first step."""
        self.primed = dict(values)

    def add(self, values: dict[str, float]) -> None:
        """Take the terms of a step, until there are enough."""
        for name, value in values.items():
            if self.counts.get(name, 0) < FIRST_STEPS:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def of(self, name: str) -> float:
        """What a term is divided by."""
        count = self.counts.get(name, 0)
        mean = self.sums[name] / count if count else self.primed.get(name, 1.0)
        return max(mean, FLOOR)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self.sums, "counts": self.counts, "primed": self.primed}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> Scales:
        """Back from a checkpoint."""
        return Scales(dict(tree["sums"]), dict(tree["counts"]), dict(tree["primed"]))


def weights(config: DistillConfig, step: int, steps: int, *, own: bool) -> dict[str, float]:
    """Weights of the terms of a step, those that do not count left out.

    Args:
        config: weights at the beginning, and when they fade.
        step: optimizer steps done before this one.
        steps: of the whole run.
        own: the answers are the student's own, so that they are nothing to imitate.
    """
    begin = (1 - config.fade) * steps
    fading = 1.0 if step < begin else max(0.0, (steps - step) / max(1.0, steps - begin))
    found = {
        ANSWERS: 0.0 if own else config.answer_weight,
        OUTPUT: config.output_weight,
        FEATURES: config.feature_weight * fading,
        RELATIONS: config.attention_weight * fading,
    }
    return {name: weight for name, weight in found.items() if weight > 0}
