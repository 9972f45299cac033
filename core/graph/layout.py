"""Where the concepts of a map stand when it is drawn. No torch in here.

Two ways: ``order`` puts what comes first on the left, a column for each step of prerequisites;
``near`` puts together what is related or asked about together (Fruchterman and Reingold's forces,
networkx's). Both leave room for names: a cell is :data:`CELL` units wide and high, and no two
concepts share one. The same map gives the same drawing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import networkx as nx
import numpy as np

from core.graph.decode import graph_of, shown
from core.graph.types import RELATIONS, ConceptMap
from core.graph.use import asked_by_concept, teaching_order

WAYS = ("order", "near")
CELL = (190.0, 34.0)  # units: a name of 24 characters, and air
ASPECT = 1.3  # width of a drawing by its height
WIDER = 3.0  # how far a drawing is drawn apart at most
SWEEPS = 6  # over the columns, to bring what is related to one height
EVEN = 0.75  # how evenly ``near`` fills the drawing, 0..1
_TOGETHER = 40  # concepts of one question beyond which it says nothing about closeness

Place = tuple[float, float]


def layout(
    found: ConceptMap, way: str = WAYS[0], only: Iterable[str] | None = None
) -> dict[str, Place]:
    """Return x and y (downwards) of every concept, by its id.

    Args:
        found: the map.
        way: ``order`` or ``near``.
        only: ids of the concepts to draw; None: all.
    """
    wanted = set(only) if only is not None else {c.id for c in found.concepts}
    order = [c for c in teaching_order(found) if c in wanted]
    return _spread(_near(found, order) if way == WAYS[1] else _ordered(found, order))


def _spread(places: dict[str, Place]) -> dict[str, Place]:
    """Draw a flat or a narrow drawing apart, so that it fills a screen and names have room."""
    if not places:
        return places
    wide = max(x for x, _ in places.values()) + CELL[0]
    high = max(y for _, y in places.values()) + CELL[1]
    by = wide / high / ASPECT
    across, down = min(WIDER, max(1.0, 1 / by)), min(WIDER, max(1.0, by))
    return {c: (x * across, y * down) for c, (x, y) in places.items()}


def needed_for(found: ConceptMap, concept: str) -> set[str]:
    """A concept with everything that comes before it, and what it directly prepares for."""
    graph = graph_of(found.relations, RELATIONS[0])
    if concept not in graph:
        return {concept}
    return {concept, *nx.ancestors(graph, concept), *graph.successors(concept)}


# --- by order ------------------------------------------------------------------------------------


def _ordered(found: ConceptMap, order: Sequence[str]) -> dict[str, Place]:
    """Every connected part in columns by depth; parts and single concepts packed in shelves."""
    graph = nx.DiGraph()
    graph.add_nodes_from(order)
    inside = graph.nodes.keys()
    edges = [r for r in shown(found.relations) if r.source in inside and r.target in inside]
    graph.add_edges_from((r.source, r.target) for r in edges if r.kind == RELATIONS[0])
    # The others only tie parts together: a part stands beside what it is a part of.
    tied = nx.Graph(graph)
    tied.add_edges_from((r.source, r.target) for r in edges)
    rank = {c: i for i, c in enumerate(order)}
    parts = sorted(nx.connected_components(tied), key=lambda p: (-len(p), min(rank[c] for c in p)))
    tallest = max(4, math.ceil(math.sqrt(len(order) * CELL[0] / CELL[1] / ASPECT)))
    blocks = [_columns(graph.subgraph(p), rank, tallest) for p in parts if len(p) > 1]
    single = [next(iter(p)) for p in parts if len(p) == 1]
    return _shelves(blocks, sorted(single, key=rank.__getitem__), len(order))


def _columns(graph: nx.DiGraph, rank: Mapping[str, int], tallest: int) -> dict[str, Place]:
    """One part: a column (or several, where it is tall) for each depth, in cells from (0, 0)."""
    depth: dict[str, int] = {}
    for c in nx.lexicographical_topological_sort(graph, key=rank.__getitem__):
        depth[c] = max((depth[b] + 1 for b in graph.predecessors(c)), default=0)
    layers: defaultdict[int, list[str]] = defaultdict(list)
    for c in sorted(depth, key=rank.__getitem__):
        layers[depth[c]].append(c)
    both = nx.Graph(graph)
    height = {c: (i + 0.5) / len(own) for own in layers.values() for i, c in enumerate(own)}
    for sweep in range(SWEEPS):
        for d in sorted(layers, reverse=bool(sweep % 2)):
            # Barycentres (Sugiyama et al. 1981): as high as the neighbours' mean.
            means = {c: _mean([height[n] for n in both[c]], height[c]) for c in layers[d]}
            layers[d].sort(key=lambda c, m=means: (m[c], rank[c]))  # type: ignore[misc]
            height |= {c: (i + 0.5) / len(layers[d]) for i, c in enumerate(layers[d])}
    return _cells([layers[d] for d in sorted(layers)], tallest)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _cells(layers: Sequence[Sequence[str]], tallest: int) -> dict[str, Place]:
    """Put layers into columns of at most ``tallest`` rows, each in the middle."""
    columns: list[Sequence[str]] = []
    for own in layers:
        wide = math.ceil(len(own) / tallest)
        rows = math.ceil(len(own) / wide)
        columns += [own[i * rows : (i + 1) * rows] for i in range(wide)]
    most = max(map(len, columns))
    return {
        c: (float(x), y + (most - len(own)) / 2)
        for x, own in enumerate(columns)
        for y, c in enumerate(own)
    }


def _shelves(
    blocks: Sequence[Mapping[str, Place]], single: Sequence[str], count: int
) -> dict[str, Place]:
    """Pack blocks side by side in rows, the largest first, single concepts underneath."""
    widths = [1 + max(x for x, _ in b.values()) for b in blocks]
    fair = math.sqrt(count * ASPECT * CELL[1] / CELL[0])
    width = max([*widths, math.ceil(fair), 3])
    placed: dict[str, Place] = {}
    x = y = high = 0.0
    for block, wide in zip(blocks, widths, strict=True):
        if x and x + wide > width:
            x, y, high = 0.0, y + high + 1, 0.0
        placed |= {c: (x + a, y + b) for c, (a, b) in block.items()}
        high = max(high, 1 + max(b for _, b in block.values()))
        x += wide
    y += high + 1 if blocks else 0.0
    across = max(1, int(width))
    placed |= {c: (float(i % across), y + i // across) for i, c in enumerate(single)}
    return {c: (a * CELL[0], b * CELL[1]) for c, (a, b) in placed.items()}


# --- by closeness --------------------------------------------------------------------------------


def _near(found: ConceptMap, order: Sequence[str]) -> dict[str, Place]:
    """Forces over relations and common questions, then each to the nearest free cell."""
    if not order:
        return {}
    graph = nx.Graph()
    graph.add_nodes_from(order)
    for (a, b), n in _together(found).items():
        if a in graph and b in graph:
            graph.add_edge(a, b, weight=0.3 * math.log1p(n))
    for r in shown(found.relations):
        if r.source in graph and r.target in graph:
            before = graph.get_edge_data(r.source, r.target, {"weight": 0.0})["weight"]
            graph.add_edge(r.source, r.target, weight=before + r.confidence)
    side = math.ceil(math.sqrt(len(order)))
    start = {c: (i % side / side, i // side / side) for i, c in enumerate(order)}
    spread = 1.6 / math.sqrt(len(order))
    at = nx.spring_layout(graph, pos=start, k=spread, iterations=60, weight="weight", seed=0)
    return _snapped({c: (float(x), float(y)) for c, (x, y) in at.items()}, order)


def _together(found: ConceptMap) -> Counter[tuple[str, str]]:
    """In how many questions two concepts stand together."""
    of: defaultdict[int, list[str]] = defaultdict(list)
    for concept, questions in asked_by_concept(found).items():
        for i in questions:
            of[i].append(concept)
    pairs: Counter[tuple[str, str]] = Counter()
    for named in of.values():
        if len(named) <= _TOGETHER:
            pairs.update(combinations(sorted(named), 2))
    return pairs


def _snapped(at: Mapping[str, Place], order: Sequence[str]) -> dict[str, Place]:
    """Every concept in a cell of its own, near to where the forces put it."""
    rows = math.ceil(math.sqrt(3 * len(order) * CELL[0] / CELL[1] / ASPECT))
    columns = math.ceil(3 * len(order) / rows)
    points = np.array([at[c] for c in order])
    low, size = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-9)
    # Forces crowd the middle: mostly by rank, so that all of the drawing is used.
    ranks = points.argsort(0).argsort(0) / max(1, len(order) - 1)
    wanted = (EVEN * ranks + (1 - EVEN) * (points - low) / size) * (columns - 1, rows - 1)
    cells = np.array([(x, y) for x in range(columns) for y in range(rows)], float)
    free = np.ones(len(cells), bool)
    placed = {}
    for i, c in enumerate(order):
        away = (((cells - wanted[i]) * CELL) ** 2).sum(1)
        best = int(np.where(free, away, np.inf).argmin())
        free[best] = False
        placed[c] = (float(cells[best][0] * CELL[0]), float(cells[best][1] * CELL[1]))
    return placed
