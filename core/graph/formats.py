"""A map as files for other programs: JSON, GraphML, CSV. No torch in here."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

import networkx as nx

from core.data.formula import protected
from core.errors import ConfigError
from core.graph.types import ConceptMap
from core.graph.use import gap_values, report

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_json(found: ConceptMap) -> bytes:
    """The map with its texts, gaps and order, as ``graph --json`` prints it."""
    text = json.dumps(report(found), ensure_ascii=False, indent=2)
    return text.encode("utf-8", "replace")


def to_graphml(found: ConceptMap) -> bytes:
    """Concepts and relations in GraphML (http://graphml.graphdrawing.org), for graph programs."""
    graph = nx.MultiDiGraph(name=_xml(found.name))
    values = gap_values(found)
    for c in found.concepts:
        graph.add_node(
            c.id,
            label=_xml(c.name),
            kind=c.kind,
            aliases=_xml("; ".join(c.aliases)),
            confidence=float(c.confidence),
            state=c.state,
            mentions=len(c.mentions),
            gap=float(values[c.id]),
        )
    for r in found.relations:
        facts = {"kind": r.kind, "confidence": float(r.confidence), "state": r.state}
        graph.add_edge(r.source, r.target, **facts)
    return "\n".join(nx.generate_graphml(graph)).encode()


def _xml(text: str) -> str:
    """A text without the characters that XML does not allow."""
    return _NOT_XML.sub(" ", text)


def concepts_csv(found: ConceptMap) -> bytes:
    """A row for each concept: UTF-8 with a BOM for spreadsheets, no cell a formula."""
    values = gap_values(found)
    rows = [["id", "name", "kind", "aliases", "confidence", "state", "mentions", "gap"]]
    for c in found.concepts:
        numbers = [f"{c.confidence:.3f}", c.state, str(len(c.mentions)), f"{values[c.id]:.4f}"]
        rows.append([c.id, c.name, c.kind, "; ".join(c.aliases), *numbers])
    return _csv(rows)


def relations_csv(found: ConceptMap) -> bytes:
    """A row for each relation, as :func:`concepts_csv`."""
    names = {c.id: c.name for c in found.concepts}
    rows = [["source", "relation", "target", "confidence", "state", "evidence"]]
    for r in found.relations:
        texts = " / ".join(found.passages[p].text for p in r.evidence[:3])
        sides = [names[r.source], r.kind, names[r.target]]
        rows.append([*sides, f"{r.confidence:.3f}", r.state, texts])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        writer.writerow([protected(cell) for cell in row])
    return text.getvalue().encode("utf-8-sig", "replace")


FORMATS: dict[str, tuple[tuple[str, Callable[[ConceptMap], bytes]], ...]] = {
    "json": (("map.json", to_json),),
    "graphml": (("map.graphml", to_graphml),),
    "csv": (("concepts.csv", concepts_csv), ("relations.csv", relations_csv)),
}


def files_of(found: ConceptMap, form: str) -> dict[str, bytes]:
    """The files of a format by their names.

    Raises:
        ConfigError: if there is no such format.
    """
    if form not in FORMATS:
        raise ConfigError(
            f"A map is not written as {form[:40]!a}.",
            where="format",
            action=f"Choose {', '.join(FORMATS)}.",
            code="graph.format",
        )
    return {name: make(found) for name, make in FORMATS[form]}
