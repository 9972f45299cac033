"""A small map made by hand, that needs no model."""

import pytest

from core.data.types import Example
from core.graph.document import MapDocument
from core.graph.material import passages_of
from core.graph.names import mentions_in
from core.graph.types import Concept, ConceptMap, Relation, concept_id
from tests.graph.small import CLASS, NAMES

EDGES = [("denominator", "fraction", 0.9), ("numerator", "fraction", 0.8)]
EDGES += [("fraction", "ratio", 0.7)]


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [Example.pair(q, a, f"row {i}") for i, (q, a) in enumerate(CLASS, 2)]


@pytest.fixture(scope="session")
def small(examples: list[Example]) -> MapDocument:
    passages, questions = passages_of(examples)
    found = mentions_in({n: n for n in NAMES}, passages)
    concepts = tuple(Concept(concept_id(n), n, mentions=found.get(n, ())) for n in NAMES)
    relations = tuple(
        Relation(concept_id(a), concept_id(b), "prerequisite", p) for a, b, p in EDGES
    )
    return MapDocument(ConceptMap("fractions", "en", passages, questions, concepts, relations))
