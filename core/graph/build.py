"""From a class to its map: read, tag, merge names, score relations, decode.

What is found never drops what a teacher corrected: the earlier corrections are applied to the new
map, and they are learned from. Names that were confirmed or added are labels for the tagger where
they stand; relations that were confirmed, added or removed are labels for the scorer, once there
are enough of them to keep some for validation.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from core.data.types import Example
from core.errors import DataError
from core.events import Emit, PhaseChanged
from core.graph import network, reading, reason
from core.graph.decode import decode
from core.graph.document import Corrections, MapDocument
from core.graph.encoder import Encoder
from core.graph.features import NAMES, Evidence, pair_features
from core.graph.material import Paragraph, language_of, passages_of
from core.graph.model import JointModel, Shape, bio, spans_of
from core.graph.names import alias_groups, mentions_in, short_forms
from core.graph.phrases import WEIGHTS, Phrase, find_phrases
from core.graph.scorer import Scorer
from core.graph.types import (
    KINDS,
    RELATIONS,
    Concept,
    ConceptMap,
    Mention,
    Passage,
    Question,
    Relation,
    concept_id,
    key_of,
)

MOST = 300  # concepts of a map
LEAST_SCORE = 1.5  # of a concept: one title, or phrases of two passages that the tagger half sees
TAGGED, TAG_EPOCHS = 1500, 30  # sentences the tagger learns from; steps of 24 of them
SURE = 0.6  # probability of a span that only the tagger sees
ALIKE = 0.9  # cosine from which two names are one
LEAST_LABELS, LEAST_POSITIVES = 20, 8  # corrections from which the scorer goes on learning
SAID = 2  # prior observations of a relation that a sentence states: (n + 2) / (n + 3)
HELD = 0.15  # part of the sentences on which the tagger is compared with the rules
CANDIDATES = 40_000  # pairs that are scored, the likeliest by their texts


@dataclass(frozen=True)
class Options:
    """How a map is made.

    Attributes:
        name: of the map.
        most: concepts at most.
        seed: of what is drawn.
        same: groups of questions that a pair model found to be the same (indices of examples).
    """

    name: str = "class"
    most: int = MOST
    seed: int = 0
    same: tuple[tuple[int, ...], ...] = ()


def build(
    examples: Sequence[Example],
    material: Sequence[tuple[str, Sequence[Paragraph]]],
    encoder: Encoder,
    scorer: Scorer | None,
    *,
    options: Options,
    previous: MapDocument | None = None,
    emit: Emit = lambda event: None,
) -> MapDocument:
    """Make the map of a class.

    Args:
        examples: the class; may be empty if there is material.
        material: file name and paragraphs of each added file.
        encoder: gives the states.
        scorer: of relations, for this encoder; None: only what a sentence states is found.
        options: how.
        previous: an earlier map of the class, whose corrections are kept.
        emit: hears how far it is (phase ``graph``).

    Raises:
        DataError: if there is no text, or no concept in it.
    """
    clock = _Clock(emit)
    passages, questions = passages_of(examples, material)
    if not any(p.text.strip() for p in passages):
        raise DataError(
            "There is no text to make a map of.",
            where="class data",
            action="Add questions, or a text about the subject.",
            code="graph.no_text",
        )
    torch.manual_seed(options.seed)
    corrections = Corrections.of(previous)
    questions = _grouped(questions, options.same)
    clock.at("phrases", 0.0)
    weak = find_phrases(passages, lambda share: clock.at("phrases", 0.2 * share))
    read = reading.read(encoder, passages, lambda share: clock.at("reading", 0.2 + 0.4 * share))
    clock.at("tagging", 0.6)
    spans, tagging = tag(passages, weak, read, scorer, encoder, corrections, options.seed)
    clock.at("merging", 0.7)
    concepts = concepts_of(passages, spans, encoder, corrections, options.most)
    if not concepts:
        raise DataError(
            "No concept was found: the texts are too few or too short.",
            where="class data",
            action="Add more questions, or a text or glossary about the subject.",
            code="graph.no_concept_found",
        )
    clock.at("relations", 0.8)
    relations, scoring = relate(
        concepts, passages, encoder, scorer, read, corrections, options.seed
    )
    clock.at("done", 1.0)
    metrics: dict[str, Any] = {"tagger": tagging, "relations": scoring, "encoder": encoder.name}
    metrics |= {"seconds": clock.seconds(), "passages": len(passages)}
    language = language_of(passages)
    base = ConceptMap(
        options.name, language, passages, questions, tuple(concepts), relations, metrics
    )
    return previous.rebased(base) if previous is not None else MapDocument(base)


class _Clock:
    """Tells phases, and how long each took."""

    def __init__(self, emit: Emit) -> None:
        self.emit, self.begun, self.name = emit, time.monotonic(), ""
        self.spent: dict[str, float] = {}

    def at(self, name: str, share: float) -> None:
        now = time.monotonic()
        if self.name:
            self.spent[self.name] = self.spent.get(self.name, 0.0) + now - self.begun
        self.begun, self.name = now, name
        self.emit(PhaseChanged("graph", min(share, 1.0), name))

    def seconds(self) -> dict[str, float]:
        return {k: round(v, 2) for k, v in self.spent.items()}


def _grouped(questions: Sequence[Question], same: Sequence[Sequence[int]]) -> tuple[Question, ...]:
    """Questions with the groups of a pair model joined to those of equal texts."""
    joined = {q.group: q.group for q in questions}

    def find(group: int) -> int:
        while joined[group] != group:
            group = joined[group]
        return group

    for members in same:
        roots = sorted({find(questions[i].group) for i in members})
        for root in roots[1:]:
            joined[root] = roots[0]
    return tuple(replace(q, group=find(q.group)) for q in questions)


# --- spans ---------------------------------------------------------------------------------------


def tag(
    passages: Sequence[Passage],
    weak: Sequence[Phrase],
    read: reading.Read,
    scorer: Scorer | None,
    encoder: Encoder,
    corrections: Corrections,
    seed: int,
) -> tuple[list[tuple[Phrase, float]], dict[str, Any]]:
    """Spans with the probability that they are concepts: the rules', corrected, and the tagger's.

    Returns:
        Spans and, as metrics, how well the tagger agrees with the rules on sentences that it did
        not learn (strict spans), and how many spans it added.
    """
    labels = corrected(passages, weak, corrections)
    by_passage: defaultdict[int, list[Phrase]] = defaultdict(list)
    for phrase in labels:
        by_passage[phrase.passage].append(phrase)
    held = [p for p in passages if p.id in read.tokens]
    if len(held) < 8:
        return [(p, 1.0) for p in labels], {"learned": 0, "sentences": len(passages)}
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(held))
    tests = {held[i].id for i in order[: max(2, round(HELD * len(held)))]}
    learn = [held[i] for i in order if held[i].id not in tests][:TAGGED]
    model = _tagger(scorer, encoder, learn, by_passage, read, seed)
    taught = set(corrections.refused)
    found: list[tuple[Phrase, float]] = []
    counts = {"true": 0, "found": 0, "right": 0, "added": 0}
    for passage in passages:
        own = by_passage.get(passage.id, [])
        states = read.tokens.get(passage.id)
        if states is None:
            found += [(p, 1.0) for p in own]
            continue
        logits = _logits(model, states)
        seen = spans_of(states.offsets, logits)
        if passage.id in tests:
            gold = {_tokens(states, p.start, p.end) for p in own if p.source != "cue"}
            said = {_tokens(states, a, b) for a, b, _, _ in seen}
            counts["true"] += len(gold)
            counts["found"] += len(said)
            counts["right"] += len(gold & said)
        found += [(p, _probability(states, logits, p)) for p in own]
        for new in _new(passage, seen, own):
            if key_of(passage.text[new[0].start : new[0].end]) not in taught:
                found.append(new)
                counts["added"] += 1
    return found, _agreement(counts, len(learn), len(passages))


def corrected(
    passages: Sequence[Passage], weak: Sequence[Phrase], corrections: Corrections
) -> list[Phrase]:
    """Weak labels with the teacher's names wherever they stand; these go before the rules."""
    if not corrections.names:
        return list(weak)
    texts = {name: name for name in corrections.names}
    taken: defaultdict[int, list[Phrase]] = defaultdict(list)
    for name, mentions in mentions_in(texts, passages).items():
        for m in mentions:
            kind = corrections.names[name]
            taken[m.passage].append(Phrase(m.passage, m.start, m.end, kind, "teacher"))
    kept = [
        w
        for w in weak
        if all(w.end <= t.start or w.start >= t.end for t in taken.get(w.passage, ()))
    ]
    every = kept + [t for listed in taken.values() for t in listed]
    return sorted(every, key=lambda p: (p.passage, p.start))


