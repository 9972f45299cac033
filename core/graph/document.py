"""A map as a file: what was found, every correction of the teacher, undo. No torch in here.

The state that is shown is a fold: what was found (``base``) with the ``edits`` applied in order.
Undo takes the last edit away and keeps it for redo; the version is the number of edits. A new
search for concepts replaces ``base`` and applies the same edits again, so that no correction is
lost; those that no longer find what they speak of are kept and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx

from core.errors import ConfigError, DataError
from core.graph.types import (
    ADDED,
    CONFIRMED,
    KINDS,
    RELATIONS,
    Concept,
    ConceptMap,
    Relation,
    concept_id,
    key_of,
    merged_mentions,
    renamed,
)
from core.whole import write_whole

FORMAT = 1
LONGEST_NAME = 120  # characters


@dataclass(frozen=True)
class Edit:
    """One correction.

    Attributes:
        op: a key of :data:`OPERATIONS`.
        concept: id of the concept it is about; of an edge its source.
        other: id of a second concept (of a merge the one that stays; of an edge its target).
        text: a name, or a kind.
    """

    op: str
    concept: str = ""
    other: str = ""
    text: str = ""


@dataclass(frozen=True)
class MapDocument:
    """A map with its history. Every change gives a new document.

    Attributes:
        base: what was found in the class.
        edits: the teacher's corrections, in order.
        undone: corrections taken back, the last one first to come again.
        unapplied: corrections that the present ``base`` has no place for; kept.
    """

    base: ConceptMap
    edits: tuple[Edit, ...] = ()
    undone: tuple[Edit, ...] = ()
    unapplied: tuple[Edit, ...] = ()

    @property
    def version(self) -> int:
        """Number of corrections that hold."""
        return len(self.edits)

    def current(self) -> ConceptMap:
        """The map with all corrections."""
        found = self.base
        for edit in self.edits:
            found = apply(found, edit)
        return found

    def edit(self, edit: Edit) -> MapDocument:
        """Correct the map.

        Raises:
            ConfigError: if the correction makes no sense here.
        """
        apply(self.current(), edit)
        return replace(self, edits=(*self.edits, edit), undone=())

    def undo(self) -> MapDocument:
        """Take the last correction back; nothing happens if there is none."""
        if not self.edits:
            return self
        return replace(self, edits=self.edits[:-1], undone=(*self.undone, self.edits[-1]))

    def redo(self) -> MapDocument:
        """Bring the correction back that was taken back last; nothing happens without one."""
        if not self.undone:
            return self
        return replace(self, edits=(*self.edits, self.undone[-1]), undone=self.undone[:-1])

    def rebased(self, base: ConceptMap) -> MapDocument:
        """The same corrections over a map that was found anew."""
        state, kept, lost = base, [], []
        for was in (*self.edits, *self.unapplied):
            edit = _as_found(state, was)
            try:
                state = apply(state, edit)
            except ConfigError:
                lost.append(edit)
            else:
                kept.append(edit)
        return MapDocument(base, tuple(kept), (), tuple(lost))

    def to_json(self) -> dict[str, Any]:
        """Return plain values: ``format``, ``version``, ``base`` and the three lists."""
        lists = {
            name: [asdict(e) for e in getattr(self, name)]
            for name in ("edits", "undone", "unapplied")
        }
        return {"format": FORMAT, "version": self.version, "base": self.base.to_json(), **lists}

    @staticmethod
    def from_json(tree: Any, where: str = "") -> MapDocument:
        """Rebuild from :meth:`to_json`.

        Raises:
            DataError: if it is no map, or one of another version of the studio.
        """
        if not isinstance(tree, dict) or "base" not in tree:
            raise _no_map(where)
        if tree.get("format") != FORMAT:
            raise DataError(
                "This concept map was saved by another version of the studio.",
                where=where,
                action="Open it with the version that made it, or make the map again.",
                code="graph.version",
            )
        try:
            edits, undone, unapplied = (
                tuple(Edit(**{k: str(v) for k, v in e.items()}) for e in tree.get(name, []))
                for name in ("edits", "undone", "unapplied")
            )
            document = MapDocument(ConceptMap.from_json(tree["base"]), edits, undone, unapplied)
            document.current()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise _no_map(where) from error
        return document


def _as_found(found: ConceptMap, edit: Edit) -> Edit:
    """What a correction means where the search has found an added concept by itself."""
    if edit.op == "add" and (known := found.named(edit.text)) is not None:
        if edit.other in KINDS:
            return Edit("kind", known.id, text=edit.other)
        return Edit("confirm", known.id)
    return edit


def save(document: MapDocument, path: Path) -> None:
    """Write a map, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(document.to_json(), ensure_ascii=False, indent=1)
    write_whole(path, text.encode("utf-8", "surrogatepass"))


