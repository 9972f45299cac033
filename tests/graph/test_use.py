"""What a map says to a teacher: gaps, order, a quiz by concept, mastery, weights, files."""

import csv
import io
import json
import math
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.types import Example
from core.errors import ConfigError
from core.graph import use, words
from core.graph.formats import files_of
from core.graph.types import Concept, Relation, concept_id


def test_the_gap_is_what_the_formula_says(small):
    now = small.current()
    values = use.gap_values(now)
    # Eight different questions. Two ask about denominators and one answer explains them; fractions
    # come after (0.9, three questions), then ratios (0.9 x 0.7, three questions).
    asked = use.asked_by_concept(now)
    counts = {c.name: len(asked[c.id]) for c in now.concepts}
    assert counts == {"fraction": 3, "denominator": 2, "numerator": 1, "ratio": 3, "polygon": 1}
    told, sentences = use.supply_of(now)[concept_id("denominator")]
    assert sentences == 1
    assert told == pytest.approx(1 - math.exp(-(1 + use.NAMED) / 3))
    demand = 2 / 8 + 0.9 * 3 / 8 + 0.9 * 0.7 * 3 / 8
    assert values[concept_id("denominator")] == pytest.approx((1 - told) * demand)


def test_a_teacher_reads_which_questions_no_answer_prepares_for(small):
    said = [g.sentence for g in use.gaps(small.current())]
    assert "3 questions need “ratio”; no answer explains it." in said
    assert not any("polygon" in s for s in said)  # explained, and asked once
    chinese = use.gaps(replace(small.current(), language="zh"))
    assert "有 3 道题要用到“ratio”，但没有一个答案讲清它。" in [g.sentence for g in chinese]


def test_questions_that_ask_the_same_count_once(small):
    now = small.current()
    groups = tuple(replace(q, group=0) for q in now.questions)
    before = {g.name: g.questions for g in use.gaps(now)}
    after = {g.name: g.questions for g in use.gaps(replace(now, questions=groups))}
    assert before["ratio"] == 3
    assert after["ratio"] == 1


def test_an_explanation_closes_a_gap(small):
    now = small.current()
    answer = now.passages[now.questions[2].answers[0]]
    told = replace(answer, text="A ratio is a comparison of two numbers.")
    passages = tuple(told if p.id == answer.id else p for p in now.passages)
    ratio = now.named("ratio")
    here = (*ratio.mentions, replace(ratio.mentions[0], passage=told.id, start=2, end=7))
    concepts = tuple(replace(c, mentions=here) if c is ratio else c for c in now.concepts)
    values = [
        use.gap_values(m)[ratio.id]
        for m in (now, replace(now, passages=passages, concepts=concepts))
    ]
    assert values[1] < values[0] * 0.8


def test_prerequisites_come_first_in_the_order_of_teaching(small):
    now = small.current()
    order = use.teaching_order(now)
    assert sorted(order) == sorted(c.id for c in now.concepts)
    for r in now.relations:
        assert order.index(r.source) < order.index(r.target)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 0.5))
def test_no_learned_question_asks_about_a_held_out_concept(small, examples, seed, share):
    now = small.current()
    sides = use.split_by_concept(now, examples, share=share, largest=10, seed=seed)
    assert len(sides.train) + len(sides.quiz) == len(examples)
    assert len(sides.quiz) <= round(share * len(examples))
    learned = set().union(*use.concepts_of_examples(now, sides.train))
    for concepts in use.concepts_of_examples(now, sides.quiz):
        assert concepts - learned or not concepts
    if sides.quiz:
        assert use.held_concepts(now, sides)
    assert sides == use.split_by_concept(now, examples, share=share, largest=10, seed=seed)


def test_mastery_is_the_mean_probability_of_an_answers_token(small, examples):
    quiz = [examples[2], examples[4]]  # both ask about ratios, one about fractions
    losses = [{"nll": 2.0, "tokens": 2}, {"nll": 9.0, "tokens": 3}]
    better = [{"nll": 0.2, "tokens": 2}, {"nll": 0.3, "tokens": 3}]
    written = [{"rouge_l": 0.2}, {"rouge_l": 0.4}]
    marks = {"base": {"losses": losses, "answers": written}, "tuned": {"losses": better}}
    told = {m.name: m for m in use.mastery(small.current(), quiz, marks)}
    assert set(told) == {"ratio", "fraction"}
    assert told["ratio"].base == pytest.approx(math.exp(-(1 + 3) / 2))
    assert told["ratio"].tuned == pytest.approx(math.exp(-0.1))
    assert told["fraction"].base == pytest.approx(math.exp(-3))
    assert told["ratio"].rouge_base == pytest.approx(0.3)
    assert (told["ratio"].rouge_tuned, told["ratio"].verdict) == (None, "better")