def _tagger(
    scorer: Scorer | None,
    encoder: Encoder,
    learn: Sequence[Passage],
    labels: Mapping[int, Sequence[Phrase]],
    read: reading.Read,
    seed: int,
) -> JointModel:
    """The tagger after some steps on the class's sentences, from the scorer's if there is one."""
    sentences = []
    for passage in learn:
        states = read.tokens[passage.id]
        spans = [(p.start, p.end, KINDS.index(p.kind)) for p in labels.get(passage.id, ())]
        sentences.append((torch.from_numpy(states.states), bio(states.offsets, spans)))
    empty = np.zeros(0, np.int64)
    world = reason.World(
        torch.zeros(0, encoder.width),
        np.zeros((0, 0, len(NAMES)), np.float32),
        (np.zeros((2, 0), np.int64), empty),
        np.zeros((0, 2), np.int64),
        empty,
        empty,
        empty,
        np.zeros(0, np.float32),
        tagged=sentences,
    )
    known = scorer.models.get("none") if scorer is not None else None
    shape = known.model.shape if known is not None else Shape(encoder.width, passing="none")
    start = known.model.state_dict() if known is not None else _standardised(shape, sentences)
    settings = reason.Settings(epochs=TAG_EPOCHS, seed=seed, link=False)
    return reason.fit([world], shape, settings, start).model


