"""The quiz is split off by groups of duplicates, so that no quiz question was learned from.

Questions are one group when they are equal after normalisation, or when the Jaccard index of their
shingles is at least 0.8 and they hold the same numbers. Pairs are found by prefix filtering
(Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007): two sets that share so much share
one of their rarest shingles, too. Classes of more than 20 000 different questions are searched with
MinHash instead (core/data/near.py), whose memory does not grow with what the texts share.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.data.near import THRESHOLD, Shingles, jaccard, likely_pairs, numbers, shingles
from core.data.types import Example, data_sha256
from core.errors import Problem

MOST_EXACT = 20_000  # different questions up to which every near pair is found
NEIGHBOURS = 64  # later questions that one is compared with for a shared shingle
FEW_GROUPS, TOO_FEW_GROUPS = 8, 4

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_SIGNS = "+×÷*/=<>≤≥^%√±−"  # 3 + 4 is another question than 3 × 4
_WORDS = re.compile(rf"\d+(?:\.\d+)?|[{_CJK}]|[^\W\d_{_CJK}]+|[{_SIGNS}]|-(?=[\d(])")


@dataclass(frozen=True)
class Split:
    """The two sides of a class, each in the order of the file.

    Attributes:
        train: examples that are learned; of a large class on disk.
        quiz: examples held out.
        problems: what to know about the split (a small class).
    """

    train: Sequence[Example]
    quiz: Sequence[Example]
    problems: tuple[Problem, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over both sides; places in the file do not count."""
        sides = f"train {data_sha256(self.train)}\nquiz {data_sha256(self.quiz)}\n"
        return hashlib.sha256(sides.encode()).hexdigest()


def split(examples: Sequence[Example], *, share: float, largest: int, seed: int) -> Split:
    """Split a quiz off, whole groups of duplicates at a time.

    Which examples become quiz depends on their texts and the seed, not on their order.

    Args:
        examples: the class.
        share: wanted part of the examples, 0..0.5.
        largest: most quiz questions.
        seed: another seed, another quiz.

    Returns:
        Both sides. The quiz is empty if none is wanted or there are fewer than four groups; with
        four or more it has at least one question.
    """
    if share <= 0 or largest <= 0 or not examples:
        return Split(tuple(examples), ())
    wanted = min(round(share * len(examples)), largest)
    groups = duplicate_groups(examples)
    if len(groups) < TOO_FEW_GROUPS:
        return Split(tuple(examples), (), (no_quiz(len(groups)),))
    chosen = _choose(groups, examples, max(wanted, 1), seed)
    train = tuple(e for i, e in enumerate(examples) if i not in chosen)
    quiz = tuple(e for i, e in enumerate(examples) if i in chosen)
    few = (small_quiz(len(groups), len(quiz)),) if len(groups) < FEW_GROUPS else ()
    return Split(train, quiz, few)


def duplicate_groups(examples: Sequence[Example]) -> list[list[int]]:
    """Return indices of the examples, grouped by (nearly) the same question.

    Groups are ordered by their first example, indices within a group ascend.
    """
    return text_groups([normalised(asked(e)) for e in examples])


def text_groups(texts: Sequence[str]) -> list[list[int]]:
    """Return indices of normalised texts, grouped as :func:`duplicate_groups` does."""
    by_text: defaultdict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        by_text[text].append(i)
    distinct = sorted(by_text)
    root = DisjointSets(len(distinct))
    find = near_pairs if len(distinct) <= MOST_EXACT else likely_pairs
    for a, b in find(distinct):
        root.join(a, b)
    merged: defaultdict[int, list[int]] = defaultdict(list)
    for at, text in enumerate(distinct):
        merged[root.find(at)] += by_text[text]
    return sorted(sorted(group) for group in merged.values())


def asked(example: Example) -> str:
    """Return all that the user says in a conversation."""
    return "\n".join(t.content for t in example.turns if t.role == "user")


def normalised(text: str) -> str:
    """Return a text as its words only: no case, width, punctuation or spacing."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield index pairs of near duplicates among sorted, distinct, normalised texts."""
    rows = _rarest_first([shingles(t) for t in texts])
    sets = [frozenset(row.tolist()) for row in rows]
    seen: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        figures = numbers(texts[i])
        prefix = len(row) - math.ceil(THRESHOLD * len(row)) + 1
        candidates: set[int] = set()
        for shingle in row[:prefix].tolist():
            bucket = seen[shingle, figures]
            candidates.update(bucket[-NEIGHBOURS:])
            bucket.append(i)
        for j in sorted(candidates):
            if jaccard(sets[i], sets[j]) >= THRESHOLD:
                yield j, i


def _rarest_first(rows: list[Shingles]) -> list[Shingles]:
    """Order each row's shingles from the rarest of the class to the most frequent.

    What more than half of the class shares is dropped: an instruction repeated in every row.
    """
    if not rows:
        return []
    known, counts = np.unique(np.concatenate(rows), return_counts=True)
    most = len(rows) / 2 if len(rows) >= FEW_GROUPS else len(rows)
    ordered = []
    for row in rows:
        frequency = counts[np.searchsorted(known, row)]
        kept = frequency <= most
        ordered.append(row[kept][np.lexsort((row[kept], frequency[kept]))])
    return ordered


def _choose(
    groups: Sequence[Sequence[int]], examples: Sequence[Example], wanted: int, seed: int
) -> set[int]:
    """Return the indices of the quiz: groups in an order of the seed's, as long as they fit."""
    drawn = sorted((_draw(seed, (examples[i] for i in g)), tuple(g)) for g in groups)
    chosen: set[int] = set()
    for _, group in drawn:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    smallest = min((g for _, g in drawn), key=lambda group: len(group))
    return chosen or set(smallest)


def _draw(seed: int, group: Iterable[Example]) -> str:
    texts = sorted(data_sha256([e]) for e in group)
    return hashlib.sha256(f"{seed} {' '.join(texts)}".encode()).hexdigest()


class DisjointSets:
    """Union-find over 0..n-1 with path halving."""

    def __init__(self, n: int) -> None:
        """Begin with every element in a set of its own."""
        self.parent = list(range(n))

    def find(self, a: int) -> int:
        """Return the element that stands for the set of ``a``."""
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]
            a = self.parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        """Unite the sets of ``a`` and ``b``."""
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a


def no_quiz(groups: int) -> Problem:
    """Say that there are too few groups of questions to keep some for a quiz."""
    return Problem(
        where="",
        what=f"There are only {groups} different questions, too few to keep some for a quiz.",
        action="Add questions to see what the model has learned.",
        severity="warning",
        code="split.no_quiz",
        values=(("groups", str(groups)),),
    )


def small_quiz(groups: int, quiz: int) -> Problem:
    """Say that the quiz is so small that its marks say little."""
    return Problem(
        where="",
        what=f"There are only {groups} different questions; the quiz has {quiz}, so its marks "
        "say little.",
        action="Add questions to get marks that can be relied on.",
        severity="warning",
        code="split.small_quiz",
        values=(("groups", str(groups)), ("quiz", str(quiz))),
    )
