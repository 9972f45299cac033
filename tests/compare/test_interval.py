"""Intervals: Student's points are right, and an interval says no more than its measurements."""

import itertools
import math
import statistics

import pytest

from core.compare.interval import STUDENT, Spread, student


def upper_tail(t, freedom, pieces=4000):
    """P(T > t) of Student's t by Simpson's rule over the angle a, where x = sqrt(f) tan(a)."""
    begin = math.atan(t / math.sqrt(freedom))
    width = (math.pi / 2 - begin) / pieces
    constant = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
    heights = [
        max(0.0, math.cos(begin + k * width)) ** (freedom - 1) * (4 if k % 2 else 2)
        for k in range(1, pieces)
    ]
    ends = math.cos(begin) ** (freedom - 1) + (1.0 if freedom == 1 else 0.0)
    return constant * (ends + sum(heights)) * width / 3


@pytest.mark.parametrize("freedom", range(1, len(STUDENT) + 1))
def test_one_part_in_forty_lies_above_each_point(freedom):
    assert upper_tail(student(freedom), freedom) == pytest.approx(0.025, abs=3e-5)


def test_points_fall_and_the_last_one_counts_for_all_larger():
    assert all(a > b for a, b in itertools.pairwise(STUDENT))
    assert student(1000) == STUDENT[-1] > 1.960


def test_one_measurement_has_no_interval_and_no_verdict():
    spread = Spread.of([0.5])
    assert (spread.n, spread.median, spread.low, spread.high) == (1, 0.5, None, None)
    assert spread.verdict("less") == ""


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_three_measurements_have_the_interval_of_the_book():
    values = [1.0, 2.0, 4.0]
    spread = Spread.of(values)
    half = 4.303 * statistics.stdev(values) / math.sqrt(3)
    assert spread.median == 2.0
    assert spread.low == pytest.approx(statistics.fmean(values) - half)
    assert spread.high == pytest.approx(statistics.fmean(values) + half)


@pytest.mark.parametrize(
    ("values", "less", "more"),
    [
        ([-0.20, -0.21, -0.19], "better", "worse"),
        ([0.20, 0.21, 0.19], "worse", "better"),
        ([-0.5, 0.5, 0.1], "unclear", "unclear"),
        ([0.1, 0.1, 0.1], "worse", "better"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(values, less, more):
    assert Spread.of(values).verdict("less") == less
    assert Spread.of(values).verdict("more") == more