def _standardised(shape: Shape, tagged: Sequence[reason.Tagged]) -> Mapping[str, torch.Tensor]:
    model = JointModel(shape)
    model.standardise(torch.cat([s for s, _ in tagged]).float())
    return model.state_dict()


@torch.no_grad()
def _logits(model: JointModel, states: Any) -> torch.Tensor:
    z = model.project(torch.from_numpy(states.states).float()[None])
    return model.tags(z)[0]


def _tokens(states: Any, start: int, end: int) -> tuple[int, ...]:
    a, b = states.offsets[:, 0], states.offsets[:, 1]
    return tuple(np.flatnonzero((a < end) & (b > start)).tolist())


def _probability(states: Any, logits: torch.Tensor, phrase: Phrase) -> float:
    """Mean probability that the tokens of a span belong to a concept; 1 for what is sure."""
    if phrase.source in ("teacher", "glossary", "cue"):
        return 1.0
    tokens = list(_tokens(states, phrase.start, phrase.end))
    return float((1 - logits[tokens].softmax(-1)[:, 0]).mean()) if tokens else 1.0


def _new(
    passage: Passage, seen: Sequence[tuple[int, int, int, float]], own: Sequence[Phrase]
) -> list[tuple[Phrase, float]]:
    """Spans that only the tagger sees: whole words, sure, beside those of the rules."""
    found = []
    for start, end, kind, p in seen:
        text = passage.text[start:end]
        cut = _inside_word(passage.text, start) or _inside_word(passage.text, end)
        apart = all(end <= o.start or start >= o.end for o in own)
        if p >= SURE and apart and not cut and len(text) > 2 and text[0].isalpha():
            found.append((Phrase(passage.id, start, end, KINDS[kind], "tagger"), p))
    return found


def _inside_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _agreement(counts: Mapping[str, int], learned: int, sentences: int) -> dict[str, Any]:
    precision = counts["right"] / max(1, counts["found"])
    recall = counts["right"] / max(1, counts["true"])
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    agreement = {"precision": precision, "recall": recall, "f1": f1, "spans": counts["true"]}
    told = {"agreement_with_rules": agreement, "added": counts["added"]}
    return {**told, "learned": learned, "sentences": sentences}


# --- names ---------------------------------------------------------------------------------------


def concepts_of(
    passages: Sequence[Passage],
    spans: Sequence[tuple[Phrase, float]],
    encoder: Encoder,
    corrections: Corrections,
    most: int,
) -> list[Concept]:
    """Concepts: spans of one name together, aliases merged, the weightiest kept.

    A concept's score is the sum over passages of the best label's weight there, times
    (1 + the tagger's mean probability) / 2; its confidence is score / (score + 2)
    (our interpretation).
    """
    counts: Counter[str] = Counter()
    surfaces = [p.name or passages[p.passage].text[p.start : p.end] for p, _ in spans]
    counts.update(" ".join(s.split()) for s in surfaces)
    chosen = alias_groups(counts, short_forms(p.text for p in passages))
    for (
        surface,
        name,
    ) in chosen.items():  # the teacher's keep their old name and id
        own = corrections.same.get(key_of(surface)) or corrections.same.get(key_of(name))
        chosen[surface] = own or name
    chosen = _alike(chosen, counts, encoder)
    gathered: defaultdict[str, list[tuple[Phrase, float]]] = defaultdict(list)
    for (phrase, p), surface in zip(spans, surfaces, strict=True):
        gathered[chosen[" ".join(surface.split())]].append((phrase, p))
    names = defaultdict(set)
    for surface, name in chosen.items():
        names[name].add(surface)
    scored = sorted(
        ((_score(own), name) for name, own in gathered.items()), key=lambda s: (-s[0], s[1])
    )
    least = LEAST_SCORE * max(1.0, len(passages) / 4000)
    sure = set(corrections.names) | set(corrections.refused)
    kept = [(s, n) for s, n in scored if s >= least or key_of(n) in sure][:most]
    if len(kept) < 3:  # a handful of questions: every name counts
        kept = scored[:most]
    return _mentioned(passages, kept, gathered, names)


