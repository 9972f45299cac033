"""Training of the joint model, and what its scores are worth.

    L = CE_BIO + 0.5 CE_kind + BCE_link + 0.1 mean(p_ij p_ji) + 0.01 (tr(e^(P o P)) - n)

For every positive three random pairs and its own reverse are negatives, where the data names no
negatives itself. The last term (NOTEARS, Zheng et al. 2018) is taken over n = 64 concepts drawn
anew (our interpretation: over all of them it costs n^2 scores a step). In every epoch a part of the
known relations passes messages and the rest is asked, so that what is asked is never seen.

A baseline without message passing is always trained beside; the one with the higher validation AUC
is used. Confidences are calibrated on the validation pairs: p = sigmoid((s - b) / tau), tau > 0.

Shapes: C concepts, N nodes, n pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.evaluate import binary
from core.graph import network
from core.graph.features import Matrix
from core.graph.model import JointModel, Shape, padded
from core.graph.network import Edges, Pairs

TRAIN, VALIDATION, TEST = 0, 1, 2
RANDOM, REVERSED = 3, 1  # negatives for every positive
ACYCLIC = 64  # concepts that the penalty on cycles looks at in a step
SENTENCES = 24  # of a step, for the tagger
PASSED = 0.5  # part of the known relations that passes messages in an epoch
UNSEEN = 0.3  # part of the epochs without any known relation, as in a new class
UNKNOWN = 0.15  # part of the concepts whose name says nothing in an epoch, as in another language

Floats = NDArray[np.float64]
Tagged = tuple[Tensor, Tensor]  # (T, d) states and (T,) tags


@dataclass
class World:
    """One graph with what is known about it.

    Attributes:
        states: (N, d) of concepts, then passages; zeros where nothing is known.
        features: (C, C, F).
        text: edges that the texts give.
        pairs: (n, 2) labelled pairs.
        relation: (n,) of which relation.
        truth: (n,) 0 or 1.
        side: (n,) 0 training, 1 validation, 2 test.
        weight: (n,) of a pair in the loss.
        drawn: whether further negatives are drawn from the pairs that are not listed.
        refused: pairs that must not be drawn (what follows from the positives).
        kinds: (C,) of concepts, -1 where not known.
        tagged: sentences for the tagger.
    """

    states: Tensor
    features: Matrix
    text: Edges
    pairs: Pairs
    relation: NDArray[np.int64]
    truth: NDArray[np.int64]
    side: NDArray[np.int64]
    weight: NDArray[np.float32]
    drawn: bool = True
    refused: frozenset[tuple[int, int]] = frozenset()
    kinds: NDArray[np.int64] | None = None
    tagged: Sequence[Tagged] = field(default_factory=tuple)

    @property
    def concepts(self) -> int:
        """C."""
        return int(self.features.shape[0])

    def known(self, *sides: int) -> Pairs:
        """Prerequisites (relation 0) that hold, of these sides."""
        chosen = (self.truth == 1) & (self.relation == 0) & np.isin(self.side, sides)
        return np.asarray(self.pairs[chosen], np.int64)

    def of(self, side: int) -> NDArray[np.int64]:
        """Indices of the labelled pairs of a side."""
        return np.flatnonzero(self.side == side)


@dataclass(frozen=True)
class Settings:
    """How training goes.

    Attributes:
        epochs: at most.
        rate: of AdamW.
        decay: of the weights.
        patience: looks at the validation pairs without a better AUC until training ends.
        every: epochs between two looks.
        seed: of weights, dropout and what is drawn.
        tag: whether the tagger trains.
        link: whether the scorer trains; if not, only the tagger's head does.
    """

    epochs: int = 200
    rate: float = 3e-3
    decay: float = 1e-2
    patience: int = 8
    every: int = 5
    seed: int = 0
    tag: bool = True
    link: bool = True


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid((s - bias) / temperature); ``threshold`` has the best F1 on validation."""

    temperature: float = 1.0
    bias: float = 0.0
    threshold: float = 0.5

    def __call__(self, scores: Floats) -> Floats:
        """Probabilities of scores."""
        x = np.clip((np.asarray(scores, np.float64) - self.bias) / self.temperature, -60, 60)
        return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Fitted:
    """A trained model with its calibration and its marks on the validation pairs."""

    model: JointModel
    calibration: Calibration
    marks: dict[str, Any]


# --- training ------------------------------------------------------------------------------------


