"""Entities and joint relations on CoNLL04 and SciERC with the map's joint model.

Words stand on the mean state of their pieces. The tagger gives spans with their types; spans are
the nodes that the scorer relates, with f_ij = [mean z of the words between; types of both; how far
apart; which comes first]. Training sees the true spans, the test those that the tagger found. A
span counts if place and type are right, a relation if both its spans and its type are.

``frozen`` trains the joint model alone, ``frozen-gcn-gat`` lets the spans of a sentence pass
messages, ``tuned`` trains the encoder as well, end to end.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.errors import DataError
from core.graph.encoder import Encoder
from core.graph.model import JointModel, Shape, padded, spans_of

SETS = ("conll04", "scierc")
METHODS = ("frozen", "frozen-gcn-gat", "tuned")
BATCH, HIDDEN = 8, 128

Span = tuple[int, int, int]  # first word, after the last, type


@dataclass(frozen=True)
class Sentence:
    """Words with their true spans and relations (head span, tail span, type)."""

    words: tuple[str, ...]
    spans: tuple[Span, ...]
    relations: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Material:
    """A set: its three files and the names of its types."""

    sides: dict[str, list[Sentence]]
    entities: tuple[str, ...]
    relations: tuple[str, ...]


def read(name: str, shared: Path, train: int, test: int) -> Material:
    """Read a set; ``train`` and ``test`` are the most sentences, 0 for all.

    Raises:
        DataError: if its files are absent.
    """
    folder = shared / name
    try:
        types = json.loads((folder / f"{name}_types.json").read_text("utf-8"))
        files = {
            side: json.loads((folder / f"{name}_{side}.json").read_text("utf-8"))
            for side in ("train", "dev", "test")
        }
    except OSError as error:
        raise DataError(f"The files of {name} are absent.", where=name) from error
    entities, relations = tuple(types["entities"]), tuple(types["relations"])
    most = {"train": train, "dev": test, "test": test}
    sides = {
        side: [_sentence(r, entities, relations) for r in rows[: most[side] or len(rows)]]
        for side, rows in files.items()
    }
    return Material(sides, entities, relations)


def _sentence(row: Any, entities: Sequence[str], relations: Sequence[str]) -> Sentence:
    spans = tuple((e["start"], e["end"], entities.index(e["type"])) for e in row["entities"])
    related = tuple((r["head"], r["tail"], relations.index(r["type"])) for r in row["relations"])
    return Sentence(tuple(row["tokens"]), spans, related)


def word_states(encoder: Encoder, sentences: Sequence[Sentence]) -> list[Tensor]:
    """Mean states (words, d) of every sentence's words; gradients flow if the encoder trains."""
    encoded, places = [], []
    for sentence in sentences:
        ends = np.cumsum([len(w) + 1 for w in sentence.words])
        ids, offsets = encoder.tokens(" ".join(sentence.words))
        encoded.append(ids)
        real = offsets[:, 1] > offsets[:, 0]
        # A byte-level piece begins with the space before its word: its end tells the word.
        word = np.searchsorted(ends, offsets[:, 1] - 1, side="right")
        places.append(np.where(real, np.minimum(word, len(sentence.words) - 1), -1))
    found = []
    for states, place, sentence in zip(encoder.forward(encoded), places, sentences, strict=True):
        rows = torch.from_numpy(np.flatnonzero(place >= 0))
        index = torch.from_numpy(place[place >= 0].astype(np.int64))
        words = len(sentence.words)
        total = torch.zeros(words, states.shape[1]).index_add(0, index, states[rows])
        count = torch.bincount(index, minlength=words).clamp_min(1)
        found.append(total / count[:, None])
    return found


def measure(
    name: str,
    method: str,
    seed: int,
    shared: Path,
    encoder: Encoder,
    epochs: int,
    train: int,
    test: int,
) -> dict[str, Any]:
    """Train, choose the epoch by the sum of both F1 on the development file, mark the test."""
    material = read(name, shared, train, test)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    tuned = method == "tuned"
    own = copy.deepcopy(encoder) if tuned else encoder
    model = _model(material, own.width, "gcn-gat" if "gcn" in method else "none")
    held: dict[str, list[Tensor]] = {}
    if not tuned:
        with torch.no_grad():
            held = {s: _states(own, rows) for s, rows in material.sides.items()}
        model.standardise(torch.cat(held["train"]))
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 2e-3}]
    if tuned:
        own.model.requires_grad_(True)
        groups.append({"params": list(own.model.parameters()), "lr": 5e-5})
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    best, kept, waited = -1.0, None, 0
    for _ in range(min(epochs, 12) if tuned else min(epochs, 40)):
        _epoch(model, own, material.sides["train"], held.get("train"), optimizer, draw)
        marks = mark(model, own, material.sides["dev"], held.get("dev"))
        score = marks["entity_f1"] + marks["relation_f1"]
        if score > best:
            best, waited = score, 0
            kept = copy.deepcopy((model.state_dict(), own.model.state_dict() if tuned else {}))
        elif (waited := waited + 1) >= 5:
            break
    if kept is not None:
        model.load_state_dict(kept[0])
        if tuned:
            own.model.load_state_dict(kept[1])
    return mark(model, own, material.sides["test"], held.get("test"))