def _score(own: Sequence[tuple[Phrase, float]]) -> float:
    best: dict[int, float] = {}
    for phrase, _ in own:
        weight = WEIGHTS.get(phrase.source, 1.0)
        best[phrase.passage] = max(best.get(phrase.passage, 0.0), weight)
    seen = sum(p for _, p in own) / len(own)
    return sum(best.values()) * (1 + seen) / 2


def _alike(chosen: dict[str, str], counts: Counter[str], encoder: Encoder) -> dict[str, str]:
    """Merge names whose meanings are nearly equal; only an encoder made to compare texts knows."""
    names = sorted({n for n in chosen.values() if counts[n] > 1}, key=lambda n: (-counts[n], n))
    if not encoder.reads or len(names) < 2:
        return chosen
    names = names[: 2 * MOST]
    vectors = reading.name_vectors(encoder, names)
    near = vectors @ vectors.T
    into: dict[str, str] = {}
    for j, name in enumerate(names):
        first = next((i for i in range(j) if near[i, j] > ALIKE and names[i] not in into), None)
        if first is not None and not _differ(names[first], name):
            into[name] = names[first]
    return {surface: into.get(name, name) for surface, name in chosen.items()}


def _differ(a: str, b: str) -> bool:
    """Whether numbers or a negation part two names that are otherwise alike."""
    marks = (
        {w for w in key_of(n).split() if not w.isalpha() or w.startswith(("non", "un", "in"))}
        for n in (a, b)
    )
    first, second = marks
    return first != second


def _mentioned(
    passages: Sequence[Passage],
    kept: Sequence[tuple[float, str]],
    gathered: Mapping[str, Sequence[tuple[Phrase, float]]],
    names: Mapping[str, set[str]],
) -> list[Concept]:
    """The concepts with every place where one of their names stands."""
    surfaces = {s: n for _, n in kept for s in names[n]}
    written = mentions_in(surfaces, passages)
    found = []
    for score, name in kept:
        own = {Mention(p.passage, p.start, p.end) for p, _ in gathered[name] if p.name}
        own |= set(written.get(name, ()))
        kinds = Counter(p.kind for p, _ in gathered[name])
        aliases = tuple(sorted({s for s in names[name] if key_of(s) != key_of(name)}))
        mentions = tuple(sorted(own, key=lambda m: (m.passage, m.start)))
        kind = kinds.most_common(1)[0][0]
        found.append(Concept(concept_id(name), name, kind, aliases, mentions, score / (score + 2)))
    return found


# --- relations -----------------------------------------------------------------------------------


def relate(
    concepts: Sequence[Concept],
    passages: Sequence[Passage],
    encoder: Encoder,
    scorer: Scorer | None,
    read: reading.Read,
    corrections: Corrections,
    seed: int,
) -> tuple[tuple[Relation, ...], dict[str, Any]]:
    """Relations between concepts, and how they were found.

    Prerequisites are scored by the model and stated by sentences; part-of and example-of are what
    sentences state, until the teacher has confirmed enough of them.
    """
    vectors = reading.name_vectors(encoder, [c.name for c in concepts])
    evidence, said = reading.evidence_of(concepts, passages, vectors)
    stated = [
        Relation(a, b, kind, (len(w) + SAID) / (len(w) + SAID + 1), evidence=w)
        for (kind, a, b), w in said.items()
    ]
    if scorer is None:
        return decode(stated, (), {}), {"used": "said", "stated": len(stated)}
    around = reading.contexts(read, concepts, encoder.width)
    states = reading.node_states(vectors, around, read.means)
    world = _world(concepts, evidence, states, corrections, stated, seed)
    known = float((vectors != 0).any(1).mean()) >= 0.5
    used, models, learned = _learned(world, scorer, corrections, seed, known)
    fitted = models[used]
    pairs = candidates(evidence, world.features)
    approved = world.known(reason.TRAIN, reason.VALIDATION)
    scores = reason.ask(fitted.model, world, pairs, approved)
    p = fitted.calibration(scores[:, 0].astype(np.float64))
    found = [
        Relation(concepts[a].id, concepts[b].id, RELATIONS[0], float(x))
        for (a, b), x in zip(pairs.tolist(), p, strict=True)
        if x >= fitted.calibration.threshold
    ]
    thresholds = {RELATIONS[0]: fitted.calibration.threshold}
    kept = decode(_together(found, stated), (), thresholds)
    return kept, _scoring(used, models, learned, len(pairs), len(stated), scorer)


