"""The quiz is split off by groups of duplicates, so that no quiz question was learned from.

Questions are one group when they are equal after normalisation, or when the Jaccard index of their
shingles is at least 0.8 and they hold the same numbers. Candidates come from MinHash with banding
(Broder 1997; Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, chapter 3).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from core.data.types import Example, data_sha256
from core.errors import Problem

THRESHOLD = 0.8  # Jaccard index from which two questions are the same
BANDS, ROWS = 16, 4  # a pair at 0.8 is missed once in 5000 times
NEIGHBOURS = 64  # of a bucket that one question is compared with
FEW_GROUPS, TOO_FEW_GROUPS = 8, 4

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_SIGNS = "+×÷*/=<>≤≥^%√±−"  # 3 + 4 is another question than 3 × 4
_WORDS = re.compile(rf"\d+(?:\.\d+)?|[{_CJK}]|[^\W\d_{_CJK}]+|[{_SIGNS}]|-(?=[\d(])")
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")
_PRIME = np.uint64((1 << 61) - 1)


@dataclass(frozen=True)
class Split:
    """The two sides of a class, each in the order of the file.

    Attributes:
        train: examples that are learned.
        quiz: examples held out.
        problems: what to know about the split (a small class).
    """

    train: tuple[Example, ...]
    quiz: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()

    @property
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
        return Split(tuple(examples), (), (_no_quiz(len(groups)),))
    chosen = _choose(groups, examples, max(wanted, 1), seed)
    train = tuple(e for i, e in enumerate(examples) if i not in chosen)
    quiz = tuple(e for i, e in enumerate(examples) if i in chosen)
    few = (_small_quiz(len(groups), len(quiz)),) if len(groups) < FEW_GROUPS else ()
    return Split(train, quiz, few)


def duplicate_groups(examples: Sequence[Example]) -> list[list[int]]:
    """Return indices of the examples, grouped by (nearly) the same question.

    Groups are ordered by their first example, indices within a group ascend.
    """
    by_text: defaultdict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        by_text[normalised(_asked(example))].append(i)
    texts = sorted(by_text)
    root = _Union(len(texts))
    for a, b in near_pairs(texts):
        root.join(a, b)
    merged: defaultdict[int, list[int]] = defaultdict(list)
    for at, text in enumerate(texts):
        merged[root.find(at)] += by_text[text]
    return sorted(sorted(group) for group in merged.values())


def normalised(text: str) -> str:
    """Return a text as its words only: no case, width, punctuation or spacing."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) or text


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield index pairs of near duplicates among sorted, distinct, normalised texts."""
    shingles = _distinctive([_shingles(t) for t in texts])
    numbers = [tuple(_NUMBERS.findall(t)) for t in texts]
    for bucket in _buckets(shingles, numbers):
        for at, a in enumerate(bucket):
            for b in bucket[at + 1 : at + 1 + NEIGHBOURS]:
                if _jaccard(shingles[a], shingles[b]) >= THRESHOLD:
                    yield a, b


def _asked(example: Example) -> str:
    return "\n".join(t.content for t in example.turns if t.role == "user")


def _shingles(text: str) -> frozenset[int]:
    """Return hashes of the words (single characters in Chinese) and of their neighbouring pairs."""
    words = text.split()
    return frozenset(map(_hash, [*words, *(f"{a} {b}" for a, b in pairwise(words))]))


def _distinctive(shingles: list[frozenset[int]]) -> list[frozenset[int]]:
    """Drop what more than half of the class shares: an instruction repeated in every row."""
    if len(shingles) < FEW_GROUPS:
        return shingles
    counts = Counter(s for row in shingles for s in row)
    common = {s for s, count in counts.items() if count > len(shingles) / 2}
    return [row - common for row in shingles]


def _buckets(
    shingles: Sequence[frozenset[int]], numbers: Sequence[tuple[str, ...]]
) -> Iterator[list[int]]:
    """Yield ascending index lists whose signatures agree in a band and whose numbers are equal."""
    rng = np.random.Generator(np.random.Philox(20_240_229))
    factors = rng.integers(1, 1 << 29, BANDS * ROWS, dtype=np.uint64)  # products stay in 64 bits
    offsets = rng.integers(0, 1 << 61, BANDS * ROWS, dtype=np.uint64)
    found: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(shingles):
        if not row:
            continue
        hashes = np.fromiter(row, np.uint64, len(row)) >> np.uint64(32)  # (S,)
        mixed = (hashes[:, None] * factors + offsets) % _PRIME  # (S, BANDS * ROWS)
        signature = mixed.min(0).reshape(BANDS, ROWS)
        for band, part in enumerate(signature):
            found[band, part.tobytes(), numbers[i]].append(i)
    for bucket in found.values():
        if len(bucket) > 1:
            yield bucket


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


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


class _Union:
    """Union-find over 0..n-1 with path halving."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, a: int) -> int:
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]
            a = self.parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a


def _no_quiz(groups: int) -> Problem:
    return Problem(
        where="",
        what=f"There are only {groups} different questions, too few to keep some for a quiz.",
        action="Add questions to see what the model has learned.",
        severity="warning",
        code="split.no_quiz",
        values=(("groups", str(groups)),),
    )


def _small_quiz(groups: int, quiz: int) -> Problem:
    return Problem(
        where="",
        what=f"There are only {groups} different questions; the quiz has {quiz}, so its marks "
        "say little.",
        action="Add questions to get marks that can be relied on.",
        severity="warning",
        code="split.small_quiz",
        values=(("groups", str(groups)), ("quiz", str(quiz))),
    )
