"""Sets of concepts with known prerequisites, read as worlds for the concept map.

metacademy (CC BY-SA) has texts and a whole graph; AL-CPL (CC BY-NC-SA 4.0) and LectureBank (no
licence) are names with labelled pairs. All are read from ``shared/data`` and none is copied; only
what is learned from metacademy may be shipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import DataError
from core.graph import network, reading, reason
from core.graph.encoder import Encoder
from core.graph.features import Evidence, pair_features
from core.graph.model import bio
from core.graph.names import mentions_in
from core.graph.reason import World
from core.graph.types import GLOSSARY, QUESTION, RELATIONS, Concept, Mention, Passage, concept_id

SETS: tuple[str, ...] = ("metacademy", "al_cpl/data_mining", "al_cpl/geometry", "al_cpl/physics")
SETS += ("al_cpl/precalculus", "lecturebank/lb1", "lecturebank/lb2", "lecturebank/cv")
SETS += ("lecturebank/bio",)


@dataclass(frozen=True)
class Labelled:
    """Concepts and pairs as a file has them.

    Attributes:
        names: of the concepts.
        pairs: (prerequisite, concept) as indices.
        truth: of the pairs.
        listed: whether the file lists negatives itself.
        texts: what is said of a concept; questions of a concept.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    truth: tuple[int, ...]
    listed: bool
    texts: tuple[str, ...] = ()
    questions: tuple[tuple[int, str], ...] = ()


def read(name: str, shared: Path) -> Labelled:
    """Read a set by its name in :data:`SETS`.

    Raises:
        DataError: if its files are absent.
    """
    folder, _, part = name.partition("/")
    try:
        if folder == "metacademy":
            return _metacademy(shared / folder)
        if folder == "al_cpl":
            return _table(shared / folder / f"{part}.tsv", "b_is_prerequisite_of_a")
        return _table(shared / folder / f"{part}_pairs.tsv", "a_is_prerequisite_of_b")
    except OSError as error:
        raise DataError(f"The files of {name} are absent.", where=name) from error


def _metacademy(folder: Path) -> Labelled:
    lines = (folder / "concepts.jsonl").read_text("utf-8").splitlines()
    concepts = [json.loads(line) for line in lines]
    place = {c["tag"]: i for i, c in enumerate(concepts)}
    lines = (folder / "prerequisites.jsonl").read_text("utf-8").splitlines()
    edges = [json.loads(line) for line in lines]
    found = {(place[e["prerequisite"]], place[e["concept"]]) for e in edges}
    pairs = tuple(sorted(p for p in found if p[0] != p[1]))
    return Labelled(
        tuple(c["title"] for c in concepts),
        pairs,
        (1,) * len(pairs),
        listed=False,
        texts=tuple(c["summary"] for c in concepts),
        questions=tuple((i, q) for i, c in enumerate(concepts) for q in c["questions"]),
    )


def _table(path: Path, label: str) -> Labelled:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = sorted({r[k] for r in rows for k in ("concept_a", "concept_b")})
    place = {n: i for i, n in enumerate(names)}
    found: dict[tuple[int, int], int] = {}
    for r in rows:
        a, b = place[r["concept_a"]], place[r["concept_b"]]
        pair = (b, a) if label.startswith("b_") else (a, b)
        if a != b:
            found[pair] = max(int(r[label]), found.get(pair, 0))
    shown = tuple(n.replace("_", " ") for n in names)
    return Labelled(shown, tuple(found), tuple(found.values()), listed=True)


def concepts_of(data: Labelled) -> tuple[list[Concept], list[Passage]]:
    """Concepts with mentions, and the passages of a set: what is said of each, and questions."""
    passages: list[Passage] = []
    for name, text in zip(data.names, data.texts, strict=False):
        if text.strip():
            passages.append(Passage(len(passages), f"{name}: {text}", GLOSSARY))
    for _, question in data.questions:
        passages.append(Passage(len(passages), question, QUESTION))
    found = mentions_in({n: concept_id(n) for n in data.names}, passages)
    concepts = [
        Concept(f"n{i}", n, mentions=found.get(concept_id(n), ())) for i, n in enumerate(data.names)
    ]
    return concepts, passages


def world_of(data: Labelled, encoder: Encoder, seed: int, *, test: float = 0.2) -> World:
    """A set as a world, split by concept; ``test`` is the share of concepts kept for the test."""
    concepts, passages = concepts_of(data)
    vectors = reading.name_vectors(encoder, data.names)
    read_text = reading.read(encoder, passages)
    evidence, _ = reading.evidence_of(concepts, passages, vectors)
    around = reading.contexts(read_text, concepts, encoder.width)
    return made(data, evidence, around, read_text, concepts, seed, test)


def made(
    data: Labelled,
    evidence: Evidence,
    around: NDArray[np.float32],
    read_text: reading.Read,
    concepts: Sequence[Concept],
    seed: int,
    test: float = 0.2,
) -> World:
    """The world of what was read, dealt anew by ``seed``."""
    pairs = np.array(data.pairs, np.int64).reshape(-1, 2)
    sides = network.split_concepts(len(data.names), seed, test=test)
    return World(
        states=reading.node_states(evidence.vectors, around, read_text.means),
        features=pair_features(evidence),
        text=network.text_edges(evidence),
        pairs=pairs,
        relation=np.full(len(pairs), RELATIONS.index("prerequisite")),
        truth=np.array(data.truth, np.int64),
        side=network.side_of_pairs(pairs, sides),
        weight=np.ones(len(pairs), np.float32),
        drawn=not data.listed,
        refused=ancestors(data) if not data.listed else frozenset(),
        tagged=tagged(concepts, read_text, sides),
    )


def ancestors(data: Labelled) -> frozenset[tuple[int, int]]:
    """Pairs that follow from the positives by transitivity: no negatives among them."""
    graph = nx.DiGraph(p for p, t in zip(data.pairs, data.truth, strict=True) if t)
    return frozenset((a, b) for b in graph for a in nx.ancestors(graph, b))


def tagged(
    concepts: Sequence[Concept], read_text: reading.Read, sides: NDArray[np.int64]
) -> list[reason.Tagged]:
    """Sentences with the mentions of concepts as tags; only of concepts that may be learned."""
    spans: dict[int, list[Mention]] = {}
    for concept, side in zip(concepts, sides.tolist(), strict=True):
        if side == 0:
            for m in concept.mentions:
                spans.setdefault(m.passage, []).append(m)
    found = []
    for passage, states in read_text.tokens.items():
        here = [(m.start, m.end, 0) for m in spans.get(passage, ())]
        found.append((torch.from_numpy(states.states), bio(states.offsets, here)))
    return found
