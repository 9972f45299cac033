from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.chat import IGNORED, Encoded
from core.data.packing import (
    Schedule,
    assign,
    batches,
    count_steps,
    largest_step,
    make_row,
    pack,
    pack_rows,
    shared_beginning,
)
from core.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=80)


def encoded_of(lengths: list[int]) -> list[Encoded]:
    return [
        Encoded([100 * i + t for t in range(n)], [100 * i + t if t else 7 for t in range(n)])
        for i, n in enumerate(lengths)
    ]


@given(LENGTHS, st.integers(64, 300))
def test_packing_keeps_every_example_once_and_no_row_overflows(
    lengths: list[int], row_tokens: int
) -> None:
    rows = pack(lengths, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= row_tokens for row in rows)
    assert rows == pack(lengths, row_tokens)


@given(LENGTHS, st.integers(64, 300))
def test_packing_is_within_the_bound_of_first_fit_decreasing(
    lengths: list[int], row_tokens: int
) -> None:
    fewest = -(-sum(lengths) // row_tokens)
    assert len(pack(lengths, row_tokens)) <= 2 * fewest  # two half-full rows would have been one


def test_a_row_restarts_positions_and_learns_no_first_token() -> None:
    row = make_row(encoded_of([3, 2]), [1, 0])
    assert row.ids == [100, 101, 0, 1, 2]
    assert row.position_ids == [0, 1, 0, 1, 2]
    assert row.labels == [IGNORED, 101, IGNORED, 1, 2]
    assert row.lengths == [2, 3]
    assert row.members == [1, 0]
    assert row.answer_tokens == 3


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(32, 400), st.integers(64, 128), st.integers(0, 5), st.integers(0, 3))
def test_every_example_comes_once_an_epoch(
    lengths: list[int], per_step: int, per_row: int, seed: int, epoch: int
) -> None:
    steps = batches(encoded_of(lengths), per_step, per_row, seed, epoch)
    seen = Counter(i for rows in steps for row in rows for i in row.members)
    assert seen == Counter(range(len(lengths)))
    assert all(len(row.ids) <= per_row for rows in steps for row in rows)
    assert all(rows for rows in steps)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(32, 400), st.integers(0, 5))
def test_steps_differ_by_at_most_the_longest_example(
    lengths: list[int], per_step: int, seed: int
) -> None:
    steps = assign(lengths, count_steps(lengths, per_step), seed, 0)
    tokens = [sum(lengths[i] for i in step) for step in steps]
    assert max(tokens) - min(tokens) <= max(lengths)


def test_steps_hold_about_the_tokens_asked_for() -> None:
    lengths = [40 + 7 * i % 30 for i in range(200)]
    schedule = Schedule(encoded_of(lengths), tokens_per_step=512, micro_batch_tokens=512, seed=3)
    tokens = [sum(len(r.ids) for r in schedule.rows(s)) for s in range(schedule.steps_per_epoch)]
    assert 0.85 * 512 < min(tokens) <= max(tokens) <= 512 * 1.05


def test_a_step_can_be_asked_for_out_of_order() -> None:
    data = encoded_of([5 + i % 11 for i in range(90)])
    options = {"tokens_per_step": 64, "micro_batch_tokens": 32, "seed": 4}
    through = Schedule(data, **options)
    n = through.steps_per_epoch
    in_order = [through.rows(s) for s in range(3 * n)]
    resumed = Schedule(data, **options)
    assert [resumed.rows(s) for s in reversed(range(3 * n))] == in_order[::-1]
    assert in_order[n : 2 * n] == batches(data, 64, 32, seed=4, epoch=1)


def test_epochs_and_seeds_mix_examples_anew() -> None:
    data = encoded_of([5 + i % 11 for i in range(90)])
    orders = {
        tuple(i for rows in batches(data, 64, 32, seed, epoch) for r in rows for i in r.members)
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(orders) == 4


def test_the_order_is_the_same_in_every_version() -> None:
    assert assign([1] * 6, 2, seed=0, epoch=0) == [[2, 3, 4], [0, 5, 1]]


def test_without_packing_a_row_holds_one_example() -> None:
    schedule = Schedule(
        encoded_of([5] * 9), tokens_per_step=15, micro_batch_tokens=15, seed=0, packing=False
    )
    assert all(len(row.members) == 1 for row in schedule.rows(0))


def test_an_example_longer_than_a_row_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="40 tokens"):
        Schedule(encoded_of([5, 40]), tokens_per_step=64, micro_batch_tokens=32, seed=0)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to learn"):
        Schedule([], tokens_per_step=64, micro_batch_tokens=32, seed=0)


def beginning_alike(head: int, own: list[int]) -> list[Encoded]:
    """Examples that begin with the same tokens; all after the first own one is learned."""
    found = []
    for i, n in enumerate(own):
        ids = [*range(head), *(1000 * (i + 1) + t for t in range(n))]
        found.append(Encoded(ids, [IGNORED] * (head + 1) + ids[head + 1 :]))
    return found


@given(st.integers(0, 20), st.lists(st.integers(2, 30), min_size=2, max_size=30))
def test_a_row_holds_the_shared_beginning_once_and_loses_no_answer(
    head: int, own: list[int]
) -> None:
    data = beginning_alike(head, own)
    shared = shared_beginning(data)
    assert shared == head
    rows = pack_rows(data, 64, shared)
    assert sorted(i for r in rows for i in r.members) == list(range(len(own)))
    assert sum(r.example_tokens for r in rows) == sum(len(e.ids) for e in data)
    learned = [y for e in data for y in e.labels if y != IGNORED]
    assert sorted(y for r in rows for y in r.labels if y != IGNORED) == sorted(learned)
    for row in rows:
        assert row.ids[:shared] == data[0].ids[:shared]
        assert len(row.ids) == len(row.labels) == len(row.position_ids) == shared + sum(row.lengths)
        assert row.position_ids.count(shared) == len(row.members)


def test_no_learned_token_is_part_of_a_shared_beginning() -> None:
    same = [Encoded([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4])] * 2
    assert shared_beginning(same) == 1  # token 2 stays: the first own token is never learned
    assert shared_beginning([]) == 0


@given(st.integers(0, 9), st.lists(st.integers(2, 30), min_size=1, max_size=40))
def test_the_largest_step_bounds_every_step_of_its_epochs(head: int, own: list[int]) -> None:
    data = beginning_alike(head, own)
    most = largest_step(data, 128, 3, 2, head)
    schedule = Schedule(
        data, tokens_per_step=128, micro_batch_tokens=head + most, seed=3, shared=head
    )
    for step in range(2 * schedule.steps_per_epoch):
        rows = schedule.rows(step)
        assert len(rows) == 1
        assert len(rows[0].ids) <= head + most
