"""Which questions of a class have been asked before.

n questions make n (n - 1) / 2 pairs, too many to read all. Candidates come from two cheap looks,
each naming every question's nearest others: words in common (rare ones count more), and the mean
states of the tuned model itself, one reading a question. Only candidates are read as pairs, in both
orders; what reaches the threshold is called the same, and what is linked becomes a group.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from core.data.split import DisjointSets, normalised
from core.pairs.store import Trained

NEIGHBOURS = 8  # candidates that each look names of a question
MOST_QUESTIONS = 5000
_BLOCK = 512  # questions whose similarity to all others is held at a time


@dataclass(frozen=True)
class Found:
    """Two questions of a class that mean the same, by their indices.

    ``probability`` is the model's, ``words`` how much of their words they share.
    """

    first: int
    second: int
    probability: float
    words: float


def shingles(text: str) -> set[str]:
    """Words (single characters in Chinese) of a text and their neighbouring pairs."""
    words = normalised(text).split()
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def overlap(first: str, second: str) -> float:
    """Jaccard index of the shingles of two texts, 0..1."""
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b) if a or b else 1.0


def candidates_by_words(questions: Sequence[str], neighbours: int) -> set[tuple[int, int]]:
    """Pairs of indices (i < j) whose shingles are near: cosine with inverse document frequency."""
    sets = [shingles(q) for q in questions]
    counts = Counter(s for one in sets for s in one)
    weight = {s: math.log(1 + len(sets) / c) ** 2 for s, c in counts.items() if c > 1}
    owners: defaultdict[str, list[int]] = defaultdict(list)
    norm = [math.sqrt(sum(weight.get(s, math.log(1 + len(sets)) ** 2) for s in x)) for x in sets]
    for i, one in enumerate(sets):
        for s in one & weight.keys():
            owners[s].append(i)
    found: set[tuple[int, int]] = set()
    for i, one in enumerate(sets):
        near: defaultdict[int, float] = defaultdict(float)
        for s in one & weight.keys():
            if len(owners[s]) <= max(64, len(sets) // 4):  # what most questions share says nothing
                for j in owners[s]:
                    near[j] += weight[s] / (norm[i] * norm[j])
        near.pop(i, None)
        best = sorted(near, key=lambda j: (-near[j], j))[:neighbours]
        found |= {(min(i, j), max(i, j)) for j in best}
    return found


def candidates_by_states(states: torch.Tensor, neighbours: int) -> set[tuple[int, int]]:
    """Pairs of indices (i < j) of rows (n, d) of length 1 with the largest cosines."""
    found: set[tuple[int, int]] = set()
    count = min(neighbours, len(states) - 1)
    for begin in range(0, len(states) if count > 0 else 0, _BLOCK):
        near = states[begin : begin + _BLOCK] @ states.t()
        rows = torch.arange(len(near))
        near[rows, rows + begin] = -math.inf
        for row, best in enumerate(near.topk(count, dim=1).indices.tolist()):
            i = row + begin
            found |= {(min(i, j), max(i, j)) for j in best}
    return found


def find_duplicates(
    trained: Trained,
    questions: Sequence[str],
    *,
    neighbours: int = NEIGHBOURS,
    on_share: Callable[[float], None] = lambda share: None,
) -> list[Found]:
    """Pairs of questions that mean the same, surest first.

    Args:
        trained: the model.
        questions: of a class.
        neighbours: candidates that each look names of a question.
        on_share: hears how far it is, 0..1.
    """
    near = candidates_by_words(questions, neighbours)
    if len(questions) > 1:
        states = trained.model.embeddings(trained.encoder, questions)
        near |= candidates_by_states(states, neighbours)
    listed = sorted(near)
    done = 0

    def hear(count: int) -> None:
        nonlocal done
        done += count
        on_share(done / max(1, len(listed)))

    texts = [(questions[i], questions[j]) for i, j in listed]
    # Texts that are equal are the same question, whatever a model says.
    scores = trained.model.scores(trained.encoder, texts, hear).softmax(1)[:, 1].tolist()
    found = [
        Found(i, j, 1.0 if normalised(a) == normalised(b) else p, overlap(a, b))
        for (i, j), (a, b), p in zip(listed, texts, scores, strict=True)
    ]
    kept = [f for f in found if f.probability >= trained.threshold]
    return sorted(kept, key=lambda f: (-f.probability, f.first, f.second))


def groups(found: Sequence[Found], questions: int) -> list[list[int]]:
    """Indices of questions linked by duplicates, groups of at least two, by their first member."""
    sets = DisjointSets(questions)
    for pair in found:
        sets.join(pair.first, pair.second)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(questions):
        members[sets.find(i)].append(i)
    return sorted(g for g in members.values() if len(g) > 1)


def document(
    found: Sequence[Found], questions: Sequence[str], where: Sequence[str], threshold: float
) -> dict[str, Any]:
    """What command line and page show: every pair and group with its texts and places."""

    def told(i: int) -> dict[str, str]:
        return {"text": questions[i], "where": where[i]}

    return {
        "questions": len(questions),
        "threshold": threshold,
        "pairs": [{**asdict(f), "first": told(f.first), "second": told(f.second)} for f in found],
        "groups": [[told(i) for i in group] for group in groups(found, len(questions))],
    }
