"""The graph that messages pass over: concepts and questions, and what joins them.

Nodes are the C concepts, then the Q passages of questions and texts. Edges go both ways:

- mention: a passage and a concept that it mentions,
- together: two concepts that stand in one passage more often than by chance (PPMI > 0),
- similar: concepts whose names mean nearly the same (the nearest few, cosine at least 0.5),
- before, after: prerequisites that the teacher approved, and their reverses.

**No leak.** An edge whose truth is being asked never takes part, in either direction:
:func:`message_edges` refuses it. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from core.graph.features import Evidence, ppmi

TYPES = ("mention", "together", "similar", "before", "after")
NEAREST, SIMILAR = 4, 0.5
MOST_PASSAGES = 12  # a concept is joined to, the first of them: the rest say little more

Pairs = NDArray[np.int64]  # (n, 2)
Edges = tuple[NDArray[np.int64], NDArray[np.int64]]  # (2, E), (E,) types


def text_edges(e: Evidence) -> Edges:
    """Edges that the texts alone give, both ways, no self-loops.

    Returns:
        (2, E) and the type of every edge; passages are numbered from C on.
    """
    concepts = len(e.names)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
    rows, columns = np.nonzero(e.mentioned.T)  # sorted by concept
    if len(rows):
        begins = np.searchsorted(rows, rows)
        near = np.arange(len(rows)) - begins < MOST_PASSAGES
        parts.append((rows[near], columns[near] + concepts, 0))
    m = (e.mentioned > 0).astype(np.float32)
    a, b = np.nonzero(np.triu(ppmi(m.T @ m, m.sum(0), len(m)), 1) > 0)
    parts.append((a, b, 1))
    parts.append((*_nearest(e.vectors), 2))
    both = [(np.stack([s, t]), k) for s, t, k in parts] + [
        (np.stack([t, s]), k) for s, t, k in parts
    ]
    index = np.concatenate([x for x, _ in both], 1).astype(np.int64)
    kinds = np.concatenate([np.full(x.shape[1], k) for x, k in both]).astype(np.int64)
    return index, kinds


def _nearest(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    count = min(NEAREST, len(near) - 1)
    if count < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best = np.argsort(-near, 1, kind="stable")[:, :count]
    found = {
        (min(i, j), max(i, j))
        for i in range(len(near))
        for j in best[i].tolist()
        if near[i, j] >= SIMILAR
    }
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def message_edges(text: Edges, approved: Pairs, asked: Iterable[tuple[int, int]]) -> Edges:
    """The edges that messages pass over.

    Args:
        text: from :func:`text_edges`.
        approved: (n, 2) prerequisites that are known, as indices of concepts.
        asked: pairs whose truth is being predicted, learned or tested.

    Raises:
        ValueError: if an asked pair, or its reverse, is among the approved ones (a leak).
    """
    secret = {(int(a), int(b)) for a, b in asked}
    secret |= {(b, a) for a, b in secret}
    if leaks := [p for p in map(tuple, approved.tolist()) if p in secret]:
        raise ValueError(f"{len(leaks)} asked edges among those that pass messages: {leaks[:3]}")
    known = approved.reshape(-1, 2).T
    index = np.concatenate([text[0], known, known[::-1]], 1)
    kinds = np.concatenate([text[1], np.full(known.shape[1], 3), np.full(known.shape[1], 4)])
    return index, kinds.astype(np.int64)


def without(approved: Pairs, asked: Iterable[tuple[int, int]]) -> Pairs:
    """Approved edges less the asked ones and their reverses."""
    secret = {(int(a), int(b)) for a, b in asked}
    kept = [p for p in approved.tolist() if tuple(p) not in secret and (p[1], p[0]) not in secret]
    return np.array(kept, np.int64).reshape(-1, 2)


def split_concepts(
    concepts: int, seed: int, *, validation: float = 0.15, test: float = 0.2
) -> NDArray[np.int64]:
    """Deal concepts to training (0), validation (1) and test (2)."""
    order = np.random.default_rng(seed).permutation(concepts)
    sides = np.zeros(concepts, np.int64)
    held, asked = round(test * concepts), round(validation * concepts)
    sides[order[:held]] = 2
    sides[order[held : held + asked]] = 1
    return sides


def side_of_pairs(pairs: Pairs, sides: NDArray[np.int64]) -> NDArray[np.int64]:
    """A pair's side is the later of its concepts': a test pair has a concept never trained on."""
    return np.maximum(sides[pairs[:, 0]], sides[pairs[:, 1]])