def _model(material: Material, width: int, passing: str) -> JointModel:
    kinds, relations = len(material.entities), len(material.relations)
    features = HIDDEN + 2 * kinds + 3
    return JointModel(Shape(width, passing, kinds, relations, features, 1, HIDDEN))


def _states(encoder: Encoder, sentences: Sequence[Sentence]) -> list[Tensor]:
    found: list[Tensor] = []
    for at in range(0, len(sentences), 16):
        found += word_states(encoder, sentences[at : at + 16])
    return found


def _epoch(
    model: JointModel,
    encoder: Encoder,
    sentences: Sequence[Sentence],
    held: list[Tensor] | None,
    optimizer: torch.optim.Optimizer,
    draw: np.random.Generator,
) -> None:
    model.train()
    order = draw.permutation(len(sentences)).tolist()
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        batch = [sentences[i] for i in rows]
        states = [held[i] for i in rows] if held is not None else word_states(encoder, batch)
        optimizer.zero_grad()
        _loss(model, batch, states).backward()
        torch.nn.utils.clip_grad_norm_(
            [p for g in optimizer.param_groups for p in g["params"]], 1.0
        )
        optimizer.step()


def _loss(model: JointModel, batch: Sequence[Sentence], states: Sequence[Tensor]) -> Tensor:
    z = model.project(padded(states))
    gold = padded([_tags(s) for s in batch], -1).long()
    total = functional.cross_entropy(model.tags(z).flatten(0, 1), gold.flatten(), ignore_index=-1)
    scores, truth = [], []
    for row, sentence in enumerate(batch):
        pairs, s = related(model, z[row, : len(sentence.words)], sentence.spans)
        if len(pairs):
            wanted = torch.zeros(len(pairs), model.shape.relations)
            place = {p: i for i, p in enumerate(map(tuple, pairs.tolist()))}
            for head, tail, kind in sentence.relations:
                if (head, tail) in place:
                    wanted[place[head, tail], kind] = 1
            scores.append(s)
            truth.append(wanted)
    if scores:
        total = total + functional.binary_cross_entropy_with_logits(
            torch.cat(scores), torch.cat(truth)
        )
    return total


def _tags(sentence: Sentence) -> Tensor:
    tags = torch.zeros(len(sentence.words), dtype=torch.long)
    for start, end, kind in sentence.spans:
        tags[start:end] = 2 + 2 * kind
        tags[start] = 1 + 2 * kind
    return tags


def related(model: JointModel, z: Tensor, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
    """All ordered pairs of spans and their logits (n, R).

    Args:
        model: the joint model.
        z: (words, D) of one sentence.
        spans: in it.
    """
    n = len(spans)
    pairs = torch.tensor([(a, b) for a in range(n) for b in range(n) if a != b]).view(-1, 2)
    if n < 2:
        return pairs, torch.zeros(0, model.shape.relations)
    pooled = torch.stack([z[a:b].mean(0) for a, b, _ in spans])
    h = model.nodes(pooled, pairs.t(), torch.zeros(len(pairs), dtype=torch.long))
    types = functional.one_hot(torch.tensor([k for _, _, k in spans]), model.shape.kinds).float()
    rows = []
    for a, b in pairs.tolist():
        first, second = sorted((spans[a], spans[b]))
        between = z[first[1] : second[0]]
        middle = between.mean(0) if len(between) else torch.zeros(z.shape[1])
        apart = max(0, second[0] - first[1])
        place = torch.tensor([float(spans[a] < spans[b]), min(apart, 20) / 20, float(apart < 2)])
        rows.append(torch.cat([middle, types[a], types[b], place]))
    return pairs, model.scores(h, pairs, torch.stack(rows))


@torch.no_grad()
def mark(
    model: JointModel, encoder: Encoder, sentences: Sequence[Sentence], held: list[Tensor] | None
) -> dict[str, Any]:
    """Precision, recall and F1 (micro) of spans with types and of relations with both spans."""
    model.eval()
    counts = np.zeros((2, 3), int)  # entities, relations: right, said, true
    for at in range(0, len(sentences), 16):
        batch = sentences[at : at + 16]
        states = held[at : at + 16] if held is not None else word_states(encoder, batch)
        for sentence, x in zip(batch, states, strict=True):
            z = model.project(x[None])[0]
            words = np.array([(i, i + 1) for i in range(len(sentence.words))])
            spans = [s[:3] for s in spans_of(words, model.tags(z[None])[0])]
            pairs, s = related(model, z, spans)
            said = {
                (spans[a], spans[b], int(r))
                for (a, b), row in zip(pairs.tolist(), s, strict=True)
                for r in torch.nonzero(row > 0).flatten().tolist()
            }
            true = {(sentence.spans[a], sentence.spans[b], r) for a, b, r in sentence.relations}
            gold = set(sentence.spans)
            counts[0] += len(gold & set(spans)), len(set(spans)), len(gold)
            counts[1] += len(true & said), len(said), len(true)
    found: dict[str, Any] = {"sentences": len(sentences)}
    for name, (right, told, truth) in zip(("entity", "relation"), counts.tolist(), strict=True):
        found[f"{name}_precision"] = right / max(1, told)
        found[f"{name}_recall"] = right / max(1, truth)
        found[f"{name}_f1"] = 2 * right / max(1, told + truth)
    return found
