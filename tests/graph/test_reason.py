"""The joint model: laws that hold for any weights, and planted truths that it must recover."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from core.graph import features, model, network, reason
from core.graph.decode import decode, is_acyclic, shown
from core.graph.features import Evidence
from core.graph.model import PASSING, JointModel, Shape
from core.graph.reason import TEST, TRAIN, VALIDATION, Settings, World
from core.graph.types import RELATIONS, Relation

WIDTH, CONCEPTS, LEVELS = 8, 36, 4
SMALL = Shape(WIDTH, hidden=16, dropout=0.05)
QUICK = Settings(epochs=80, rate=2e-2, patience=99, tag=False)


def evidence(concepts=6, passages=10, seed=0):
    draw = np.random.default_rng(seed)
    mentioned = draw.poisson(0.6, (passages, concepts)).astype(np.float32)
    vectors = draw.normal(size=(concepts, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    about = ((mentioned > 0) & (mentioned.cumsum(1) == mentioned)).astype(np.float32)
    said = np.zeros((3, concepts, concepts), np.float32)
    names = tuple(f"word{i} part" if i % 2 else f"word{i - 1}" for i in range(1, concepts + 1))
    return Evidence(names, mentioned, about, about * 0, vectors, said)


def planted(shuffled=False, seed=0):
    """A world whose prerequisites go up a hidden level that the states show, one step at a time."""
    draw = np.random.default_rng(seed)
    level = np.arange(CONCEPTS) % LEVELS
    states = np.zeros((CONCEPTS, WIDTH), np.float32)
    states[np.arange(CONCEPTS), level] = 1
    states += draw.normal(0, 0.1, states.shape).astype(np.float32)
    every = [(a, b) for a in range(CONCEPTS) for b in range(CONCEPTS) if a != b]
    pairs = np.array([every[i] for i in draw.permutation(len(every))[:700]], np.int64)
    truth = (level[pairs[:, 1]] == level[pairs[:, 0]] + 1).astype(np.int64)
    truth = draw.permutation(truth) if shuffled else truth
    sides = network.split_concepts(CONCEPTS, seed)
    empty = (np.zeros((2, 0), np.int64), np.zeros(0, np.int64))
    return World(
        states=torch.from_numpy(states),
        features=np.zeros((CONCEPTS, CONCEPTS, len(features.NAMES)), np.float32),
        text=empty,
        pairs=pairs,
        relation=np.zeros(len(pairs), np.int64),
        truth=truth,
        side=network.side_of_pairs(pairs, sides),
        weight=np.ones(len(pairs), np.float32),
        drawn=False,
    )


@pytest.mark.parametrize("passing", ["gcn-gat", "none"])
def test_a_planted_order_is_recovered_on_concepts_never_trained_on(passing):
    world = planted()
    fitted = reason.fit([world], replace(SMALL, passing=passing), QUICK)
    scores, truth = reason.answers(fitted.model, [world], TEST)
    marks = reason.marks(truth, scores, fitted.calibration)
    assert marks["auc"] > 0.95
    assert marks["f1"] > 0.8


def test_shuffled_labels_teach_nothing():
    aucs = []
    for seed in range(4):
        world = planted(shuffled=True, seed=seed)
        fitted = reason.fit([world], SMALL, replace(QUICK, epochs=15, seed=seed))
        scores, truth = reason.answers(fitted.model, [world], TEST)
        aucs.append(reason.marks(truth, scores, fitted.calibration)["auc"])
    assert abs(np.mean(aucs) - 0.5) < 0.08


def test_the_map_of_planted_scores_is_the_planted_chain():
    names = [f"c{i}" for i in range(5)]
    found = [
        Relation(a, b, "prerequisite", 0.9 if names.index(b) == i + 1 else 0.6)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    noise = [Relation("c4", "c0", "prerequisite", 0.55), Relation("c3", "c1", "prerequisite", 0.5)]
    kept = decode([*found, *noise], (), {"prerequisite": 0.5})
    assert is_acyclic(kept)
    assert {(r.source, r.target) for r in shown(kept)} == set(pairwise(names))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.floats(0, 1)), max_size=40))
def test_no_scores_give_a_map_with_a_cycle(edges):
    found = [Relation(f"c{a}", f"c{b}", RELATIONS[(a + b) % 3], p) for a, b, p in edges]
    fixed = [Relation("c0", "c1", "prerequisite", 1.0, "confirmed")]
    kept = decode(found, fixed, {})
    assert is_acyclic(kept)
    assert fixed[0] in kept
    assert is_acyclic(shown(kept))


@pytest.mark.parametrize("passing", PASSING)
def test_the_order_of_concepts_and_passages_does_not_matter(passing):
    e = evidence()
    C, P = len(e.names), len(e.mentioned)
    torch.manual_seed(0)
    joint = JointModel(replace(SMALL, passing=passing)).eval()
    states = torch.randn(C + P, WIDTH)
    move, turn = np.random.default_rng(1).permutation(C), np.random.default_rng(2).permutation(P)
    moved = Evidence(
        tuple(e.names[i] for i in move),
        e.mentioned[turn][:, move],
        e.about[turn][:, move],
        e.defined[turn][:, move],
        e.vectors[move],
        e.said[:, move][:, :, move],
    )

    def scored(one, x):
        edges, kinds = (torch.from_numpy(t) for t in network.text_edges(one))
        h = joint.nodes(joint.project(x), edges, kinds)
        pairs = torch.cartesian_prod(torch.arange(C), torch.arange(C))
        f = torch.zeros(len(pairs), len(features.NAMES))
        return joint.scores(h, pairs, f).view(C, C, -1)

    order = np.concatenate([move, C + turn])
    one, two = scored(e, states), scored(moved, states[torch.from_numpy(order)])
    assert torch.allclose(two, one[move][:, move], atol=1e-5)


def test_pair_features_move_with_the_concepts_and_stay_bounded():
    e = evidence()
    f = features.pair_features(e)
    kept = [4, 1, 3]
    assert np.abs(f).max() <= 1
    some = features.pair_features(e.only(kept))
    at = [features.NAMES.index(n) for n in ("jaccard", "cosine", "inside", "given_source")]
    assert np.allclose(some[..., at], f[kept][:, kept][..., at], atol=1e-6)
    assert f.shape[-1] == len(features.NAMES)


def test_reference_distance_is_antisymmetric_and_points_at_what_is_referred_to():
    # Passages 0 and 1 are about b and mention a; a's own passage mentions nothing else.
    mentioned = np.array([[1, 1], [1, 1], [1, 0]], np.float32)
    refers = np.array([[0, 0], [1, 0]], np.float32)
    found = features.refd(refers, mentioned)
    assert np.allclose(found, -found.T)
    assert found[0, 1] > 0


def test_relations_are_not_symmetric():
    torch.manual_seed(0)
    joint = JointModel(SMALL).eval()
    h = torch.randn(4, SMALL.hidden)
    f = torch.zeros(1, len(features.NAMES))
    there, back = (joint.scores(h, torch.tensor([p]), f) for p in ((0, 1), (1, 0)))
    assert not torch.allclose(there, back, atol=1e-3)


def test_what_is_asked_and_its_reverse_never_pass_messages():
    text = network.text_edges(evidence())
    approved = np.array([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="asked edges"):
        network.message_edges(text, approved, [(1, 0)])
    free = network.without(approved, [(1, 0)])
    assert free.tolist() == [[2, 3]]
    edges, kinds = network.message_edges(text, free, [(1, 0)])
    typed = {tuple(p) for p in edges[:, kinds >= 3].T.tolist()}
    assert typed == {(2, 3), (3, 2)}


def test_a_test_edge_among_the_approved_ones_changes_no_score():
    world = planted()
    torch.manual_seed(0)
    joint = JointModel(SMALL)
    asked = world.pairs[world.side == TEST][:5]
    free = reason.ask(joint, world, asked, np.zeros((0, 2), np.int64))
    told = reason.ask(joint, world, asked, np.concatenate([asked, asked[:, ::-1]]))
    assert np.array_equal(free, told)


def test_a_pair_is_tested_if_either_of_its_concepts_was_kept_out():
    world, sides = planted(), network.split_concepts(CONCEPTS, 0)
    trained = set(world.pairs[world.side == TRAIN].ravel().tolist())
    assert all(sides[c] == 0 for c in trained)
    for a, b in world.pairs[world.side == VALIDATION].tolist():
        assert {sides[a], sides[b]} & {1} and 2 not in {sides[a], sides[b]}


def test_drawn_negatives_hold_no_positive_and_nothing_that_follows_from_one():
    world = planted()
    positive = world.truth == 1
    kept = {
        k: getattr(world, k)[positive] for k in ("pairs", "relation", "truth", "side", "weight")
    }
    refused = frozenset({(0, 9)})
    closed = replace(world, **kept, drawn=True, refused=refused)
    held = {tuple(p) for p in closed.pairs.tolist()}
    for side in (VALIDATION, TEST):
        pairs, _, truth = reason.asked_of(closed, side)
        negatives = {tuple(p) for p in pairs[truth == 0].tolist()}
        assert negatives and not negatives & (held | refused)


def test_marks_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    truth, scores = draw.integers(0, 2, 200).astype(float), draw.normal(size=200)
    calibration = reason.calibrate(scores + truth, truth)
    marks = reason.marks(truth, scores + truth, calibration)
    verdict = calibration(scores + truth) >= calibration.threshold
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, verdict, average="binary"
    )
    assert np.allclose(
        [marks[k] for k in ("auc", "pr_auc", "precision", "recall", "f1")],
        [
            metrics.roc_auc_score(truth, scores + truth),
            metrics.average_precision_score(truth, scores + truth),
            precision,
            recall,
            f1,
        ],
    )
    best = max(
        metrics.f1_score(truth, calibration(scores + truth) >= t) for t in np.linspace(0, 1, 500)
    )
    assert f1 >= best - 1e-9


def test_temperature_and_bias_mend_scores_that_say_too_much():
    draw = np.random.default_rng(0)
    honest = draw.normal(size=4000)
    truth = (draw.random(4000) < 1 / (1 + np.exp(-honest))).astype(float)
    calibration = reason.calibrate(honest * 5 + 3, truth)
    assert calibration.temperature == pytest.approx(5, rel=0.15)
    assert calibration.bias == pytest.approx(3, abs=0.4)
    marks = reason.marks(truth, honest * 5 + 3, calibration)
    assert marks["ece"] < 0.03 < marks["ece_before"]


def test_message_passing_is_that_of_torch_geometric_written_out():
    """H1 = relu(D^-1/2 (A + I) D^-1/2 Z W + b), with in-degrees as GCN counts them."""
    torch.manual_seed(0)
    joint = JointModel(replace(SMALL, passing="gcn")).eval()
    z, n = torch.randn(5, SMALL.hidden), 5
    edges = torch.tensor([[0, 1, 1, 2, 3, 0], [1, 0, 2, 1, 4, 4]])
    A = torch.eye(n)
    A[edges[1], edges[0]] += 1
    d = A.sum(1).rsqrt()
    layer = joint.first
    wanted = torch.relu(d[:, None] * A * d[None] @ layer.lin(z) + layer.bias)
    assert torch.allclose(
        joint.nodes(z, edges, torch.zeros(6, dtype=torch.long)), wanted, atol=1e-6
    )


def test_attention_is_gatv2_written_out():
    torch.manual_seed(0)
    joint = JointModel(replace(SMALL, passing="gat")).eval()
    g, D, H = joint.second, SMALL.hidden, SMALL.heads
    z = torch.randn(4, D)
    edges, kinds = torch.tensor([[0, 1, 2], [1, 2, 1]]), torch.tensor([0, 3, 1])
    h = torch.relu(joint.first(z))
    typed = torch.nn.functional.one_hot(kinds, SMALL.edge_types).float()
    into = {v: typed[edges[1] == v] for v in range(4)}
    loops = torch.stack(
        [t.mean(0) if len(t) else t.new_zeros(SMALL.edge_types) for t in into.values()]
    )
    source = torch.cat([edges[0], torch.arange(4)])
    target = torch.cat([edges[1], torch.arange(4)])
    kind = torch.cat([typed, loops])
    left, right = (lin(h).view(-1, H, D // H) for lin in (g.lin_l, g.lin_r))
    both = left[source] + right[target] + g.lin_edge(kind).view(-1, H, D // H)
    e = (torch.nn.functional.leaky_relu(both, 0.2) * g.att).sum(-1).exp()
    total = torch.zeros(4, H).index_add(0, target, e)
    out = torch.zeros(4, H, D // H).index_add(
        0, target, left[source] * (e / total[target])[..., None]
    )
    wanted = h + out.reshape(4, D) + g.bias
    assert torch.allclose(joint.nodes(z, edges, kinds), wanted, atol=1e-5)


def test_spans_come_back_from_their_tags():
    offsets = np.array([[0, 2], [3, 6], [6, 9], [10, 12], [13, 15]])
    spans = [(0, 2, 0), (3, 9, 1), (10, 12, 0), (13, 15, 0)]
    tags = model.bio(offsets, spans)
    assert tags.tolist() == [1, 3, 4, 1, 1]
    logits = torch.nn.functional.one_hot(tags, 7).float() * 20
    assert [s[:3] for s in model.spans_of(offsets, logits)] == spans
    inside_first = torch.nn.functional.one_hot(torch.tensor([2, 2, 0, 0, 0]), 7).float() * 20
    assert [s[:3] for s in model.spans_of(offsets, inside_first)] == [(0, 6, 0)]


def test_the_tagger_learns_what_its_words_show():
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    tagged = []
    for _ in range(40):
        tags = torch.from_numpy(draw.integers(0, 2, 12))
        states = torch.randn(12, WIDTH) * 0.1
        states[tags == 1, 0] += 3
        tagged.append((states.half(), tags))
    world = replace(planted(), tagged=tagged)
    fitted = reason.fit([world], SMALL, Settings(epochs=40, link=False))
    right = total = 0
    for states, tags in tagged:
        logits = fitted.model.tags(fitted.model.project(states.float()[None]))[0]
        right += int((logits.argmax(-1) == tags).sum())
        total += len(tags)
    assert right / total > 0.98


def test_the_tagger_alone_leaves_the_scorer_as_it_was():
    world = replace(planted(), tagged=[(torch.randn(4, WIDTH).half(), torch.tensor([0, 1, 2, 0]))])
    torch.manual_seed(3)
    start = JointModel(SMALL).state_dict()
    fitted = reason.fit([world], SMALL, Settings(epochs=3, link=False), start)
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(value, start[name]) != name.startswith("tagger")


def test_the_better_of_both_is_used_and_both_are_told():
    world = planted()
    used, found = reason.fit_both([world], SMALL, replace(QUICK, epochs=15))
    assert set(found) == {"gcn-gat", "none"}
    assert found[used].marks["auc"] == max(f.marks["auc"] for f in found.values())
