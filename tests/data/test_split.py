from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.split import duplicate_groups, normalised, split
from core.data.types import Example


def examples_of(questions: list[str]) -> list[Example]:
    return [Example.pair(q, f"answer {i}", f"row {i + 2}") for i, q in enumerate(questions)]


def questions_of(side: tuple[Example, ...]) -> set[str]:
    return {e.question for e in side}


NAMES = ["osmosis", "mitosis", "gravity", "inertia", "erosion", "sonnet", "metaphor", "treaty"]
LONG = "Which part of the plant cell takes in the light of the sun and makes sugar from it"
WORDS = st.sampled_from(["cell", "root", "leaf", "Leaf", "sun", "为什么", "细胞", "7", "8", "?"])
QUESTIONS = st.lists(st.lists(WORDS, min_size=1, max_size=9).map(" ".join), max_size=40)


@settings(max_examples=60, deadline=None)
@given(QUESTIONS, st.integers(0, 3))
def test_no_group_is_on_both_sides(questions: list[str], seed: int) -> None:
    examples = examples_of(questions)
    found = split(examples, share=0.3, largest=40, seed=seed)
    for group in duplicate_groups(examples):
        in_quiz = {examples[i] in found.quiz for i in group}
        assert len(in_quiz) == 1
    assert len(found.train) + len(found.quiz) == len(examples)
    assert set(found.train).isdisjoint(found.quiz)


@settings(max_examples=40, deadline=None)
@given(QUESTIONS, st.randoms(use_true_random=False))
def test_sides_do_not_depend_on_the_order_of_rows(
    questions: list[str], shuffler: random.Random
) -> None:
    examples = examples_of(questions)
    shuffled = examples.copy()
    shuffler.shuffle(shuffled)
    first = split(examples, share=0.25, largest=40, seed=1)
    second = split(shuffled, share=0.25, largest=40, seed=1)
    assert set(first.quiz) == set(second.quiz)
    assert first == split(examples, share=0.25, largest=40, seed=1)


def test_sides_keep_the_order_of_the_file() -> None:
    examples = examples_of([f"question number {i} of many" for i in range(50)])
    found = split(examples, share=0.2, largest=40, seed=0)
    assert list(found.train) == [e for e in examples if e in found.train]
    assert len(found.quiz) == 10


def test_another_seed_draws_another_quiz() -> None:
    examples = examples_of([f"question number {i} of many" for i in range(50)])
    quizzes = {split(examples, share=0.2, largest=40, seed=s).quiz for s in range(4)}
    assert len(quizzes) == 4


def test_quiz_is_no_larger_than_asked() -> None:
    examples = examples_of([f"question {i}" for i in range(50)])
    assert len(split(examples, share=0.5, largest=7, seed=0).quiz) == 7
    assert split(examples, share=0.0, largest=7, seed=0).quiz == ()
    assert split(examples, share=0.3, largest=0, seed=0).quiz == ()


def test_case_width_and_punctuation_do_not_make_another_question() -> None:
    english = ["What is DNA?", "what  is dna", "\uff37hat is DNA !"]
    groups = duplicate_groups(examples_of([*english, "光合作用是什么？", "光合作用 是什么"]))
    assert groups == [[0, 1, 2], [3, 4]]


def test_near_duplicates_are_one_group() -> None:
    changed = LONG.replace("of the sun", "of a sun")
    other = "Name the bones of the human hand and say how many there are"
    assert duplicate_groups(examples_of([LONG, other, LONG + " please", changed]))[0] == [0, 2, 3]


def test_questions_with_other_numbers_are_not_duplicates() -> None:
    story = "A farmer has {} cows and buys {} more at the market; how many cows does he have now"
    groups = duplicate_groups(examples_of([story.format(3, 4), story.format(5, 4)]))
    assert groups == [[0], [1]]


def test_an_instruction_repeated_in_every_row_does_not_make_duplicates() -> None:
    instruction = "Read the question with care and answer it in one short sentence that a pupil of "
    instruction += "the sixth form can understand without a dictionary and without any help: "
    groups = duplicate_groups(examples_of([f"{instruction}what is {n}" for n in NAMES]))
    assert len(groups) == len(NAMES)


@pytest.mark.parametrize(("count", "quiz", "code"), [
    (1, 0, "split.no_quiz"),
    (3, 0, "split.no_quiz"),
    (4, 1, "split.small_quiz"),
    (7, 1, "split.small_quiz"),
    (8, 1, ""),
])  # fmt: skip
def test_small_classes_say_so(count: int, quiz: int, code: str) -> None:
    found = split(examples_of(NAMES[:count]), share=0.15, largest=40, seed=0)
    assert len(found.quiz) == quiz
    assert [p.code for p in found.problems] == ([code] if code else [])


def test_a_class_of_large_groups_still_gets_a_quiz() -> None:
    questions = [f"{word} again" for word in ("alpha", "beta", "gamma", "delta") for _ in range(10)]
    found = split(examples_of(questions), share=0.1, largest=40, seed=0)
    assert len(found.quiz) == 10
    assert questions_of(found.quiz).isdisjoint(questions_of(found.train))


def test_thousands_of_templated_rows_stay_apart() -> None:
    questions = [f"What is {i % 97} plus {i} in the decimal system" for i in range(4000)]
    assert len(duplicate_groups(examples_of(questions))) == 4000


def test_other_signs_make_another_question() -> None:
    questions = ["What is 8 + 4?", "What is 8 × 4?", "What is 8-4?", "What is 8 / 4?"]
    assert len(duplicate_groups(examples_of(questions))) == 4


def test_text_without_words_stays_itself() -> None:
    assert normalised("?!") == "?!"
    assert normalised("¿Qué  ES?") == "qué es"
