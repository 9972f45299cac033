"""Where concepts stand on the drawing: what comes first on the left, no two in one place."""

from itertools import pairwise

import numpy as np
import pytest

from core.graph.document import MapDocument, without_cycles
from core.graph.layout import CELL, WAYS, layout, needed_for
from core.graph.types import Concept, ConceptMap, Relation


def made(concepts: int, relations: int, seed: int = 0) -> ConceptMap:
    """A map of this size, its relations at random but without circles."""
    draw = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(concepts)]
    edges = {}
    while len(edges) < relations:
        a, b = sorted(draw.choice(concepts, 2, replace=False))
        edges[a, b] = Relation(names[a], names[b], "prerequisite", float(draw.uniform(0.5, 1)))
    listed = without_cycles(edges.values())
    return ConceptMap("made", "en", concepts=tuple(Concept(n, n) for n in names), relations=listed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(1, 0), (7, 0), (40, 30), (300, 420)])
def test_every_concept_has_a_place_of_its_own(way: str, size: tuple[int, int]) -> None:
    found = made(*size)
    places = layout(found, way)
    assert set(places) == {c.id for c in found.concepts}
    at = sorted(places.values())
    assert all(abs(a[0] - b[0]) >= CELL[0] - 1 or abs(a[1] - b[1]) >= CELL[1] / 2 - 1
               for a, b in pairwise(at))  # fmt: skip
    assert len(set(at)) == size[0]
    assert layout(found, way) == places


def test_what_comes_first_stands_on_the_left() -> None:
    found = made(120, 160)
    places = layout(found)
    for r in found.relations:
        assert places[r.source][0] < places[r.target][0]


@pytest.mark.parametrize("way", WAYS)
def test_a_drawing_of_300_concepts_is_no_endless_strip(way: str) -> None:
    at = np.array(list(layout(made(300, 420), way).values()))
    wide, high = np.ptp(at, axis=0) + CELL
    assert 0.4 < wide / high < 6


def test_a_star_is_folded_into_columns() -> None:
    hub = Concept("hub", "hub")
    rays = tuple(Concept(f"r{i}", f"r{i}") for i in range(60))
    edges = tuple(Relation("hub", c.id, "prerequisite") for c in rays)
    at = layout(ConceptMap("star", "en", concepts=(hub, *rays), relations=edges))
    assert max(y for _, y in at.values()) < 30 * CELL[1]
    assert all(at["hub"][0] < at[c.id][0] for c in rays)


def test_what_is_needed_for_a_concept_goes_all_the_way_back(small: MapDocument) -> None:
    found = small.current()
    ids = {c.name: c.id for c in found.concepts}
    wanted = {ids[n] for n in ("ratio", "fraction", "denominator", "numerator")}
    assert needed_for(found, ids["ratio"]) == wanted
    assert needed_for(found, ids["polygon"]) == {ids["polygon"]}
    assert set(layout(found, only=wanted)) == wanted


def test_related_concepts_stand_nearer_than_others() -> None:
    groups = [[f"g{g}n{i}" for i in range(8)] for g in range(4)]
    edges = tuple(Relation(a, b, "part-of") for own in groups for a in own for b in own if a < b)
    concepts = tuple(Concept(n, n) for own in groups for n in own)
    at = layout(ConceptMap("groups", "en", concepts=concepts, relations=without_cycles(edges)),
                "near")  # fmt: skip

    def apart(a: str, b: str) -> float:
        return float(np.hypot(at[a][0] - at[b][0], at[a][1] - at[b][1]))

    inside = [apart(a, b) for own in groups for a in own for b in own if a != b]
    across = [apart(a, b) for a in groups[0] for b in groups[2]]
    assert np.mean(inside) < 0.8 * np.mean(across)


def test_an_unknown_way_is_drawn_by_order(small: MapDocument) -> None:
    assert layout(small.current(), "spiral") == layout(small.current(), "order")
