"""Questions that come again: the same answer, another answer, nearly the same words.

A class is gone through by hashes of eight bytes, so that a million rows need 16 MB; only near
duplicates ask for texts again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.data.health.report import Notebook, Tick, quiet
from core.data.near import likely_pairs
from core.data.split import MOST_EXACT, DisjointSets, asked, near_pairs, normalised
from core.data.types import Example

Hashes = NDArray[np.uint64]  # (N,)


class Repetition:
    """Gathers hashes row by row; :meth:`finish` finds what repeats."""

    def __init__(self) -> None:
        """Start with no row."""
        self._questions, self._answers = array("Q"), array("Q")

    def see(self, question: str, answer: str) -> None:
        """Take in the next example's normalised question and answer."""
        self._questions.append(_hash(question))
        self._answers.append(_hash(answer))

    def finish(
        self,
        examples: Sequence[Example],
        notes: Notebook,
        *,
        near: bool = True,
        tick: Tick = quiet,
    ) -> int:
        """Note what repeats; return how many pairs of question and answer are distinct."""
        questions = np.frombuffer(self._questions, np.uint64)
        answers = np.frombuffer(self._answers, np.uint64)
        first = _first_of(questions)
        again = _seen_before(questions, answers)
        later = first != np.arange(len(first))
        distinct = len(first) - int(again.sum())
        values = {"distinct": distinct, "examples": len(first)}
        notes.say("health.duplicates", np.flatnonzero(again).tolist(), values)
        notes.say("health.contradictions", np.flatnonzero(later & ~again).tolist(), {})
        if near:
            alike = _near(examples, np.flatnonzero(~later), tick)
            notes.say("health.near_duplicates", alike, {})
        return distinct


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _first_of(keys: Hashes) -> NDArray[np.int64]:
    """Return for each row the first row with the same key, (N,)."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse]
    return found


def _seen_before(questions: Hashes, answers: Hashes) -> NDArray[np.bool_]:
    """Say of each row whether an earlier one has the same question and the same answer, (N,)."""
    order = np.lexsort((answers, questions))  # stable: rows of a pair keep their order
    same = np.zeros(len(order), bool)
    q, a = questions[order], answers[order]
    same[1:] = (q[1:] == q[:-1]) & (a[1:] == a[:-1])
    again = np.empty(len(order), bool)
    again[order] = same
    return again


class _Questions(Sequence[str]):
    """The normalised questions of some examples, made when they are asked for."""

    def __init__(self, examples: Sequence[Example], at: NDArray[np.int64]) -> None:
        self._examples, self._at = examples, at

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # never asked for slices
        return normalised(asked(self._examples[int(self._at[i])]))


def _near(examples: Sequence[Example], at: NDArray[np.int64], tick: Tick) -> list[int]:
    """Return the rows whose question nearly equals an earlier one, of rows ``at`` that differ."""
    texts = _Questions(examples, at)
    groups = DisjointSets(len(at))
    if len(at) <= MOST_EXACT:
        # as the quiz is split; near_pairs wants its texts sorted
        known = list(texts)
        order = sorted(range(len(known)), key=known.__getitem__)
        for a, b in near_pairs([known[i] for i in order]):
            groups.join(order[a], order[b])
    else:
        for a, b in likely_pairs(texts, tick):
            groups.join(a, b)
    # the smaller index stands for a group, so that all others come later
    return [int(at[i]) for i in range(len(at)) if groups.find(i) != i]
