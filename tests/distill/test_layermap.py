"""The layer map is monotone and the best there is; similarity knows no rotation."""

from itertools import combinations, combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.distill.layermap import (
    aligned_map,
    centred_gram,
    linear_cka,
    proportional_map,
    similarities,
)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_proportional_map_is_monotone_and_ends_at_the_last_layer(students, teachers):
    found = proportional_map(students, teachers)
    assert len(found) == students
    assert found == sorted(found)
    assert found[-1] == teachers - 1
    assert min(found) >= 0
    if teachers >= students:
        assert len(set(found)) == students


def test_equal_depths_map_each_layer_to_itself():
    assert proportional_map(6, 6) == list(range(6))
    assert proportional_map(3, 6) == [1, 3, 5]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_the_aligned_map_is_monotone_and_no_other_is_better(students, teachers, seed):
    similarity = torch.rand(students, teachers, generator=torch.Generator().manual_seed(seed))
    found = aligned_map(similarity)
    every = combinations if teachers >= students else combinations_with_replacement
    totals = {
        m: sum(float(similarity[k, j]) for k, j in enumerate(m))
        for m in every(range(teachers), students)
    }
    assert tuple(found) in totals
    assert totals[tuple(found)] == pytest.approx(max(totals.values()))


def test_similarity_knows_neither_rotation_nor_scale():
    features, rotation = torch.randn(30, 8), torch.linalg.qr(torch.randn(8, 8))[0]
    gram = centred_gram(features)
    assert linear_cka(gram, gram) == pytest.approx(1.0)
    assert linear_cka(gram, centred_gram(5 * features @ rotation + 2)) == pytest.approx(1.0)
    assert linear_cka(gram, centred_gram(torch.randn(30, 8))) < 0.6
    assert linear_cka(gram, torch.zeros(30, 30, dtype=torch.float64)) == 0.0


def test_against_the_definition_with_features():
    x, y = torch.randn(20, 5).double(), torch.randn(20, 7).double()
    x, y = x - x.mean(0), y - y.mean(0)
    wanted = (y.t() @ x).norm() ** 2 / ((x.t() @ x).norm() * (y.t() @ y).norm())
    assert linear_cka(centred_gram(x), centred_gram(y)) == pytest.approx(float(wanted))


def test_a_student_made_of_some_layers_finds_them_again():
    teacher = [torch.randn(40, 6) for _ in range(7)]
    student = [teacher[k] @ torch.linalg.qr(torch.randn(6, 6))[0] for k in (1, 4, 6)]
    assert aligned_map(similarities(student, teacher)) == [1, 4, 6]
