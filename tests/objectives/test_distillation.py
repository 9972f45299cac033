"""The terms of distillation: identities, ends, bounds, and parity with reference code."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.objectives.distillation import (
    divergence,
    feature_distance,
    largest_with_tail,
    relation_distance,
    relation_heads,
    with_tail,
)


def logs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_against_trl(beta, temperature):
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher = 3 * torch.randn(7, 33), 3 * torch.randn(7, 33)
    wanted = gkd.GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    found = divergence(
        (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1), beta
    )
    assert torch.allclose(found.sum(), wanted, rtol=1e-5)


def test_the_ends_are_the_two_directions():
    p, q = logs(5, 20, seed=1), logs(5, 20, seed=2)
    assert torch.allclose(divergence(p, q, 0.0), (q.exp() * (q - p)).sum(-1), atol=1e-6)
    assert torch.allclose(divergence(p, q, 1.0), (p.exp() * (p - q)).sum(-1), atol=1e-6)
    # Discontinuous: what lies between goes to zero there.
    assert divergence(p, q, 1e-6).max() < 1e-3 < divergence(p, q, 0.0).min()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), k=st.integers(1, 28), beta=st.sampled_from([0.0, 0.3, 0.5, 1.0])
)
def test_what_is_kept_with_a_tail_diverges_no_more_than_all_of_it(seed, k, beta):
    teacher, student = logs(6, 30, seed=seed), logs(6, 30, seed=seed + 1)
    ids, kept = largest_with_tail(teacher, k)
    assert torch.allclose(kept.exp().sum(-1), torch.ones(6), atol=1e-5)
    reduced = divergence(with_tail(student, ids), kept, beta)
    whole = divergence(student, teacher, beta)
    assert (reduced <= whole + 1e-5).all()
    assert (reduced >= -1e-5).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_equal_outputs_give_nothing_and_pull_nowhere(beta):
    scores = (3 * torch.randn(4, 25)).requires_grad_()
    student = scores.log_softmax(-1)
    value = divergence(student, student.detach(), beta).sum()
    value.backward()
    assert value.abs() < 1e-5
    assert scores.grad.abs().max() < 1e-6


def test_equal_features_give_nothing_and_pull_nowhere():
    features = torch.randn(9, 16, requires_grad=True)
    identity = torch.eye(16, requires_grad=True)
    value = feature_distance(features, features.detach(), identity)
    value.backward()
    assert value.abs() < 1e-6
    assert features.grad.abs().max() < 1e-6
    assert identity.grad.abs().max() < 1e-6


def test_features_of_another_width_are_compared_through_the_projection():
    student, teacher = torch.randn(9, 8), torch.randn(9, 16)
    projection = torch.linalg.qr(torch.randn(16, 8))[0]
    assert feature_distance(student, student @ projection.t(), projection) < 1e-6
    assert feature_distance(student, teacher, projection) > 0.5


def causal(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def test_equal_relations_give_nothing_and_pull_nowhere():
    qkv = [torch.randn(7, width, requires_grad=True) for width in (24, 12, 12)]
    value = relation_distance(qkv, [x.detach() for x in qkv], causal(7))
    value.backward()
    assert value.abs() < 1e-6
    assert max(float(x.grad.abs().max()) for x in qkv) < 1e-6


def test_relations_do_not_depend_on_how_many_heads_a_model_has():
    student = [torch.randn(7, width) for width in (24, 12, 12)]
    teacher = [torch.randn(7, width) for width in (48, 48, 48)]
    value = relation_distance(student, teacher, causal(7))
    assert torch.isfinite(value)
    assert value > 0
    assert relation_heads(12, 24, 12, 48) == 12
    assert relation_heads(12, 576, 192) == 12
    assert relation_heads(12, 64, 32) == 8


def test_what_a_query_may_not_look_at_changes_nothing():
    student, teacher = ([torch.randn(6, 12) for _ in range(3)] for _ in range(2))
    before = relation_distance(student, teacher, causal(6))[None]
    sees = causal(6)
    sees[4:, :4] = False  # two examples, of 4 and of 2 tokens
    apart = relation_distance(student, teacher, sees)
    first = relation_distance([x[:4] for x in student], [x[:4] for x in teacher], causal(4))
    second = relation_distance([x[4:] for x in student], [x[4:] for x in teacher], causal(2))
    assert torch.allclose(apart, (4 * first + 2 * second) / 6, atol=1e-6)
    assert not torch.allclose(apart, before)