def test_a_question_too_long_to_be_marked_is_left_out(small, examples):
    marks = {w: {"losses": [None, {"nll": 1.0, "tokens": 1}]} for w in ("base", "tuned")}
    told = use.mastery(small.current(), [examples[2], examples[3]], marks)
    assert [(m.name, m.questions) for m in told] == [("ratio", 1)]


def test_examples_of_larger_gaps_count_more_but_at_most_three_times(small, examples):
    weights = use.example_weights(small.current(), [*examples, Example.pair("Hello?", "Hi")])
    assert weights[-1] == 1
    assert max(weights) == pytest.approx(use.MOST_WEIGHT)
    assert weights[0] > weights[7]  # a fraction's question before a polygon's


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99))
def test_repeating_by_weight_loses_no_example(examples, seed):
    weights = [1 + 0.25 * i for i in range(len(examples))]
    found = use.repeated(examples, weights, seed)
    for example, weight in zip(examples, weights, strict=True):
        assert found.count(example) in {math.floor(weight), math.ceil(weight)}
    assert found == use.repeated(examples, weights, seed)


def test_graph_programs_read_the_graphml(small):
    now = small.current()
    odd = Concept(concept_id("odd"), "<b> & \x00 ü", mentions=())
    files = files_of(replace(now, concepts=(*now.concepts, odd)), "graphml")
    graph = nx.parse_graphml(files["map.graphml"].decode(), force_multigraph=True)
    assert {d["label"] for _, d in graph.nodes(data=True)} == {
        *(c.name for c in now.concepts),
        "<b> &   ü",
    }
    edges = {(a, b, d["kind"]) for a, b, d in graph.edges(data=True)}
    assert edges == {(r.source, r.target, r.kind) for r in now.relations}


def test_tables_hold_every_row_and_no_formula(small):
    now = small.current()
    odd = Concept(concept_id("odd"), "=1+1")
    edge = Relation(odd.id, now.concepts[0].id, "part-of", 0.5)
    wide = replace(now, concepts=(*now.concepts, odd), relations=(*now.relations, edge))
    files = files_of(wide, "csv")
    rows = {
        name: list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        for name, data in files.items()
    }
    assert len(rows["concepts.csv"]) == 6
    assert len(rows["relations.csv"]) == 4
    assert rows["concepts.csv"][-1]["name"] == rows["relations.csv"][-1]["source"] == "'=1+1"


def test_the_report_is_one_document_with_what_the_contract_names(small):
    told = json.loads(files_of(small.current(), "json")["map.json"])
    assert {"entities", "relations", "gaps", "metrics"} <= told.keys()
    entity = next(e for e in told["entities"] if e["name"] == "ratio")
    spot = entity["mentions"][0]
    assert spot["text"][spot["start"] : spot["end"]] == "ratio"
    assert spot["where"] == "row 4"


def test_edges_that_follow_from_others_are_not_shown(small):
    now = small.current()
    detour = Relation(concept_id("denominator"), concept_id("ratio"), "prerequisite", 0.9)
    told = use.report(replace(now, relations=(*now.relations, detour)))
    assert [r["shown"] for r in told["relations"]] == [True, True, True, False]


def test_an_unknown_format_is_refused(small):
    with pytest.raises(ConfigError, match="not written"):
        files_of(small.current(), "pdf")


def test_both_languages_have_the_same_sentences_and_fields():
    one, two = words.texts("en"), words.texts("zh")
    assert one.keys() == two.keys()
    for key, text in one.items():
        fields = {f for f in ("{name}", "{explained}", "{source}", "{target}") if f in text}
        assert fields == {
            f for f in ("{name}", "{explained}", "{source}", "{target}") if f in two[key]
        }
