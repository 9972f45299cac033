"""What is known of two concepts before anything is learned: f_ij, from the texts alone.

All of it is independent of the language, so that a scorer that was trained on one subject says
something of another. No torch in here.

Shapes: C concepts, P passages, F features; an array (C, C) has the earlier concept i in its rows
and the later j in its columns: does i come before j?

RefD is the reference distance of Liang et al. 2015 (Measuring Prerequisite Relations Among
Concepts): how much more what is related to j refers to i than the other way round. Here "refers"
means that a text about a concept mentions another (our interpretation: they used Wikipedia's
links).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.graph.names import words_of
from core.graph.types import RELATIONS

NAMES = (
    *("refd", "order", "distance", "defined_by", "defines", "inside", "outside", "shared_words"),
    *("cosine", "frequency", "ppmi", "jaccard", "given_source", "given_target", "length"),
    *("leads", "follows", "said_prerequisite", "said_part_of", "said_example_of"),
)

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """What the texts say of C concepts.

    Attributes:
        names: of the concepts.
        mentioned: (P, C) number of mentions in every passage.
        about: (P, C) 1 where a passage is about a concept: its definition, its title, or the
            first that a question names.
        defined: (P, C) 1 where a passage explains a concept.
        vectors: (C, d) of length 1, what the names mean; zeros where that is not known.
        said: (R, C, C) how often a sentence states a relation, in the order of ``RELATIONS``.
    """

    names: tuple[str, ...]
    mentioned: Matrix
    about: Matrix
    defined: Matrix
    vectors: Matrix
    said: Matrix

    def only(self, kept: Sequence[int]) -> Evidence:
        """The same of some of the concepts."""
        k = list(kept)
        return Evidence(
            tuple(self.names[i] for i in k),
            self.mentioned[:, k],
            self.about[:, k],
            self.defined[:, k],
            self.vectors[k],
            self.said[:, k][:, :, k],
        )


def pair_features(e: Evidence) -> Matrix:
    """f_ij of all pairs: (C, C, F) in the order of :data:`NAMES`, every value within -1..1."""
    m = (e.mentioned > 0).astype(np.float32)
    counts = m.sum(0)
    together = m.T @ m
    refers = ((e.about.T @ m) > 0).astype(np.float32)  # i's texts mention j
    np.fill_diagonal(refers, 0)
    place = _first(e.mentioned)
    explained = (e.defined.T @ m).astype(np.float32)  # what stands in i's explanation
    np.fill_diagonal(explained, 0)
    inside, shared = _words(e.names)
    log = np.log1p(counts)
    length = np.array([len(words_of(n)) for n in e.names], np.float32)
    led = e.about.T @ m
    safe = np.maximum(counts, 1)
    found = [
        refd(refers, m),
        np.sign(place[None] - place[:, None]),
        place[None] - place[:, None],
        explained.T > 0,  # j's explanation mentions i
        explained > 0,
        inside,
        inside.T,
        shared,
        e.vectors @ e.vectors.T,
        np.tanh((log[:, None] - log[None]) / 2),
        ppmi(together, counts, len(m)),
        together / np.maximum(counts[:, None] + counts[None] - together, 1),
        together / safe[:, None],
        together / safe[None],
        np.tanh((length[None] - length[:, None]) / 3),
        led / np.maximum(e.about.sum(0)[:, None], 1),
        led.T / np.maximum(e.about.sum(0)[None], 1),
        *(np.minimum(e.said[r], 2) / 2 for r in range(len(RELATIONS))),
    ]
    stacked = np.stack([np.asarray(f, np.float32) for f in found], -1)
    return np.asarray(np.clip(stacked, -1, 1), np.float32)


def refd(refers: Matrix, mentioned: Matrix) -> Matrix:
    """RefD of all pairs, -1..1: positive where i is a prerequisite of j, RefD(i, j) = -RefD(j, i).

    Args:
        refers: (C, C) 1 where texts about the row mention the column.
        mentioned: (P, C) of 0 and 1; the weights w are the share of passages in common.
    """
    counts = np.maximum(mentioned.sum(0), 1)
    w = (mentioned.T @ mentioned) / counts[None]  # w[k, j]: k's weight in what j is about
    w /= np.maximum(w.sum(0, keepdims=True), 1e-9)
    towards = refers.T @ w  # (i, j): share of what is related to j that refers to i
    return np.asarray(towards - towards.T, np.float32)


def ppmi(together: Matrix, counts: Matrix, passages: int) -> Matrix:
    """Positive pointwise mutual information of two concepts in a passage, scaled into 0..1."""
    expected = np.maximum(counts[:, None] * counts[None], 1e-9) / max(passages, 1)
    with np.errstate(divide="ignore"):
        found = np.where(together > 0, np.log(np.maximum(together, 1e-9) / expected), 0)
    np.fill_diagonal(found, 0)
    return np.asarray(np.clip(found, 0, None) / max(np.log(max(passages, 2)), 1e-9), np.float32)


def _first(mentioned: Matrix) -> Matrix:
    """Rank of every concept's first mention, 0..1; what is never mentioned comes last."""
    passages, concepts = mentioned.shape
    first = np.where(mentioned.any(0), (mentioned > 0).argmax(0), passages) if passages else 0
    order = np.argsort(np.argsort(np.broadcast_to(first, (concepts,)), kind="stable"))
    return np.asarray(order / max(1, concepts - 1), np.float32)


def _words(names: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Whether i's words all stand in j's longer name, and the share of words in common."""
    known: dict[str, int] = {}
    rows = [{known.setdefault(w, len(known)) for w, _, _ in words_of(n)} for n in names]
    table = np.zeros((len(names), max(1, len(known))), np.float32)
    for i, row in enumerate(rows):
        table[i, list(row)] = 1
    common, sizes = table @ table.T, table.sum(1)
    inside = (common >= sizes[:, None]) & (sizes[None] > sizes[:, None]) & (sizes[:, None] > 0)
    either = np.maximum(sizes[:, None] + sizes[None] - common, 1)
    return inside.astype(np.float32), (common / either).astype(np.float32)
