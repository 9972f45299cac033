"""How long a class is for a model, what its limit cuts off, and classes that teach nothing."""

from __future__ import annotations

import pytest

from core.data.chat import IGNORED, ChatFormat
from core.data.health.fixes import fixed
from core.data.health.lengths import BARS, forecast
from core.data.trainable import require_answers
from core.data.types import Example, Turn
from core.errors import DataError
from tests.data.made_tokenizers import families
from tests.data.test_fixes import version_of

FAMILIES = families()
LONG = "The first sentence is here. The second one follows it. The third one is never read."


def examples_of(*pairs: tuple[str, str]) -> list[Example]:
    return [Example.pair(q, a, f"row {i}") for i, (q, a) in enumerate(pairs, 2)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lengths_and_learned_tokens_are_those_of_training(family: str) -> None:
    chat = ChatFormat.of(FAMILIES[family])
    examples = examples_of(("What is it?", "A word."), ("光合作用是什么？", LONG))
    encoded = [chat.encode(e, 4000) for e in examples]
    found = forecast(chat, examples, 4000)
    assert found.lengths == [len(e.ids) for e in encoded]
    assert found.answer_tokens == sum(t != IGNORED for e in encoded for t in e.labels)
    assert found.teaching == 2
    assert found.longest == max(found.lengths)
    assert (found.cut, found.refused, found.problems(examples)) == ({}, [], [])


def test_every_example_stands_in_one_bar() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    found = forecast(chat, examples_of(*((f"q{n}", "x" * n * 7) for n in range(1, 60))), 4000)
    bars = found.histogram()
    assert sum(n for _, n in bars) == 59
    assert len(bars) <= BARS
    assert bars[-1][0] >= found.longest > bars[-1][0] - bars[0][0]
    width = bars[0][0]
    for upper, n in bars:
        assert n == sum(upper - width < length <= upper for length in found.lengths)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_cut_off_is_foretold_and_can_be_shortened(family: str) -> None:
    chat = ChatFormat.of(FAMILIES[family])
    pairs = ("q?", LONG), ("r?", "s")
    examples = examples_of(*pairs)
    limit = len(chat.encode(examples[0], 4000).ids) - 12
    found = forecast(chat, examples, limit)
    assert list(found.cut) == [0]
    assert LONG.startswith(LONG[: found.cut[0]])
    assert 0 < found.cut[0] < len(LONG)
    (problem,) = found.problems(examples)
    assert (problem.code, problem.where) == ("tokens.truncated", "row 2")
    after = fixed(version_of(*pairs), "tokens.truncated", [0], kept=found.cut)
    shorter = after.rows[0][1]
    assert LONG.startswith(shorter)
    assert shorter.endswith(".")
    assert forecast(chat, after.examples()[0], limit).cut == {}


def test_a_question_without_room_for_an_answer_is_named() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    examples = examples_of(("long question " * 40, "yes"), ("r?", "s"))
    found = forecast(chat, examples, 100)
    assert found.refused == [0]
    assert [(p.code, p.where) for p in found.problems(examples)] == [("tokens.no_room", "row 2")]


def test_later_turns_that_are_left_out_keep_no_character_of_the_last_answer() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    first = Example.pair("What is it?", "A word.")
    longer = Example((*first.turns, Turn("user", "And then? " * 30), Turn("assistant", "Stop.")))
    assert forecast(chat, [longer], 100).cut == {0: 0}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_end_of_turn_alone_teaches_nothing(family: str) -> None:
    chat = ChatFormat.of(FAMILIES[family])
    encoded = chat.encode(Example((Turn("user", "Hi"), Turn("assistant", ""))), 500)
    assert any(label != IGNORED for label in encoded.labels)
    with pytest.raises(DataError, match="all 1 answers are empty") as caught:
        require_answers(chat, [encoded], refused=0, limit=500)
    assert caught.value.code == "data.answers_empty"


@pytest.mark.parametrize(("empty", "refused", "said"), [
    (0, 3, "each of the 3 questions fills the 90 tokens"),
    (2, 3, "2 answers are empty, and 3 questions fill the 90 tokens"),
])  # fmt: skip
def test_a_class_that_teaches_nothing_is_refused_with_the_reason(
    empty: int, refused: int, said: str
) -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    nothing = chat.encode(Example((Turn("user", "Hi"), Turn("assistant", ""))), 500)
    with pytest.raises(DataError, match=said):
        require_answers(chat, [nothing] * empty, refused=refused, limit=90)


def test_one_learned_token_is_enough() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    require_answers(chat, [chat.encode(Example.pair("q", "a"), 99)], refused=5, limit=99)