def load(path: Path) -> MapDocument:
    """Read what :func:`save` wrote.

    Raises:
        DataError: if the file is missing, damaged or no map.
    """
    try:
        tree = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except (OSError, ValueError) as error:
        raise _no_map(path.name) from error
    return MapDocument.from_json(tree, path.name)


def is_map(path: Path) -> bool:
    """Whether a JSON file looks like a saved map (without checking it)."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "base" in tree and "edits" in tree


def _no_map(where: str) -> DataError:
    return DataError(
        "This file is no concept map, or it is damaged.",
        where=where,
        action="Choose a file that the studio saved as a map, or make the map again.",
        code="graph.no_map",
    )


# --- corrections ---------------------------------------------------------------------------------


def apply(found: ConceptMap, edit: Edit) -> ConceptMap:
    """The map after one correction.

    Raises:
        ConfigError: if it names what is not there, or would make the map contradict itself.
    """
    change = OPERATIONS.get(edit.op)
    if change is None:
        raise ConfigError(
            f"There is no correction {edit.op[:40]!a}.",
            where="map",
            action=f"Choose one of {', '.join(OPERATIONS)}.",
            code="graph.edit",
        )
    return change(found, edit)


def _the(found: ConceptMap, concept: str) -> Concept:
    here = found.concept(concept)
    if here is None:
        raise ConfigError(
            "This concept is not on the map any more.",
            where="map",
            action="Load the map again.",
            code="graph.no_concept",
        )
    return here


def _named(found: ConceptMap, text: str, but: str = "") -> str:
    """A name that may be given.

    Raises:
        ConfigError: if it is empty, too long or belongs to another concept.
    """
    name = " ".join(text.split())
    if not key_of(name).strip() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"A concept needs a name of 1 to {LONGEST_NAME} characters.",
            where="name",
            action="Write the name as it should stand on the map.",
            code="graph.name",
        )
    other = found.named(name)
    if other is not None and other.id != but:
        raise ConfigError(
            f"There is already a concept {name!r}.",
            where="name",
            action="Merge the two, or choose another name.",
            code="graph.same_name",
        )
    return name


def _with(found: ConceptMap, concept: Concept) -> ConceptMap:
    every = tuple(concept if c.id == concept.id else c for c in found.concepts)
    return replace(found, concepts=every)


def _rename(found: ConceptMap, edit: Edit) -> ConceptMap:
    concept = _the(found, edit.concept)
    name = _named(found, edit.text, but=concept.id)
    return _with(found, replace(renamed(concept, name), state=CONFIRMED, confidence=1.0))


def _set_kind(found: ConceptMap, edit: Edit) -> ConceptMap:
    if edit.text not in KINDS:
        raise ConfigError(
            f"{edit.text[:40]!a} is no kind of concept.",
            where="kind",
            action=f"Choose {', '.join(KINDS)}.",
            code="graph.kind",
        )
    concept = _the(found, edit.concept)
    return _with(found, replace(concept, kind=edit.text, state=CONFIRMED, confidence=1.0))


def _confirm(found: ConceptMap, edit: Edit) -> ConceptMap:
    concept = _the(found, edit.concept)
    return _with(found, replace(concept, state=CONFIRMED, confidence=1.0))


def _add(found: ConceptMap, edit: Edit) -> ConceptMap:
    name = _named(found, edit.text)
    kind = edit.other if edit.other in KINDS else KINDS[0]
    new = Concept(concept_id(name), name, kind, (), mentions_of(found, name), 1.0, ADDED)
    if found.concept(new.id) is not None:  # its first bearer was renamed
        new = replace(new, id=concept_id(f"{name} (added)"))
    return replace(found, concepts=(*found.concepts, new))


def mentions_of(found: ConceptMap, name: str) -> tuple[Any, ...]:
    """Where a name stands in the passages of a map."""
    from core.graph.names import mentions_in

    return mentions_in({name: name}, found.passages).get(name, ())


def _remove(found: ConceptMap, edit: Edit) -> ConceptMap:
    gone = _the(found, edit.concept).id
    return replace(
        found,
        concepts=tuple(c for c in found.concepts if c.id != gone),
        relations=tuple(r for r in found.relations if gone not in (r.source, r.target)),
    )


def _merge(found: ConceptMap, edit: Edit) -> ConceptMap:
    """Make ``concept`` an alias of ``other``; its edges go over, the surer of doubles stays."""
    gone, stays = _the(found, edit.concept), _the(found, edit.other)
    if gone.id == stays.id:
        raise ConfigError(
            "A concept cannot be merged with itself.",
            where="map",
            action="Choose two concepts.",
            code="graph.merge_self",
        )
    names = tuple(n for n in dict.fromkeys((*stays.names, *gone.names)) if n != stays.name)
    kept = replace(
        stays,
        aliases=names,
        mentions=merged_mentions((stays.mentions, gone.mentions)),
        state=CONFIRMED,
        confidence=1.0,
    )
    edges: dict[tuple[str, str, str], Relation] = {}
    for r in found.relations:
        moved = replace(
            r,
            source=stays.id if r.source == gone.id else r.source,
            target=stays.id if r.target == gone.id else r.target,
        )
        if moved.source != moved.target:
            old = edges.get(moved.key)
            edges[moved.key] = moved if old is None else _surer(old, moved)
    concepts = tuple(kept if c.id == stays.id else c for c in found.concepts if c.id != gone.id)
    return replace(found, concepts=concepts, relations=without_cycles(edges.values()))


def _surer(a: Relation, b: Relation) -> Relation:
    best = max((a, b), key=strength)
    return replace(best, evidence=tuple(sorted({*a.evidence, *b.evidence})))


def strength(relation: Relation) -> tuple[bool, float]:
    """By which edges are kept: the teacher's before found ones, then by confidence."""
    return (relation.state in (CONFIRMED, ADDED), relation.confidence)