def fit(
    worlds: Sequence[World],
    shape: Shape,
    settings: Settings,
    start: Mapping[str, Tensor] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> Fitted:
    """Train one model on worlds, stopped early by the mean validation AUC.

    Args:
        worlds: graphs with labelled pairs.
        shape: of the model.
        settings: of the training.
        start: weights to go on from; None: random ones.
        on_share: hears how far it is, 0..1.
    """
    torch.manual_seed(settings.seed)
    draw = np.random.default_rng(settings.seed)
    model = JointModel(shape)
    if start is not None:
        model.load_state_dict(dict(start))
    else:
        rows = [w.states[w.states.any(1)] for w in worlds if len(w.states)]
        rows = [r for r in rows if len(r)]
        if rows:
            model.standardise(torch.cat(rows))
    moved = model.parameters() if settings.link else model.tagger.parameters()
    optimizer = torch.optim.AdamW(moved, lr=settings.rate, weight_decay=settings.decay)
    best, best_auc, waited = copy.deepcopy(model.state_dict()), -1.0, 0
    for epoch in range(settings.epochs):
        model.train()
        for world in worlds:
            optimizer.zero_grad()
            loss = world_loss(model, world, settings, draw)
            if loss.requires_grad:
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        on_share((epoch + 1) / settings.epochs)
        if not settings.link or (epoch + 1) % settings.every:
            continue
        auc = _validation_auc(model, worlds)
        if auc > best_auc + 1e-4:
            best, best_auc, waited = copy.deepcopy(model.state_dict()), auc, 0
        else:
            waited += 1
            if waited >= settings.patience:
                break
    if settings.link and best_auc >= 0:
        model.load_state_dict(best)
    model.eval()
    return Fitted(model, *calibrated(model, worlds))


def fit_both(
    worlds: Sequence[World],
    shape: Shape,
    settings: Settings,
    starts: Mapping[str, Mapping[str, Tensor]] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> tuple[str, dict[str, Fitted]]:
    """Train with message passing and without; return the better's name and both.

    The better is that with the higher validation AUC; without validation pairs the baseline.
    """
    found = {}
    for at, passing in enumerate((shape.passing, "none")):
        found[passing] = fit(
            worlds,
            replace(shape, passing=passing),
            settings,
            (starts or {}).get(passing),
            lambda share, at=at: on_share((at + share) / 2),  # type: ignore[misc]
        )
    return better(found), found


def better(found: Mapping[str, Fitted]) -> str:
    """The name of the model with the higher validation AUC; the baseline where they are equal."""
    return max(found, key=lambda name: (found[name].marks.get("auc") or 0.0, name == "none"))


def world_loss(
    model: JointModel, world: World, settings: Settings, draw: np.random.Generator
) -> Tensor:
    """The loss of a step on one world."""
    total = torch.zeros(())
    if settings.tag and world.tagged:
        total = total + _tag_loss(model, world, draw)
    if not settings.link or not len(world.pairs):
        return total
    known = world.known(TRAIN)
    passed = known[draw.random(len(known)) < (PASSED if draw.random() > UNSEEN else 0.0)]
    pairs, relation, truth, weight = _asked(world, passed, draw)
    if not len(pairs):
        return total
    z = model.project(world.states, _seen(world, draw))
    edges = network.message_edges(
        world.text, network.without(passed, map(tuple, pairs)), map(tuple, pairs)
    )
    h = model.nodes(z, torch.from_numpy(edges[0]), torch.from_numpy(edges[1]))
    s = model.scores(h, torch.from_numpy(pairs), torch.from_numpy(_f(world, pairs)))
    chosen = s[torch.arange(len(pairs)), torch.from_numpy(relation)]
    link = functional.binary_cross_entropy_with_logits(
        chosen, torch.from_numpy(truth).float(), torch.from_numpy(weight)
    )
    back = model.scores(
        h, torch.from_numpy(pairs[:, ::-1].copy()), torch.from_numpy(_f(world, pairs[:, ::-1]))
    )
    both = (s.sigmoid() * back.sigmoid()).mean()
    total = total + link + 0.1 * both + 0.01 * _cycles(model, world, h, draw)
    if world.kinds is not None and (world.kinds >= 0).any():
        logits = model.kind(h[: world.concepts])
        total = total + 0.5 * functional.cross_entropy(
            logits, torch.from_numpy(world.kinds), ignore_index=-1
        )
    return total


def _seen(world: World, draw: np.random.Generator) -> Tensor:
    """Which nodes' states are shown (N,): now and then none, as for names in another language."""
    shown = (world.states != 0).any(1).float()
    hidden = draw.random(len(world.states)) < (1.0 if draw.random() < UNKNOWN else UNKNOWN / 2)
    return shown * torch.from_numpy(~hidden).float()


def _asked(
    world: World, passed: Pairs, draw: np.random.Generator
) -> tuple[Pairs, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of a step: labelled ones that pass no message, reverses and random negatives."""
    seen = {tuple(p) for p in passed.tolist()}
    rows = [
        i
        for i in world.of(TRAIN)
        if tuple(p := world.pairs[i].tolist()) not in seen and (p[1], p[0]) not in seen
    ]
    pairs, relation = world.pairs[rows], world.relation[rows]
    truth, weight = world.truth[rows], world.weight[rows]
    if not world.drawn or not len(rows):
        return pairs, relation, truth, weight
    held = {tuple(p) for p in world.pairs[(world.truth == 1)].tolist()}
    good = np.flatnonzero(truth == 1)
    more: list[tuple[int, int, int, float]] = []
    free = np.flatnonzero(_sides_of_concepts(world) == TRAIN)
    for i in good.tolist():
        a, b = pairs[i].tolist()
        if (b, a) not in held:
            more.append((b, a, int(relation[i]), float(weight[i])))
        for x, y in draw.choice(free, (RANDOM, 2)).tolist():
            if x != y and (x, y) not in held and (x, y) not in world.refused:
                more.append((x, y, int(relation[i]), float(weight[i])))
    extra = [m for m in more if (m[0], m[1]) not in seen and (m[1], m[0]) not in seen]
    if not extra:
        return pairs, relation, truth, weight
    return (
        np.concatenate([pairs, np.array([m[:2] for m in extra], np.int64)]),
        np.concatenate([relation, np.array([m[2] for m in extra], np.int64)]),
        np.concatenate([truth, np.zeros(len(extra), np.int64)]),
        np.concatenate([weight, np.array([m[3] for m in extra], np.float32)]),
    )


def _sides_of_concepts(world: World) -> NDArray[np.int64]:
    """The earliest side that a concept has a pair on; concepts without a pair train."""
    sides = np.full(world.concepts, TEST + 1)
    for pair, side in zip(world.pairs.tolist(), world.side.tolist(), strict=True):
        for concept in pair:
            sides[concept] = min(sides[concept], side)
    return np.where(sides > TEST, TRAIN, sides)


def _f(world: World, pairs: Pairs) -> Matrix:
    return np.ascontiguousarray(world.features[pairs[:, 0], pairs[:, 1]])


def _cycles(model: JointModel, world: World, h: Tensor, draw: np.random.Generator) -> Tensor:
    """tr(e^(P o P)) - n of the prerequisites among some concepts; 0 if and only if P is acyclic."""
    n = min(ACYCLIC, world.concepts)
    some = draw.choice(world.concepts, n, replace=False)
    a, b = np.meshgrid(some, some, indexing="ij")
    pairs = np.stack([a.ravel(), b.ravel()], 1).astype(np.int64)
    s = model.scores(h, torch.from_numpy(pairs), torch.from_numpy(_f(world, pairs)))[:, 0]
    P = s.sigmoid().view(n, n) * (1 - torch.eye(n))
    return (torch.matrix_exp(P * P).diagonal().sum() - n) / n


def _tag_loss(model: JointModel, world: World, draw: np.random.Generator) -> Tensor:
    some = draw.choice(len(world.tagged), min(SENTENCES, len(world.tagged)), replace=False)
    states = padded([world.tagged[i][0].float() for i in some])
    tags = padded([world.tagged[i][1] for i in some], -1).long()
    logits = model.tags(model.project(states))
    return functional.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=-1)


# --- asking --------------------------------------------------------------------------------------


@torch.no_grad()
def ask(model: JointModel, world: World, pairs: Pairs, approved: Pairs) -> Matrix:
    """Scores (n, R) of pairs; approved edges among them pass no messages, nor do their reverses.

    Args:
        model: trained.
        world: the graph.
        pairs: what is asked.
        approved: prerequisites that are known.
    """
    model.eval()
    listed = [(int(a), int(b)) for a, b in pairs.tolist()]
    edges = network.message_edges(world.text, network.without(approved, listed), listed)
    known = (world.states != 0).any(1).float()
    z = model.project(world.states, known)
    h = model.nodes(z, torch.from_numpy(edges[0]), torch.from_numpy(edges[1]))
    found = model.all_scores(h, torch.from_numpy(pairs), torch.from_numpy(_f(world, pairs)))
    return cast(Matrix, found.numpy())


def answers(model: JointModel, worlds: Sequence[World], side: int) -> tuple[Floats, Floats]:
    """Scores and truth of the labelled pairs of a side, drawn negatives among them.

    Messages pass over the prerequisites of the sides before it.
    """
    scores, truth = [], []
    for world in worlds:
        pairs, relation, held = asked_of(world, side)
        if not len(pairs):
            continue
        approved = world.known(*range(side))
        s = ask(model, world, pairs, approved)
        scores.append(s[np.arange(len(pairs)), relation])
        truth.append(held)
    if not scores:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(scores).astype(np.float64), np.concatenate(truth).astype(np.float64)


def asked_of(world: World, side: int) -> tuple[Pairs, NDArray[np.int64], NDArray[np.int64]]:
    """Pairs, relation and truth that a side is marked on: always the same for a world and side."""
    rows = world.of(side)
    pairs, relation, truth = world.pairs[rows], world.relation[rows], world.truth[rows]
    if not world.drawn or not len(rows):
        return pairs, relation, truth
    draw = np.random.default_rng(side)
    held = {tuple(p) for p in world.pairs[world.truth == 1].tolist()}
    listed = {tuple(p) for p in pairs.tolist()}
    own = _sides_of_concepts(world)
    more: dict[tuple[int, int], int] = {}
    for (a, b), r in zip(pairs[truth == 1].tolist(), relation[truth == 1].tolist(), strict=True):
        more[b, a] = r
        kept = a if own[a] == side else b  # so that the drawn pair belongs to this side, too
        for _ in range(RANDOM):
            other = int(draw.integers(world.concepts))
            if own[other] <= side:
                more[(kept, other) if draw.random() < 0.5 else (other, kept)] = r
    bad = held | listed | world.refused
    extra = [(p, r) for p, r in more.items() if p not in bad and p[0] != p[1]]
    return (
        np.concatenate([pairs, np.array([p for p, _ in extra], np.int64).reshape(-1, 2)]),
        np.concatenate([relation, np.array([r for _, r in extra], np.int64)]),
        np.concatenate([truth, np.zeros(len(extra), np.int64)]),
    )


def _validation_auc(model: JointModel, worlds: Sequence[World]) -> float:
    scores, truth = answers(model, worlds, VALIDATION)
    auc = binary.roc_auc(truth, scores) if len(truth) else float("nan")
    return auc if np.isfinite(auc) else 0.0


# --- calibration ---------------------------------------------------------------------------------


def calibrated(model: JointModel, worlds: Sequence[World]) -> tuple[Calibration, dict[str, Any]]:
    """Calibration and marks of a model on the validation pairs of worlds."""
    scores, truth = answers(model, worlds, VALIDATION)
    calibration = calibrate(scores, truth)
    if not len(truth):
        return calibration, {"pairs": 0}
    return calibration, marks(truth, scores, calibration)


def marks(truth: Floats, scores: Floats, calibration: Calibration) -> dict[str, Any]:
    """Marks of scores: AUC, average precision, precision, recall, F1 at the threshold, ECE.

    ``ece_before`` is the calibration error of sigmoid(s).
    """
    p = calibration(scores)
    c = binary.confusion(truth, p >= calibration.threshold)
    precision = c["tp"] / max(1, c["tp"] + c["fp"])
    recall = c["tp"] / max(1, c["tp"] + c["fn"])
    found = {
        "pairs": len(truth),
        "positives": int(np.sum(truth)),
        "auc": binary.roc_auc(truth, scores),
        "pr_auc": binary.pr_auc(truth, scores),
        "precision": precision,
        "recall": recall,
        "f1": binary.f1(c),
        "ece": binary.ece(truth, p),
        "ece_before": binary.ece(truth, Calibration()(scores)),
    }
    return {
        k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in found.items()
    }


def calibrate(scores: Floats, truth: Floats) -> Calibration:
    """Temperature, bias and the threshold of the best F1 on validation pairs.

    Platt's method with Newton's steps on log(1 / tau) and b, and Platt's smoothed targets, so that
    pairs that are told apart without a fault do not give a temperature of 0. With only one kind of
    truth nothing is changed.
    """
    t, s = np.asarray(truth, np.float64), np.asarray(scores, np.float64)
    ones, zeros = t.sum(), (1 - t).sum()
    if not ones or not zeros:
        return Calibration()
    target = np.where(t > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    x = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([x], max_iter=100, line_search_fn="strong_wolfe")
    st, tt = torch.from_numpy(s), torch.from_numpy(target)

    def closure() -> Tensor:
        solver.zero_grad()
        logits = (st - x[1]) * x[0].clamp(-4, 4).exp()
        loss = functional.binary_cross_entropy_with_logits(logits, tt)
        loss.backward()
        return loss

    solver.step(closure)
    found = Calibration(float(torch.exp(-x[0].detach().clamp(-4, 4))), float(x[1].detach()))
    return replace(found, threshold=best_f1(t, found(s)))


def best_f1(truth: Floats, p: Floats) -> float:
    """The threshold with the best F1; of equals the highest."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    f1 = 2 * hits[ends] / (ends + 1 + truth.sum())
    at = ends[int(np.argmax(f1))]
    below = p[order][at + 1] if at + 1 < len(p) else 0.0
    return float((p[order][at] + below) / 2)
