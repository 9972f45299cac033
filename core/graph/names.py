"""Names in texts: where they stand, and which are the same. No torch in here.

A text is cut as :func:`core.data.split.normalised` does: words, numbers, and single characters in
Chinese. Names are compared word by word without case, width and plural, so that ``Fractions`` is
found under ``fraction``, and only whole words count in languages that have spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from core.graph.types import Mention, Passage, key_of

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{_CJK}]|[^\W\d_{_CJK}]+")
# "adaptive rejection sampling (ARS)", "联合国（UN）"
_SHORT = re.compile(rf"([\w{_CJK}][\w{_CJK} -]{{3,80}}?)\s*[(（]([A-Za-z][\w-]{{1,9}})[)）]")

Word = tuple[str, int, int]  # compared form, start, end


def words_of(text: str) -> list[Word]:
    """The words of a text as they are compared, with their characters' places."""
    found = []
    for match in _TOKEN.finditer(text):
        word = unicodedata.normalize("NFKC", match[0]).casefold()
        found.append((key_of(word) if word.isascii() else word, match.start(), match.end()))
    return found


def mentions_in(
    names: Mapping[str, str], passages: Sequence[Passage]
) -> dict[str, tuple[Mention, ...]]:
    """Where names stand, the longest first where they overlap.

    Args:
        names: surface form -> what it is a name of.
        passages: the texts.

    Returns:
        Mentions by what they mention, in the order of the text; what is not found is absent.
    """
    starts: defaultdict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for surface, owner in names.items():
        parts = tuple(word for word, _, _ in words_of(surface))
        if parts:
            starts[parts[0]].append((parts, owner))
    for candidates in starts.values():
        candidates.sort(key=lambda c: (-len(c[0]), c))
    found: defaultdict[str, list[Mention]] = defaultdict(list)
    for passage in passages:
        words = words_of(passage.text)
        forms = [word for word, _, _ in words]
        at = 0
        while at < len(words):
            for parts, owner in starts.get(forms[at], ()):
                if tuple(forms[at : at + len(parts)]) == parts:
                    end = words[at + len(parts) - 1][2]
                    found[owner].append(Mention(passage.id, words[at][1], end))
                    at += len(parts) - 1
                    break
            at += 1
    return {owner: tuple(mentions) for owner, mentions in found.items()}


def short_forms(texts: Iterable[str]) -> dict[str, str]:
    """Abbreviations that a text introduces in brackets: key of the short form -> long form.

    Only where the short form's letters begin words of the long one, in order.
    """
    found: dict[str, str] = {}
    for text in texts:
        for match in _SHORT.finditer(text):
            words = re.split(r"[\s-]+", match[1].strip())
            letters = [c for c in match[2].casefold() if c.isalpha()]
            tail = words[-len(letters) :]
            if len(letters) > 1 and [w[:1].casefold() for w in tail] == letters:
                found.setdefault(key_of(match[2]), " ".join(tail))
    return found


def alias_groups(counts: Mapping[str, int], shorts: Mapping[str, str]) -> dict[str, str]:
    """Which surface forms are one: surface -> the form that stands for it (the most frequent).

    Args:
        counts: how often each surface form stands in the text.
        shorts: from :func:`short_forms`.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for surface in counts:
        key = key_of(surface)
        groups[key_of(shorts[key]) if key in shorts else key].append(surface)
    chosen: dict[str, str] = {}
    for key, forms in groups.items():
        # The long form names it, of its spellings the most frequent, then the shortest.
        own = [f for f in forms if key_of(f) == key] or forms
        best = min(own, key=lambda f: (-counts[f], len(f), f))
        chosen |= dict.fromkeys(forms, best)
    return chosen