def without_cycles(relations: Iterable[Relation]) -> tuple[Relation, ...]:
    """Take the weakest edge out of every cycle of a kind; the order of the rest stays."""
    kept = list(relations)
    for kind in RELATIONS:
        graph = nx.DiGraph()
        graph.add_edges_from((r.source, r.target, {"r": r}) for r in kept if r.kind == kind)
        while True:
            try:
                cycle = nx.find_cycle(graph)
            except nx.NetworkXNoCycle:
                break
            weakest = min(
                ((a, b) for a, b, *_ in cycle), key=lambda e: strength(graph.edges[e]["r"])
            )
            kept.remove(graph.edges[weakest]["r"])
            graph.remove_edge(*weakest)
    return tuple(kept)


def _add_relation(found: ConceptMap, edit: Edit) -> ConceptMap:
    source, target = _the(found, edit.concept), _the(found, edit.other)
    if edit.text not in RELATIONS:
        raise ConfigError(
            f"{edit.text[:40]!a} is no kind of relation.",
            where="relation",
            action=f"Choose {', '.join(RELATIONS)}.",
            code="graph.relation",
        )
    new = Relation(source.id, target.id, edit.text, 1.0, ADDED)
    others = tuple(r for r in found.relations if r.key != new.key)
    # Found edges give way to the teacher's; the teacher's own must not contradict each other.
    fixed = nx.DiGraph(
        (r.source, r.target) for r in others if r.kind == new.kind and strength(r)[0]
    )
    if source.id == target.id or (
        target.id in fixed and source.id in fixed and nx.has_path(fixed, target.id, source.id)
    ):
        raise ConfigError(
            f"{target.name!r} comes before {source.name!r} already, by what was confirmed.",
            where="relation",
            action="Remove the other relation first.",
            code="graph.cycle",
        )
    return replace(found, relations=without_cycles((*others, new)))


