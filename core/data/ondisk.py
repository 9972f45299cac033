"""The quiz of a class that lies on disk: the same split as of a small class, in bounded memory.

Kept of a million examples are hashes: 8 bytes of each question, 32 of each example, and what the
search for near duplicates keeps (:mod:`core.data.near`). The sides are places in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.data import split as small
from core.data.arrow import Chosen, TextsOf
from core.data.near import likely_pairs
from core.data.split import Split, asked, normalised
from core.data.types import Example, data_sha256

Places = NDArray[np.int64]
Tick = Callable[[float], None]


def split_on_disk(
    examples: Sequence[Example],
    *,
    share: float,
    largest: int,
    seed: int,
    tick: Tick = lambda share: None,
) -> Split:
    """Split a quiz off as :func:`core.data.split.split` does, whole groups at a time.

    Args:
        examples: the class, on disk.
        share: wanted part of the examples, 0..0.5.
        largest: most quiz questions.
        seed: another seed, another quiz.
        tick: is told the share that is done, 0..1; what it raises ends the work.

    Returns:
        Both sides, on disk as well.
    """
    if len(examples) <= small.MOST_EXACT:
        return small.split(tuple(examples), share=share, largest=largest, seed=seed)
    everything = np.arange(len(examples))
    if share <= 0 or largest <= 0:
        return Split(Chosen(examples, everything), ())
    group, digests = _grouped(examples, tick)
    count = len(np.unique(group))
    if count < small.TOO_FEW_GROUPS:
        return Split(Chosen(examples, everything), (), (small.no_quiz(count),))
    wanted = max(1, min(round(share * len(examples)), largest))
    quiz = _chosen(group, digests, wanted, seed)
    kept = np.setdiff1d(everything, quiz, assume_unique=True)
    few = (small.small_quiz(count, len(quiz)),) if count < small.FEW_GROUPS else ()
    tick(1.0)
    return Split(Chosen(examples, kept), tuple(Chosen(examples, quiz)), few)


def _grouped(examples: Sequence[Example], tick: Tick) -> tuple[Places, NDArray[np.uint8]]:
    """Return the group of each example, (N,), and SHA-256s of the examples, (N, 32)."""
    n = len(examples)
    questions = np.zeros(n, np.uint64)
    digests = np.zeros((n, 32), np.uint8)
    for i, example in enumerate(examples):
        if i % 4096 == 0:
            tick(0.3 * i / n)
        text = normalised(asked(example)).encode("utf-8", "surrogatepass")
        questions[i] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        digests[i] = np.frombuffer(bytes.fromhex(data_sha256([example])), np.uint8)
    _, first, distinct = np.unique(questions, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # in the order of the file, so that it is read through
    texts = TextsOf(Chosen(examples, first[order]), lambda e: normalised(asked(e)))
    root = np.arange(len(first))
    for a, b in likely_pairs(texts, lambda done: tick(0.3 + 0.6 * done)):
        x, y = sorted((_find(root, int(order[a])), _find(root, int(order[b]))))
        root[y] = x
    groups = np.array([_find(root, i) for i in range(len(root))])
    return groups[distinct], digests


def _find(root: Places, i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = int(root[i])
    return i


def _chosen(group: Places, digests: NDArray[np.uint8], wanted: int, seed: int) -> Places:
    """Return the places of the quiz: groups in an order of the seed's, as long as they fit."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    draws = np.zeros(len(starts), "S32")
    for k, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        texts = sorted(digests[i].tobytes().hex() for i in order[a:b])
        drawn = hashlib.sha256(f"{seed} {' '.join(texts)}".encode())
        draws[k] = drawn.hexdigest()[:32].encode()
    chosen: list[int] = []
    by_draw = np.argsort(draws, kind="stable")
    for k in by_draw.tolist():
        if len(chosen) + ends[k] - starts[k] <= wanted:
            chosen += order[starts[k] : ends[k]].tolist()
        if len(chosen) == wanted:
            break
    if not chosen:
        k = min(by_draw.tolist(), key=lambda k: int(ends[k] - starts[k]))
        chosen = order[starts[k] : ends[k]].tolist()
    return np.sort(np.array(chosen, np.int64))
