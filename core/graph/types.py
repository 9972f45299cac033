"""What a concept map consists of. Plain data; no torch in here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core.data.split import normalised

KINDS = ("concept", "skill", "misconception")
RELATIONS = ("prerequisite", "part-of", "example-of")
FOUND, CONFIRMED, ADDED = "found", "confirmed", "added"
QUESTION, ANSWER, TITLE, GLOSSARY, TEXT = "question", "answer", "title", "glossary", "text"


@dataclass(frozen=True)
class Passage:
    """A piece of text that concepts are looked for in.

    Attributes:
        id: its number in the map.
        text: the text, one or a few sentences.
        role: question | answer | title | glossary | text.
        where: its place in the teacher's words (``row 7``, ``line 3``).
        file: name of the file of added material; empty for the class itself.
        item: index of the question that it belongs to; -1 for material.
    """

    id: int
    text: str
    role: str
    where: str = ""
    file: str = ""
    item: int = -1


@dataclass(frozen=True)
class Mention:
    """Where a concept stands: characters ``start``..``end`` (exclusive) of a passage's text."""

    passage: int
    start: int
    end: int


@dataclass(frozen=True)
class Concept:
    """One node of the map.

    Attributes:
        id: from the name it was found under (:func:`concept_id`); a rename keeps it.
        name: as it is shown.
        kind: concept | skill | misconception.
        aliases: other names of the same, as they stand in the text.
        mentions: source spans.
        confidence: 0..1, of its being a concept of the class.
        state: found | confirmed | added (the last two by the teacher).
    """

    id: str
    name: str
    kind: str = KINDS[0]
    aliases: tuple[str, ...] = ()
    mentions: tuple[Mention, ...] = ()
    confidence: float = 1.0
    state: str = FOUND

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class Relation:
    """One edge, read "``source`` is a ``kind`` ``target``".

    ``photosynthesis prerequisite food chain``: the first is needed for the second; ``cell part-of
    tissue``; ``whale example-of mammal``.

    Attributes:
        source: id of a concept.
        target: id of a concept.
        kind: prerequisite | part-of | example-of.
        confidence: calibrated probability, 0..1.
        state: found | confirmed | added.
        evidence: passages whose wording says so.
    """

    source: str
    target: str
    kind: str
    confidence: float = 1.0
    state: str = FOUND
    evidence: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same edge: kind, source, target."""
        return (self.kind, self.source, self.target)


@dataclass(frozen=True)
class Question:
    """One question of the class.

    Attributes:
        passage: of the question; ``answers`` those of its answer.
        group: questions of one number ask (nearly) the same.
        where: its place in the file.
    """

    passage: int
    answers: tuple[int, ...]
    group: int
    where: str = ""


@dataclass(frozen=True)
class ConceptMap:
    """A map at one version. Concepts, relations, questions and the text they were found in."""

    name: str
    language: str
    passages: tuple[Passage, ...] = ()
    questions: tuple[Question, ...] = ()
    concepts: tuple[Concept, ...] = ()
    relations: tuple[Relation, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)

    def concept(self, concept_id: str) -> Concept | None:
        """The concept with this id, if there is one."""
        return next((c for c in self.concepts if c.id == concept_id), None)

    def named(self, name: str) -> Concept | None:
        """The concept that has this name or alias, if there is one."""
        wanted = key_of(name)
        return next((c for c in self.concepts if wanted in map(key_of, c.names)), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> ConceptMap:
        """Rebuild from :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: if ``tree`` is no map.
        """
        return ConceptMap(
            name=str(tree["name"]),
            language=str(tree["language"]),
            passages=tuple(Passage(**p) for p in tree["passages"]),
            questions=tuple(
                Question(**{**q, "answers": tuple(q["answers"])}) for q in tree["questions"]
            ),
            concepts=tuple(_concept(c) for c in tree["concepts"]),
            relations=tuple(
                Relation(**{**r, "evidence": tuple(r["evidence"])}) for r in tree["relations"]
            ),
            metrics=dict(tree["metrics"]),
        )


def _concept(tree: dict[str, Any]) -> Concept:
    mentions = tuple(Mention(**m) for m in tree["mentions"])
    return Concept(**{**tree, "aliases": tuple(tree["aliases"]), "mentions": mentions})


def key_of(name: str) -> str:
    """What two spellings of one name share: no case, width, punctuation, plural -s."""
    words = normalised(name).split()
    return " ".join(_singular(w) if w.isascii() else w for w in words)


def _singular(word: str) -> str:
    """Take an English plural's ending off; good enough to compare, not to show."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def concept_id(name: str) -> str:
    """A concept's id: the same name gives the same id in every map."""
    return f"c{hashlib.sha256(key_of(name).encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def merged_mentions(groups: Sequence[Sequence[Mention]]) -> tuple[Mention, ...]:
    """All mentions of several concepts, each once, in the order of the text."""
    every = {m for group in groups for m in group}
    return tuple(sorted(every, key=lambda m: (m.passage, m.start, m.end)))


def renamed(concept: Concept, name: str) -> Concept:
    """The concept under another name; the old one stays as an alias."""
    aliases = tuple(dict.fromkeys(a for a in (concept.name, *concept.aliases) if a != name))
    return replace(concept, name=name, aliases=aliases)