def _edge(found: ConceptMap, edit: Edit) -> Relation:
    wanted = (edit.text, edit.concept, edit.other)
    for relation in found.relations:
        if relation.key == wanted:
            return relation
    raise ConfigError(
        "This relation is not on the map any more.",
        where="map",
        action="Load the map again.",
        code="graph.no_relation",
    )


def _remove_relation(found: ConceptMap, edit: Edit) -> ConceptMap:
    gone = _edge(found, edit)
    return replace(found, relations=tuple(r for r in found.relations if r is not gone))


def _confirm_relation(found: ConceptMap, edit: Edit) -> ConceptMap:
    old = _edge(found, edit)
    new = replace(old, state=CONFIRMED, confidence=1.0)
    return replace(found, relations=tuple(new if r is old else r for r in found.relations))


OPERATIONS: dict[str, Callable[[ConceptMap, Edit], ConceptMap]] = {
    "rename": _rename,
    "merge": _merge,
    "add": _add,
    "remove": _remove,
    "confirm": _confirm,
    "kind": _set_kind,
    "add-relation": _add_relation,
    "remove-relation": _remove_relation,
    "confirm-relation": _confirm_relation,
}


@dataclass(frozen=True)
class Corrections:
    """What a new search learns from the teacher's edits.

    Attributes:
        names: key of a name (:func:`core.graph.types.key_of`) -> kind, of what is a concept.
        refused: keys of names that are none.
        same: key of a name -> the name under which the search finds it, so that its id stays.
        relations: (kind, source id, target id) -> whether it holds.
    """

    names: dict[str, str]
    refused: frozenset[str]
    same: dict[str, str]
    relations: dict[tuple[str, str, str], bool]

    @staticmethod
    def of(document: MapDocument | None) -> Corrections:
        """Read them off a document; empty without one."""
        if document is None:
            return Corrections({}, frozenset(), {}, {})
        now, state = document.current(), document.base
        refused: set[str] = set()
        relations: dict[tuple[str, str, str], bool] = {}
        for edit in document.edits:
            if edit.op == "remove":
                refused |= {key_of(n) for n in _the(state, edit.concept).names}
            if edit.op.endswith("-relation"):
                relations[edit.text, edit.concept, edit.other] = edit.op != "remove-relation"
            state = apply(state, edit)
        sure = [c for c in now.concepts if c.state in (CONFIRMED, ADDED)]
        names = {key_of(n): c.kind for c in sure for n in c.names}
        same = _found_under(document, sure)
        return Corrections(names, frozenset(refused - names.keys()), same, relations)


def _found_under(document: MapDocument, sure: Iterable[Concept]) -> dict[str, str]:
    """For every name of the teacher's concepts that under which it was found, or added."""
    added = {concept_id(e.text): e.text for e in document.edits if e.op == "add"}
    found: dict[str, str] = {}
    for concept in sure:
        before = document.base.concept(concept.id)
        first = before.name if before is not None else added.get(concept.id, concept.name)
        for name in concept.names:
            owner = document.base.named(name)
            if owner is None or owner.id == concept.id:  # else it was merged: that comes again
                found[key_of(name)] = first
    return found
