"""Near duplicates among very many texts: MinHash signatures cut into bands, in bounded memory.

The Jaccard index of two sets is the chance that a random order of all elements puts the same one
first in both (Broder 1997). A signature is the first element under 120 orders; two texts whose
signatures agree in a whole band of six are candidates, and every candidate is checked exactly. With
20 bands a pair of Jaccard index 0.8 is a candidate with probability 0.998, one of 0.5 with 0.27.

A million texts take 80 MB, four bytes a band and text; signatures are not kept. Libraries were
measured first (docs/log.md): their indexes keep whole signatures, 2.3 GB and more a million texts.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.8  # Jaccard index from which two questions are the same
BANDS, DEPTH = 20, 6  # depth: orders that must agree within a band
CHUNK = 8192  # texts whose shingles are in memory at a time
SAMPLE = 2000  # texts by which shingles that most of them share are found
FEW = 8  # texts below which nothing is called frequent
_SEED = 20_011

_NUMBERS = re.compile(r"\d+(?:\.\d+)?")

Shingles = NDArray[np.uint32]  # (S,)
Tick = Callable[[float], None]


def shingles(text: str) -> Shingles:
    """Return hashes of the words (single characters in Chinese) and of their neighbouring pairs."""
    words = text.split()
    parts = {*words, *(f"{a} {b}" for a, b in pairwise(words))}
    hashes = (zlib.crc32(p.encode("utf-8", "surrogatepass")) for p in parts)
    return np.unique(np.fromiter(hashes, np.uint32, len(parts)))


def numbers(text: str) -> tuple[str, ...]:
    """Return the numbers of a text in their order; questions with others are other questions."""
    return tuple(_NUMBERS.findall(text))


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Return the shared part of two sets, 0..1; 0 of two empty ones."""
    return len(a & b) / len(a | b) if a or b else 0.0


def likely_pairs(
    texts: Sequence[str], tick: Tick = lambda share: None
) -> Iterator[tuple[int, int]]:
    """Yield index pairs of near duplicates, each exact in itself; about 2 in 1000 are missed.

    Args:
        texts: distinct and normalised; asked for one at a time, so they may lie on disk.
        tick: is told the share that is done, 0..1; what it raises ends the search.

    Yields:
        Pairs ``(earlier, later)`` that join all texts of a group, not every pair within it.
    """
    common = _common(texts)
    keys = _band_keys(texts, common, tick)

    @lru_cache(maxsize=4096)
    def known(i: int) -> tuple[tuple[str, ...], frozenset[int]]:
        return numbers(texts[i]), frozenset(_kept(texts[i], common).tolist())

    group = np.arange(len(texts))
    for band in range(BANDS):
        tick(0.7 + 0.3 * band / BANDS)
        for i, j in _collisions(keys[band]):
            if _find(group, i) == _find(group, j):
                continue
            (same, a), (other, b) = known(i), known(j)
            if same == other and jaccard(a, b) >= THRESHOLD:
                group[_find(group, j)] = _find(group, i)
                yield i, j


def _common(texts: Sequence[str]) -> Shingles:
    """Return the shingles of more than half of the texts: an instruction repeated in every row."""
    step = max(1, len(texts) // SAMPLE)
    sample = range(0, len(texts), step)
    counts: Counter[int] = Counter()
    for i in sample:
        counts.update(shingles(texts[i]).tolist())
    most = len(sample) / 2 if len(sample) >= FEW else len(sample)
    frequent = sorted(s for s, n in counts.items() if n > most)
    return np.array(frequent, np.uint32)


def _kept(text: str, common: Shingles) -> Shingles:
    found = shingles(text)
    return found[np.isin(found, common, invert=True)] if len(common) else found


def _band_keys(texts: Sequence[str], common: Shingles, tick: Tick) -> NDArray[np.uint32]:
    """Return one hash for each band and text, (BANDS, N); zero: the text has no shingles."""
    keys = np.zeros((BANDS, len(texts)), np.uint32)
    # multiply-shift hashing: an odd factor and a summand modulo 2^64, upper half (Dietzfelbinger)
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 2**63, BANDS * DEPTH, np.uint64) * np.uint64(2) + np.uint64(1)
    summands = random.integers(0, 2**63, BANDS * DEPTH, np.uint64)
    for start in range(0, len(texts), CHUNK):
        tick(0.7 * start / len(texts))
        chunk = [texts[i] for i in range(start, min(start + CHUNK, len(texts)))]
        rows = [_kept(t, common) for t in chunk]
        at = np.flatnonzero([len(r) for r in rows])
        if not len(at):
            continue
        flat = np.concatenate(rows).astype(np.uint64)
        begins = np.cumsum([0, *(len(rows[i]) for i in at[:-1])])
        figures = np.array([zlib.crc32(" ".join(numbers(chunk[i])).encode()) for i in at])
        for band in range(BANDS):
            key = figures.astype(np.uint64)
            for k in range(band * DEPTH, (band + 1) * DEPTH):
                orders = (flat * factors[k] + summands[k]) >> np.uint64(32)
                key = _mixed(key ^ np.minimum.reduceat(orders, begins))
            keys[band, start + at] = np.maximum(key >> np.uint64(32), 1)
    return keys


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = key * np.uint64(0x9E3779B97F4A7C15)
    mixed: NDArray[np.uint64] = key ^ (key >> np.uint64(29))
    return mixed


def _collisions(keys: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Yield, for each text of a bucket, its pair with the first one and with the one before."""
    order = np.argsort(keys, kind="stable")
    values = keys[order]
    same = np.flatnonzero((values[1:] == values[:-1]) & (values[1:] > 0)) + 1
    first, last = 0, -1
    for at in same.tolist():
        if at != last + 1:
            first = at - 1
        last = at
        yield int(order[first]), int(order[at])
        if first != at - 1:
            yield int(order[at - 1]), int(order[at])


def _find(group: NDArray[np.int64], i: int) -> int:
    """Return the text that stands for the group of ``i`` (union-find with path halving)."""
    while group[i] != i:
        group[i] = group[group[i]]
        i = int(group[i])
    return i
