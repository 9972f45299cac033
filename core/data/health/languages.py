"""Which rows are written in another script or language than most.

Scripts come from Unicode names; languages of the Latin script from their most frequent small words.
What counts as "another" is our interpretation: a pair (question, answer) that fewer than a tenth of
the class share. A class of vocabulary, English to Chinese throughout, is therefore of one kind.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter

import numpy as np

FEWEST = 20  # examples below which no language is the usual one
RARE = 0.1

_SCRIPTS = (
    ("kana", re.compile("[\u3040-\u30ff]")),
    ("hangul", re.compile("[\uac00-\ud7af]")),
    ("han", re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("cyrillic", re.compile("[\u0400-\u04ff]")),
    ("greek", re.compile("[\u0370-\u03ff]")),
    ("arabic", re.compile("[\u0600-\u06ff]")),
    ("hebrew", re.compile("[\u0590-\u05ff]")),
    ("devanagari", re.compile("[\u0900-\u097f]")),
    ("thai", re.compile("[\u0e00-\u0e7f]")),
)
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")
# Words of several languages say nothing.
_SHARED = {"la", "un", "en", "e", "y", "no", "que", "in", "war", "die", "per", "se", "come", "des"}
_SMALL = {
    word: language
    for language, words in {
        "en": "the and of is are was were to in that it what which how why with for on by from",
        "de": "der die das und ist sind war nicht ein eine mit für von wie warum welche den im",
        "fr": "le la les et est sont une des du dans que qui pour pas avec sur quelle quel comment",
        "es": "el los las y es son una del en que para con por cuál cómo qué no se",
        "it": "il lo gli e è sono una della nel che per con quale come non di",
    }.items()
    for word in words.split()
    if word not in _SHARED
}
LEAST_LETTERS, LEAST_HITS = 2, 3


def kind_of(text: str) -> str:
    """Return the script of most letters, and of Latin texts the language if it is sure."""
    words = _LATIN.findall(text)
    letters = sum(map(len, words))
    if not text.isascii():
        counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
        best = max(counts, key=lambda name: counts[name])
        # Chinese writes a word in one or two characters where Latin needs five letters
        if counts[best] >= LEAST_LETTERS and counts[best] * 3 > letters:
            return "kana" if counts["kana"] else best
    if letters < LEAST_LETTERS:
        return ""
    hits = [_SMALL[w] for w in map(str.lower, words) if w in _SMALL]
    if len(hits) < LEAST_HITS:
        return "latin"
    ranked = Counter(hits).most_common(2)
    sure = ranked[0][1] >= LEAST_HITS and (len(ranked) < 2 or ranked[0][1] >= 2 * ranked[1][1])
    return f"latin {ranked[0][0]}" if sure else "latin"


class Languages:
    """Gathers a byte a row; :meth:`odd` names the rows that differ from most."""

    def __init__(self) -> None:
        """Start with no row."""
        self._kinds: dict[tuple[str, str], int] = {}
        self._rows = array("H")

    def see(self, question: str, answer: str) -> None:
        """Take in the next example."""
        kind = kind_of(question[:2000]), kind_of(answer[:2000])
        self._rows.append(self._kinds.setdefault(kind, len(self._kinds)))

    def odd(self) -> list[int]:
        """Return the rows whose languages are neither the usual ones nor left open."""
        rows = np.frombuffer(self._rows, np.uint16)
        if len(rows) < FEWEST:
            return []
        kinds = list(self._kinds)
        counts = np.bincount(rows, minlength=len(kinds))
        usual = [kind for kind, n in zip(kinds, counts, strict=True) if n >= RARE * len(rows)]
        odd = [i for i, kind in enumerate(kinds) if not any(_agree(kind, u) for u in usual)]
        if not usual or not odd:
            return []
        found: list[int] = np.flatnonzero(np.isin(rows, odd)).tolist()
        return found


def _agree(kind: tuple[str, str], usual: tuple[str, str]) -> bool:
    """Say whether nothing that is known of a row speaks against the usual kind.

    A Latin text without small words may be of any Latin language, and a number of any script.
    """

    def same(a: str, b: str) -> bool:
        return not a or not b or a == b or (a.startswith("latin") and "latin" in (a, b))

    return same(kind[0], usual[0]) and same(kind[1], usual[1])