def _together(found: Sequence[Relation], stated: Sequence[Relation]) -> list[Relation]:
    """Edges of both sources; an edge that both give has the higher confidence and the evidence."""
    every = {r.key: r for r in found}
    for r in stated:
        old = every.get(r.key)
        both = max(r.confidence, old.confidence) if old else r.confidence
        every[r.key] = replace(r, confidence=both)
    return list(every.values())


def candidates(evidence: Evidence, features: np.ndarray) -> network.Pairs:
    """Pairs that the texts give a reason to ask about, at most :data:`CANDIDATES`.

    Concepts that stand in one passage, whose names contain each other or mean nearly the same.
    """
    at = {name: i for i, name in enumerate(NAMES)}
    why = np.abs(features[..., [at["jaccard"], at["inside"], at["outside"], at["defines"]]])
    why = why.sum(-1) + np.maximum(features[..., at["cosine"]] - network.SIMILAR, 0)
    why += features[..., at["defined_by"]]
    np.fill_diagonal(why, 0)
    rows, columns = np.nonzero(why > 0)
    best = np.argsort(-why[rows, columns], kind="stable")[:CANDIDATES]
    return np.stack([rows[best], columns[best]], 1).astype(np.int64)


def _world(
    concepts: Sequence[Concept],
    evidence: Evidence,
    states: torch.Tensor,
    corrections: Corrections,
    stated: Sequence[Relation],
    seed: int,
) -> reason.World:
    """The class as a world: the teacher's relations as labels, what sentences state at half."""
    place = {c.id: i for i, c in enumerate(concepts)}
    labels: dict[tuple[int, int, int], tuple[int, float]] = {}
    for r in stated:
        labels[place[r.source], place[r.target], RELATIONS.index(r.kind)] = (1, 0.5)
    for (kind, a, b), holds in corrections.relations.items():
        if a in place and b in place:
            labels[place[a], place[b], RELATIONS.index(kind)] = (int(holds), 1.0)
    pairs = np.array([k[:2] for k in labels], np.int64).reshape(-1, 2)
    sides = network.split_concepts(len(concepts), seed, validation=0.25, test=0.0)
    return reason.World(
        states=states,
        features=pair_features(evidence),
        text=network.text_edges(evidence),
        pairs=pairs,
        relation=np.array([k[2] for k in labels], np.int64),
        truth=np.array([t for t, _ in labels.values()], np.int64),
        side=network.side_of_pairs(pairs, sides),
        weight=np.array([w for _, w in labels.values()], np.float32),
        kinds=np.array([KINDS.index(c.kind) for c in concepts], np.int64),
    )


def _learned(
    world: reason.World, scorer: Scorer, corrections: Corrections, seed: int, names_known: bool
) -> tuple[str, dict[str, reason.Fitted], int]:
    """The models to score with: the studio's, or these after learning from the teacher."""
    own = list(corrections.relations.values())
    enough = len(own) >= LEAST_LABELS and sum(own) >= LEAST_POSITIVES
    held = world.truth[world.side == reason.VALIDATION]
    if not enough or not held.any():
        return (*scorer.chosen(names_known=names_known), 0)
    starts = {name: f.model.state_dict() for name, f in scorer.models.items()}
    shape = scorer.models[next(n for n in scorer.models if n != "none")].model.shape
    settings = reason.Settings(epochs=60, rate=1e-3, seed=seed, tag=False)
    used, models = reason.fit_both([world], shape, settings, starts)
    return used, models, len(own)


def _scoring(
    used: str,
    models: Mapping[str, reason.Fitted],
    learned: int,
    pairs: int,
    stated: int,
    scorer: Scorer,
) -> dict[str, Any]:
    facts = {k: scorer.facts.get(k) for k in ("data", "licence", "address")}
    return {
        "used": used,
        "learned_from": learned,
        "validation": {name: f.marks for name, f in models.items()},
        "threshold": models[used].calibration.threshold,
        "temperature": models[used].calibration.temperature,
        "pairs": pairs,
        "stated": stated,
        "source": facts,
    }
