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


@given(seed=st.integers(0, 100))
def test_the_gap_is_small_for_many_layers(seed):
    cost, size = problem(seed, 200, 6)
    found = solve(cost, size, float(size.mean(1).sum()))
    assert found is not None
    assert found.gap < 0.01


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
