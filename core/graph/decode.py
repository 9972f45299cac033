"""From scores of pairs to the edges of a map: no cycles, and for show no detours. No torch.

An edge that is kept is likelier than its threshold; where edges of a kind would go round in a
circle, the weakest of the circle is left out, never one of the teacher's. What is shown leaves out
prerequisites that follow from others (transitive reduction).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import networkx as nx

from core.graph.document import strength, without_cycles
from core.graph.types import RELATIONS, Relation

MOST = 6  # found prerequisites that a concept keeps, the surest


def decode(
    found: Iterable[Relation], fixed: Sequence[Relation], thresholds: dict[str, float]
) -> tuple[Relation, ...]:
    """The edges of a map.

    Args:
        found: candidates with their confidence, in any order.
        fixed: the teacher's, which all stay.
        thresholds: least confidence by kind.

    Returns:
        Surest first. Between two concepts there is at most one found edge.
    """
    taken = {frozenset((r.source, r.target)) for r in fixed}
    into: dict[tuple[str, str], int] = {}
    kept = []
    for r in sorted(found, key=lambda r: (-r.confidence, r.key)):
        place, both = (r.kind, r.target), frozenset((r.source, r.target))
        if r.source == r.target or both in taken or r.confidence < thresholds.get(r.kind, 0.5):
            continue
        if into.get(place, 0) < MOST:
            taken.add(both)
            into[place] = into.get(place, 0) + 1
            kept.append(r)
    whole = without_cycles((*fixed, *kept))
    return tuple(sorted(whole, key=lambda r: (not strength(r)[0], -r.confidence, r.key)))


def is_acyclic(relations: Iterable[Relation]) -> bool:
    """Whether no kind of edge goes round in a circle."""
    edges = list(relations)
    return all(nx.is_directed_acyclic_graph(graph_of(edges, kind)) for kind in RELATIONS)


def graph_of(relations: Iterable[Relation], *kinds: str) -> nx.DiGraph:
    """Edges of some kinds as a graph, with the confidence as ``p``."""
    graph = nx.DiGraph()
    for r in relations:
        if r.kind in kinds:
            p = max(r.confidence, graph.get_edge_data(r.source, r.target, {"p": 0})["p"])
            graph.add_edge(r.source, r.target, p=p)
    return graph


def shown(relations: Sequence[Relation]) -> tuple[Relation, ...]:
    """Edges without prerequisites that follow from others; the teacher's own stay."""
    graph = graph_of(relations, RELATIONS[0])
    if not nx.is_directed_acyclic_graph(graph):
        return tuple(relations)
    needed = set(nx.transitive_reduction(graph).edges)
    return tuple(
        r
        for r in relations
        if r.kind != RELATIONS[0] or (r.source, r.target) in needed or strength(r)[0]
    )


def confident(relation: Relation, factor: float) -> Relation:
    """The same edge with its confidence multiplied, within 0..1."""
    return replace(relation, confidence=min(1.0, max(0.0, relation.confidence * factor)))
