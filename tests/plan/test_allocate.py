import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.plan.allocate import exact, solve, solve_two


def problem(seed: int, layers: int, choices: int):
    """Costs that fall and sizes that rise along the choices, as bits do."""
    random = np.random.default_rng(seed)
    size = np.sort(random.integers(1, 60, (layers, choices)), 1).astype(float)
    cost = -np.sort(-random.random((layers, choices)) * random.random((layers, 1)) * 10, 1)
    return cost, size


@settings(deadline=None)
@given(seed=st.integers(0, 500), layers=st.integers(1, 6), share=st.floats(0.0, 1.2))
def test_against_dynamic_programming(seed, layers, share):
    cost, size = problem(seed, layers, 4)
    low, high = size.min(1).sum(), size.max(1).sum()
    budget = float(np.floor(low + share * (high - low)))
    found = solve(cost, size, budget)
    assert found is not None
    assert found.bytes <= budget
    best = exact(cost.tolist(), size.astype(int).tolist(), int(budget))
    assert found.cost >= best - 1e-9
    # The certificate is honest: nothing is further from the optimum than the gap says.
    assert found.cost * (1 - found.gap) <= best + 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100))
def test_the_gap_is_small_for_many_layers(seed):
    cost, size = problem(seed, 200, 6)
    found = solve(cost, size, float(size.mean(1).sum()))
    assert found is not None
    assert found.gap < 0.01


def brute_force(cost, uses, limits):
    """Least cost over all picks; uses (m, n, c), limits (m,)."""
    n, c = cost.shape
    rows = np.arange(n)
    found = [
        cost[rows, picks].sum()
        for picks in itertools.product(range(c), repeat=n)
        if (uses[:, rows, picks].sum(1) <= limits).all()
    ]
    return min(found, default=None)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 6),
    share=st.floats(0, 1),
    second=st.floats(0, 1),
    free=st.booleans(),
)
def test_few_layers_are_solved_exactly(seed, layers, share, second, free):
    random = np.random.default_rng(seed)
    cost, size = problem(seed, layers, 4)
    if free:  # some choices, or all, cost nothing
        cost[random.random(cost.shape) < random.random()] = 0
    adapter = random.integers(0, 9, cost.shape).astype(float)
    limits = [
        np.floor((1 - part) * use.min(1).sum() + part * use.max(1).sum())
        for part, use in ((share, size), (second, adapter))
    ]
    for uses, found in (
        (size[None], solve(cost, size, limits[0])),
        (np.stack([size, adapter]), solve_two(cost, size, adapter, *limits)),
    ):
        best = brute_force(cost, uses, np.array(limits[: len(uses)]))
        assert (found is None) == (best is None)
        if found is not None:
            assert found.cost == pytest.approx(best, rel=1e-9, abs=1e-12)
            assert found.gap <= 1e-9


@pytest.mark.parametrize("choices", [4, 8, 15])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_gap_of_two_limits_is_small_and_no_less_than_the_distance(choices, share):
    random = np.random.default_rng(choices)
    cost, size = problem(choices, 210, choices)
    adapter = random.integers(0, 10, cost.shape).astype(float)
    budget = (1 - share) * size.min(1).sum() + share * size.max(1).sum()
    limit = adapter.min(1).sum() * 0.6 + adapter.max(1).sum() * 0.4
    found = solve_two(cost, size, adapter, budget, limit)
    assert found is not None
    assert found.gap <= 0.003
    rows = np.arange(210)
    assert adapter[rows, found.picks].sum() <= limit
    # Any prices give a bound: none may say more than what was found.
    for one, two in random.random((50, 2)) * 0.2:
        bound = (cost + one * size + two * adapter).min(1).sum() - one * budget - two * limit
        assert bound <= found.cost * (1 - found.gap) * (1 + 1e-3)
        assert bound <= found.cost


def test_what_costs_nothing_is_proven():
    nothing, size = np.zeros((30, 5)), problem(1, 30, 5)[1]
    found = solve_two(nothing, size, size, float(size.mean(1).sum()), np.inf)
    assert found is not None
    assert (found.cost, found.gap) == (0, 0)


def test_limits_are_kept_where_every_choice_costs_the_same():
    size = problem(1, 6, 5)[1]
    limits = float(size.mean(1).sum()), float(size.min(1).sum() * 1.1)
    for cost in (np.zeros((6, 5)), np.ones((6, 5))):
        found = solve_two(cost, size, size, *limits)
        assert found is not None
        assert found.bytes <= limits[1]
        assert found.gap == 0


def test_too_small_a_budget_has_no_solution():
    cost, size = problem(0, 5, 4)
    assert solve(cost, size, float(size.min(1).sum()) - 1) is None


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 50), share=st.floats(0.1, 1.0))
def test_both_limits_hold(seed, share):
    cost, size = problem(seed, 40, 6)
    adapter = np.tile(np.arange(6.0), (40, 1))
    budget, limit = float(size.max(1).sum() * 0.8), 40 * 5 * share
    found = solve_two(cost, size, adapter, budget, limit)
    assert found is not None
    rows = np.arange(40)
    assert size[rows, found.picks].sum() <= budget
    assert adapter[rows, found.picks].sum() <= limit


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0])
def test_a_larger_budget_never_costs_more(factor):
    cost, size = problem(3, 100, 5)
    budget = float(size.min(1).sum() * 1.2)
    small, large = solve(cost, size, budget), solve(cost, size, budget * factor)
    assert small is not None
    assert large is not None
    assert large.cost <= small.cost * 1.001
