"""Who a sentence speaks about, and which sentences explain what. No torch in here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from core.graph.phrases import subject_of
from core.graph.types import GLOSSARY, QUESTION, TITLE, Concept, Passage


def subjects(passage: Passage, spans: Sequence[tuple[int, int, str]]) -> list[tuple[str, bool]]:
    """The concepts that a passage is about, and whether it explains them.

    Args:
        passage: the text.
        spans: start, end and owner of the concepts in it, in order.
    """
    if passage.role == TITLE:
        return [(owner, True) for _, _, owner in spans]
    subject = subject_of(passage)
    if subject is not None:
        inside = [o for a, b, o in spans if a < subject[1] and b > subject[0]]
        if inside:
            return [(inside[-1], True)]
    if passage.role in (QUESTION, GLOSSARY):
        return [(spans[0][2], False)]
    return []


def explanations(
    concepts: Sequence[Concept], passages: Sequence[Passage]
) -> Mapping[str, list[int]]:
    """Passages that explain a concept, by its id; questions explain nothing."""
    spans: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for c in concepts:
        for m in c.mentions:
            spans[m.passage].append((m.start, m.end, c.id))
    found: defaultdict[str, list[int]] = defaultdict(list)
    for p in passages:
        if p.role == QUESTION or p.id not in spans:
            continue
        for concept, explains in subjects(p, sorted(spans[p.id])):
            if explains:
                found[concept].append(p.id)
    return found
