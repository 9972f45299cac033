"""Link prediction on Nations, UMLS and Kinships with the map's scorer. After S7's decoder.

Entities have no text here: their states are learned (one vector each), the graph of the training
triples passes messages, and s_r(i -> j) is the decoder's bilinear term with its MLP.

The protocol is the usual one: for every test triple the head and the tail are each replaced by
every entity, known triples (of all three files) are filtered, ties count as the mean rank. Training
triples pass messages, also those between the same two entities by another relation, as published
models see them, too. AUC compares every test triple with one whose head or tail was replaced by
chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from core.errors import DataError
from core.evaluate.binary import roc_auc
from core.graph.model import JointModel, Shape

SETS = ("nations", "umls", "kinships")
METHODS = ("gcn-gat", "gcn", "gat", "none")
WIDTH, BATCH, NEGATIVES = 64, 512, 4

Triples = NDArray[np.int64]  # (n, 3) head, relation, tail


def read(name: str, shared: Path) -> tuple[dict[str, Triples], int, int]:
    """Triples of the three files, the number of entities and that of relations.

    Raises:
        DataError: if the files are absent.
    """
    folder = shared / "kg_triples" / name
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    found: dict[str, Triples] = {}
    try:
        for side in ("train", "valid", "test"):
            rows = [x.split("\t") for x in (folder / f"{side}.txt").read_text("utf-8").split("\n")]
            found[side] = np.array(
                [
                    (
                        entities.setdefault(a, len(entities)),
                        relations.setdefault(r, len(relations)),
                        entities.setdefault(b, len(entities)),
                    )
                    for a, r, b in (row for row in rows if len(row) == 3)
                ],
                np.int64,
            )
    except OSError as error:
        raise DataError(f"The files of {name} are absent.", where=name) from error
    return found, len(entities), len(relations)


def measure(name: str, method: str, seed: int, shared: Path, epochs: int) -> dict[str, Any]:
    """Train on the training triples, choose the epoch on validation MRR, mark the test."""
    sides, entities, relations = read(name, shared)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    shape = Shape(
        WIDTH, method, relations=relations, features=0, edge_types=2 * relations, dropout=0.2
    )
    model, states = JointModel(shape), torch.nn.Parameter(torch.randn(entities, WIDTH))
    optimizer = torch.optim.AdamW([*model.parameters(), states], lr=3e-3, weight_decay=1e-4)
    known = {tuple(t) for rows in sides.values() for t in rows.tolist()}
    best, kept, waited = -1.0, _copy(model, states), 0
    for epoch in range(epochs):
        _epoch(model, states, optimizer, sides["train"], entities, draw)
        if epoch % 5 == 4:
            mrr = _marks(model, states, sides["train"], sides["valid"][:200], known, entities)[
                "mrr"
            ]
            if mrr > best:
                best, kept, waited = mrr, _copy(model, states), 0
            elif (waited := waited + 1) >= 4:
                break
    model.load_state_dict(kept[0])
    states.data.copy_(kept[1])
    marks = _marks(model, states, sides["train"], sides["test"], known, entities)
    marks["auc"] = _auc(model, states, sides, known, entities, np.random.default_rng(seed))
    return {**marks, "entities": entities, "triples": len(sides["train"]), "validation_mrr": best}


def _copy(model: JointModel, states: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    own = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return own, states.detach().clone()


def _nodes(model: JointModel, states: Tensor, passed: Triples) -> Tensor:
    """Node states with messages over triples and their reverses, each relation a type."""
    there = torch.from_numpy(passed)
    edges = torch.cat([there[:, [0, 2]].t(), there[:, [2, 0]].t()], 1)
    kinds = torch.cat([there[:, 1], there[:, 1] + model.shape.relations])
    return model.nodes(model.project(states), edges, kinds)


def _epoch(
    model: JointModel,
    states: Tensor,
    optimizer: torch.optim.Optimizer,
    train: Triples,
    entities: int,
    draw: np.random.Generator,
) -> None:
    """One pass: half of the triples pass messages, batches of the other half are asked."""
    model.train()
    order = draw.permutation(len(train))
    half = len(order) // 2
    for asked, passed in ((order[:half], order[half:]), (order[half:], order[:half])):
        # No asked pair of entities, in either direction, passes a message.
        secret = {frozenset((a, b)) for a, _, b in train[asked].tolist()}
        free = [i for i in passed.tolist() if frozenset(train[i, [0, 2]].tolist()) not in secret]
        for begin in range(0, len(asked), BATCH):
            optimizer.zero_grad()
            h = _nodes(model, states, train[free])
            good = train[asked[begin : begin + BATCH]]
            triples = np.concatenate(
                [good, *(_broken(good, entities, draw) for _ in range(NEGATIVES))]
            )
            truth = torch.zeros(len(triples))
            truth[: len(good)] = 1
            loss = functional.binary_cross_entropy_with_logits(_score(model, h, triples), truth)
            loss.backward()
            optimizer.step()


def _broken(triples: Triples, entities: int, draw: np.random.Generator) -> Triples:
    """Triples with head or tail replaced by chance."""
    found = triples.copy()
    side = draw.integers(0, 2, len(found)) * 2
    found[np.arange(len(found)), side] = draw.integers(0, entities, len(found))
    return found


def _score(model: JointModel, h: Tensor, triples: Triples) -> Tensor:
    t = torch.from_numpy(triples)
    s = model.scores(h, t[:, [0, 2]], torch.zeros(len(t), 0))
    return s[torch.arange(len(t)), t[:, 1]]


@torch.no_grad()
def _marks(
    model: JointModel,
    states: Tensor,
    train: Triples,
    asked: Triples,
    known: set[tuple[int, ...]],
    entities: int,
) -> dict[str, Any]:
    """Filtered MRR and Hits@k of triples; they are no training triples, so none passes messages."""
    model.eval()
    h = _nodes(model, states, train)
    ranks = []
    for head, relation, tail in asked.tolist():
        for place, right in ((0, head), (2, tail)):
            rows = np.tile(np.array([head, relation, tail]), (entities, 1))
            rows[:, place] = np.arange(entities)
            s = _score(model, h, rows).numpy()
            others = np.array([tuple(r) not in known for r in rows.tolist()])
            better = (s[others] > s[right]).sum()
            equal = (s[others] == s[right]).sum()
            ranks.append(1 + better + equal / 2)
    r = np.asarray(ranks, float)
    hits = {f"hits_{k}": float((r <= k).mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / r).mean()), **hits, "asked": len(r)}


@torch.no_grad()
def _auc(
    model: JointModel,
    states: Tensor,
    sides: dict[str, Triples],
    known: set[tuple[int, ...]],
    entities: int,
    draw: np.random.Generator,
) -> float:
    model.eval()
    h = _nodes(model, states, sides["train"])
    good = sides["test"]
    bad = np.array([t for t in _broken(good, entities, draw).tolist() if tuple(t) not in known])
    s = _score(model, h, np.concatenate([good, bad])).numpy()
    return roc_auc([1] * len(good) + [0] * len(bad), s)
