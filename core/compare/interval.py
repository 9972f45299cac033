"""Medians and 95 % intervals of few measurements (Student's t). No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# 97.5 % points of Student's t by degrees of freedom, from 1 on. Beyond them the last one counts,
# so that an interval is never too narrow.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

Better = Literal["less", "more"]


@dataclass(frozen=True)
class Spread:
    """Some measurements in short.

    Attributes:
        n: how many.
        median: of them.
        mean: of them.
        low, high: 95 % interval of the mean (Student's t); ``None`` for fewer than two.
    """

    n: int
    median: float
    mean: float
    low: float | None
    high: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Summarise at least one measurement.

        Raises:
            ValueError: if there is none.
        """
        n = len(values)
        if not n:
            raise ValueError("there is nothing to summarise")
        median, mean = statistics.median(values), statistics.fmean(values)
        if n < 2:
            return Spread(n, median, mean, None, None)
        half = student(n - 1) * statistics.stdev(values) / math.sqrt(n)
        return Spread(n, median, mean, mean - half, mean + half)

    def verdict(self, better: Better) -> str:
        """Read the spread as differences: ``better``, ``worse``, ``unclear``; empty for one."""
        if self.low is None or self.high is None:
            return ""
        if self.low <= 0 <= self.high:
            return "unclear"
        return "better" if (self.high < 0) == (better == "less") else "worse"


def student(freedom: int) -> float:
    """Return the 97.5 % point of Student's t for so many degrees of freedom (at least 1)."""
    return STUDENT[min(freedom, len(STUDENT)) - 1]
