"""What a map is good for: gaps, an order to teach in, a quiz by concept, mastery. No torch.

Letters: c, q concepts; n_c explanations of c in answers and material.

    supply(c) = 1 - e^(-n_c / 3)
    demand(q) = share of the different questions that ask about q
    reach(c ~> q) = the best product of confidences over paths of prerequisites from c to q
    gap(c) = (1 - supply(c)) sum_q reach(c ~> q) demand(q)

An explanation is a sentence that says what c is ("X is ...", a glossary entry, a title of the
material); an answer that only names c counts a quarter of one (our interpretation).
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import networkx as nx

from core.data.split import Split, duplicate_groups
from core.data.types import Example, data_sha256
from core.graph.decode import graph_of, shown
from core.graph.spoken import explanations
from core.graph.types import KINDS, RELATIONS, ConceptMap, key_of
from core.graph.words import Wording

NAMED = 0.25  # of an explanation, for an answer that names a concept
NEEDED = 0.5  # reach from which a question needs a concept
MOST_WEIGHT = 3.0
CLEAR = 0.05  # difference of mastery that is shown as better or worse


@dataclass(frozen=True)
class Gap:
    """A concept that questions need and that little explains.

    Attributes:
        concept: its id; ``name`` as shown.
        gap: by which gaps are ordered.
        supply: 0..1. ``demand``: share of the questions that ask about it.
        questions: how many different questions need it.
        explained: how many sentences explain it.
        examples: passages of some of those questions.
        code: which sentence is said: gap.none | gap.one | gap.few | gap.before.
        sentence: what a teacher would say, in the language of the map.
    """

    concept: str
    name: str
    gap: float
    supply: float
    demand: float
    questions: int
    explained: int
    examples: tuple[int, ...]
    code: str
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def asked_by_concept(found: ConceptMap) -> dict[str, set[int]]:
    """Indices of the questions that mention a concept, by its id."""
    owner = {q.passage: i for i, q in enumerate(found.questions)}
    asked: dict[str, set[int]] = {}
    for c in found.concepts:
        asked[c.id] = {owner[m.passage] for m in c.mentions if m.passage in owner}
    return asked


def supply_of(found: ConceptMap) -> dict[str, tuple[float, int]]:
    """supply(c) and the number of sentences that explain c, by its id."""
    explained = explanations(found.concepts, found.passages)
    questions = {q.passage for q in found.questions}
    supplied = {}
    for c in found.concepts:
        told = {m.passage for m in c.mentions} - questions
        sentences = set(explained.get(c.id, ()))
        n = len(sentences) + NAMED * len(told - sentences)
        supplied[c.id] = (1 - math.exp(-n / 3), len(sentences))
    return supplied


def reach(found: ConceptMap) -> dict[str, dict[str, float]]:
    """Best products of confidences over paths, by source and target; 1 from a concept to itself."""
    graph = graph_of(found.relations, RELATIONS[0])
    graph.add_nodes_from(c.id for c in found.concepts)
    for _, _, edge in graph.edges(data=True):
        edge["cost"] = -math.log(min(1.0, max(edge["p"], 1e-9)))
    return {
        source: {target: math.exp(-cost) for target, cost in costs.items()}
        for source, costs in nx.all_pairs_dijkstra_path_length(graph, weight="cost")
    }


def gap_values(found: ConceptMap) -> dict[str, float]:
    """gap(c) of every concept, by its id."""
    groups = [q.group for q in found.questions]
    total = max(1, len(set(groups)))
    demand = {
        c: len({groups[i] for i in asked}) / total for c, asked in asked_by_concept(found).items()
    }
    supplied, reached = supply_of(found), reach(found)
    return {
        c.id: (1 - supplied[c.id][0])
        * sum(p * demand.get(q, 0.0) for q, p in reached[c.id].items())
        for c in found.concepts
    }


def gaps(found: ConceptMap, most: int = 20) -> list[Gap]:
    """The largest gaps, with what a teacher would say; misconceptions are none.

    A concept that no question needs is no gap; neither is one that nearly every question names (it
    is the subject of the class) or that is explained well.
    """
    values, supplied, reached = gap_values(found), supply_of(found), reach(found)
    asked, words = asked_by_concept(found), Wording(found.language)
    total = max(1, len({q.group for q in found.questions}))
    told = []
    for c in found.concepts:
        if c.kind == KINDS[2]:
            continue
        own = {found.questions[i].group for i in asked[c.id]}
        need = {
            found.questions[i].group
            for q, p in reached[c.id].items()
            if p >= NEEDED
            for i in asked.get(q, ())
        }
        supply, explained = supplied[c.id]
        common = len(need) > 0.8 * total and total > 5
        if not need or common or explained >= 3 or (explained and len(need) <= 2 * explained):
            continue
        code = "gap.none" if explained == 0 else "gap.one" if explained == 1 else "gap.few"
        code = code if own else "gap.before"
        said = words.counted(code, len(need), name=c.name, explained=explained)
        examples = tuple(found.questions[i].passage for i in sorted(asked[c.id])[:5])
        demand = len(own) / total
        told.append(
            Gap(
                c.id,
                c.name,
                values[c.id],
                supply,
                demand,
                len(need),
                explained,
                examples,
                code,
                said,
            )
        )
    return sorted(told, key=lambda g: (-g.gap, g.name))[:most]


# --- order ---------------------------------------------------------------------------------------


def teaching_order(found: ConceptMap) -> list[str]:
    """Ids of all concepts, prerequisites first; what is free goes by its first mention."""
    place = {
        c.id: (c.mentions[0].passage if c.mentions else 1 << 30, i)
        for i, c in enumerate(found.concepts)
    }
    graph = graph_of(found.relations, RELATIONS[0])
    graph.add_nodes_from(place)
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


# --- quiz and weights ----------------------------------------------------------------------------


def concepts_of_examples(found: ConceptMap, examples: Sequence[Example]) -> list[set[str]]:
    """Ids of the concepts that the question of every example mentions.

    Examples of the map's own class are found by their text, so that the order may differ.
    """
    asked = asked_by_concept(found)
    by_text: defaultdict[str, set[str]] = defaultdict(set)
    for concept, questions in asked.items():
        for i in questions:
            by_text[key_of(found.passages[found.questions[i].passage].text)].add(concept)
    return [by_text.get(key_of(e.question), set()) for e in examples]


def split_by_concept(
    found: ConceptMap, examples: Sequence[Example], *, share: float, largest: int, seed: int
) -> Split:
    """A quiz about concepts that no learned example asks about.

    Concepts are held out one after another in an order of the seed's, with every example whose
    question mentions one of them and its near doubles, as long as the quiz has room. A concept
    that more than ``share`` of the examples mention is never held out.

    Args:
        found: the map.
        examples: the class.
        share: wanted part of the examples, 0..0.5.
        largest: most quiz questions.
        seed: another seed, another quiz.
    """
    wanted = min(round(share * len(examples)), largest)
    groups = duplicate_groups(examples)
    of = {i: g for g, members in enumerate(groups) for i in members}
    having: defaultdict[str, set[int]] = defaultdict(set)
    for i, concepts in enumerate(concepts_of_examples(found, examples)):
        for c in concepts:
            having[c] |= set(groups[of[i]])
    drawn = sorted(having, key=lambda c: hashlib.sha256(f"{seed} {c}".encode()).hexdigest())
    chosen: set[int] = set()
    for c in drawn:
        # Doubles of doubles: whatever joins the quiz brings nothing that is learned elsewhere.
        if len(having[c]) <= max(1, wanted) and len(chosen | having[c]) <= wanted:
            chosen |= having[c]
    train = tuple(e for i, e in enumerate(examples) if i not in chosen)
    quiz = tuple(e for i, e in enumerate(examples) if i in chosen)
    return Split(train, quiz)


def held_concepts(found: ConceptMap, sides: Split) -> set[str]:
    """Concepts that quiz questions mention and no learned question does."""
    train = set().union(*concepts_of_examples(found, sides.train), set())
    quiz = set().union(*concepts_of_examples(found, sides.quiz), set())
    return quiz - train


def example_weights(found: ConceptMap, examples: Sequence[Example]) -> list[float]:
    """How much more an example should count: 1 + the largest gap of its concepts, at most 3.

    Gaps are scaled so that the largest of the class gives the most.
    """
    values = gap_values(found)
    top = max(values.values(), default=0.0)
    scaled = {c: v / top * (MOST_WEIGHT - 1) if top else 0.0 for c, v in values.items()}
    return [
        1 + max((scaled.get(c, 0.0) for c in concepts), default=0.0)
        for concepts in concepts_of_examples(found, examples)
    ]


def repeated(examples: Sequence[Example], weights: Sequence[float], seed: int) -> list[Example]:
    """Examples as often as their weight says: whole numbers, the rest by the seed's chance.

    A weight of 1.4 gives an example once, and a second time with a chance of 0.4, which depends on
    its text and the seed alone.
    """
    found = []
    for example, weight in zip(examples, weights, strict=True):
        digest = hashlib.sha256(f"{seed} {data_sha256([example])}".encode()).digest()
        chance = int.from_bytes(digest[:8], "big") / 2**64
        found += [example] * (int(weight) + (chance < weight - int(weight)))
    return found


# --- mastery -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mastery:
    """How well a model knows a concept, before and after tuning.

    Attributes:
        concept: its id; ``name`` as shown.
        questions: quiz questions about it.
        base: exp(-mean answer loss per token), 0..1, of the base model; ``tuned`` of the tuned one.
        rouge_base: mean ROUGE-L of written answers, None without any; ``rouge_tuned`` likewise.
        verdict: better | worse | same.
    """

    concept: str
    name: str
    questions: int
    base: float
    tuned: float
    rouge_base: float | None
    rouge_tuned: float | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def mastery(found: ConceptMap, quiz: Sequence[Example], marks: Mapping[str, Any]) -> list[Mastery]:
    """Mastery of every concept that the quiz asks about, the most asked first.

    Args:
        found: the map.
        quiz: the quiz of a run, in its order.
        marks: ``base`` and ``tuned`` as :func:`core.evaluate.quiz.mark` gives them.
    """
    having: defaultdict[str, list[int]] = defaultdict(list)
    for i, concepts in enumerate(concepts_of_examples(found, quiz)):
        for c in concepts:
            having[c].append(i)
    told = []
    for concept in found.concepts:
        rows = [i for i in having.get(concept.id, ()) if _loss(marks, "base", i) is not None]
        rows = [i for i in rows if _loss(marks, "tuned", i) is not None]
        if not rows:
            continue
        base, tuned = (
            math.exp(-sum(_loss(marks, which, i) or 0.0 for i in rows) / len(rows))
            for which in ("base", "tuned")
        )
        before, after = (_rouge(marks, which, rows) for which in ("base", "tuned"))
        verdict = "better" if tuned > base + CLEAR else "worse" if tuned < base - CLEAR else "same"
        told.append(
            Mastery(concept.id, concept.name, len(rows), base, tuned, before, after, verdict)
        )
    return sorted(told, key=lambda m: (-m.questions, m.name))


def _loss(marks: Mapping[str, Any], which: str, i: int) -> float | None:
    losses = (marks.get(which) or {}).get("losses") or []
    one = losses[i] if i < len(losses) else None
    return None if one is None else one["nll"] / max(1, one["tokens"])


def _rouge(marks: Mapping[str, Any], which: str, rows: Sequence[int]) -> float | None:
    written = (marks.get(which) or {}).get("answers") or []
    found = [written[i].get("rouge_l") for i in rows if i < len(written)]
    known = [float(x) for x in found if x is not None]
    return sum(known) / len(known) if known else None


# --- the document of the command line ------------------------------------------------------------


def report(found: ConceptMap, most_gaps: int = 20) -> dict[str, Any]:
    """What ``graph --json`` prints of a map: entities, relations, gaps, order, metrics."""
    texts = [p.text for p in found.passages]
    names = {c.id: c.name for c in found.concepts}
    shown_keys = {r.key for r in shown(found.relations)}

    def place(m: Any) -> dict[str, Any]:
        p = found.passages[m.passage]
        spot = {"where": p.where, "file": p.file, "role": p.role, "start": m.start, "end": m.end}
        return {**spot, "text": texts[m.passage]}

    entities = [
        {
            **{k: getattr(c, k) for k in ("id", "name", "kind", "confidence", "state")},
            "aliases": list(c.aliases),
            "count": len(c.mentions),
            "mentions": [place(m) for m in c.mentions[:5]],
        }
        for c in found.concepts
    ]
    relations = [
        {
            "source": names[r.source],
            "target": names[r.target],
            "source_id": r.source,
            "target_id": r.target,
            "kind": r.kind,
            "confidence": r.confidence,
            "state": r.state,
            "shown": r.key in shown_keys,
            "evidence": [texts[p] for p in r.evidence],
        }
        for r in found.relations
    ]
    order = [names[c] for c in teaching_order(found)]
    return {
        "name": found.name,
        "language": found.language,
        "questions": len(found.questions),
        "entities": entities,
        "relations": relations,
        "gaps": [g.to_json() for g in gaps(found, most_gaps)],
        "order": order,
        "metrics": found.metrics,
    }
