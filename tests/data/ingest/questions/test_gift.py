"""GIFT against the parses that the grammar's own project keeps, and what they leave out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.data.ingest.gift import Gift, looks_like_gift, parse_gift
from core.data.messages import Findings
from core.data.types import ReadResult

Read = Callable[..., ReadResult]
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "educator_files" / "gift"
EXPECTED = sorted(SHARED.glob("*.expected.json")) if SHARED.is_dir() else []


def as_expected(gift: Gift) -> dict[str, Any]:
    """Return a question in the shape of the expected parses."""

    def text(content: str) -> dict[str, str] | None:
        return {"format": gift.format, "text": content} if content else None

    tree: dict[str, Any] = {
        "id": None, "tags": None, "type": gift.kind, "title": gift.title or None,
        "stem": text(gift.stem), "hasEmbeddedAnswers": gift.embedded,
        "globalFeedback": text(gift.feedback),
    }  # fmt: skip
    if gift.kind == "TF":
        first, second = gift.right_feedback, gift.wrong_feedback
        tree |= {
            "isTrue": gift.true,
            "trueFeedback": text(first if gift.true else second),
            "falseFeedback": text(second if gift.true else first),
        }
    elif gift.kind == "Matching":
        tree["matchPairs"] = [{"subquestion": text(a), "subanswer": b} for a, b in gift.pairs]
    elif gift.kind == "Numerical":
        numbers = [_number(n.middle, n.tolerance) for n in gift.numbers]
        single = len(numbers) == 1 and gift.choices[0].weight is None
        tree["choices"] = numbers[0] if single else _choices(gift, numbers, text)
    else:
        tree["choices"] = _choices(gift, [text(c.text) for c in gift.choices], text)
    return tree


def _number(middle: str, tolerance: str) -> dict[str, Any]:
    if tolerance:
        return {"type": "range", "number": float(middle), "range": float(tolerance)}
    return {"type": "simple", "number": float(middle)}


def _choices(gift: Gift, texts: list[Any], text: Callable[[str], Any]) -> list[dict[str, Any]]:
    return [
        {"isCorrect": c.right, "weight": c.weight, "text": t, "feedback": text(c.feedback)}
        for c, t in zip(gift.choices, texts, strict=True)
    ]


@pytest.mark.skipif(not EXPECTED, reason="needs ../shared/data/educator_files")
@pytest.mark.parametrize("path", EXPECTED, ids=lambda p: p.name)
def test_the_parses_agree_with_the_expected_ones(path: Path) -> None:
    findings = Findings()
    source = path.with_name(path.name.replace(".expected.json", ".gift"))
    found = [as_expected(g) for g in parse_gift(source.read_text("utf-8"), findings)]
    assert not findings.problems()
    expected = json.loads(path.read_text("utf-8"))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs


def test_both_feedbacks_of_true_and_false_keep_their_places() -> None:
    text = "::q:: It is so. {FALSE#wrong#right####overall}"
    (gift,) = parse_gift(text, Findings())
    assert (gift.true, gift.wrong_feedback, gift.right_feedback, gift.feedback) == (
        False, "wrong", "right", "overall",
    )  # fmt: skip


@pytest.mark.parametrize(("text", "asked", "told"), [
    ("2+2? {=4 =four}", "2+2?", "4"),
    ("Which? {~%50%a ~%50%b ~%-100%c}", "Which?\nA. a\nB. b\nC. c", "a; b"),
    ("[html]<p>2 &lt; 3?</p>{T}", "2 < 3?", "True"),
    ("[plain]<p>?{=yes}", "<p>?", "yes"),
    (r"Set \{1\}\: which \= sign? {=\#}", "Set {1}: which = sign?", "#"),
    ("Pick. {#1..5}", "Pick.", "1 – 5"),
    ("It is {=blue} here", "It is _____ here", "blue"),
    ("Match. {=a -> 1 =b -> 2}", "Match.\n- a\n- b\n[1 / 2]", "a → 1\nb → 2"),
])  # fmt: skip
def test_each_kind_becomes_words(text: str, asked: str, told: str, read: Read) -> None:
    result = read("quiz.gift", text)
    assert [(e.question, e.answer) for e in result.examples] == [(asked, told)]
    assert result.format == "gift"


def test_categories_comments_and_blank_lines_in_braces(read: Read) -> None:
    text = "// note\n$CATEGORY: top/Sums\n\n::a::1+1? {\n=2\n\n~3\n}\n\nJust a text.\n\nEssay? {}\n"
    result = read("quiz.gift", text)
    assert result.rows[0] == ("1+1?\nA. 2\nB. 3", "2", "top / Sums")
    found = {p.code: p.where for p in result.problems}
    assert found["question.description"] == "line 10"
    assert found["question.no_answer"] == "line 12"


@pytest.mark.parametrize(("bad", "fault"), [
    ("Open? {=a", "never closed"),
    ("Shut? a}", "never opened"),
    ("Two? {=a} {=b}", "two places"),
    ("Number? {#=abc}", "no number"),
    ("Bare? {a b}", "neither"),
    ("Text? {x =a}", "before the answers"),
])  # fmt: skip
def test_a_bad_paragraph_is_named_and_the_others_are_read(bad: str, fault: str, read: Read) -> None:
    result = read("quiz.gift", f"2+2? {{=4}}\n\n{bad}\n\n::next::3+3? {{=6}}\n")
    assert [e.answer for e in result.examples] == ["4", "6"]
    (told,) = [p for p in result.problems if p.code == "question.bad_block"]
    assert told.where == "line 3"
    assert fault in told.what


@pytest.mark.parametrize("text", [
    "question,answer\n{=a},b\n",
    '{"a": "{=b}"}',
    "def f():\n    return {x = 1}\n",
    "No braces at all.",
])  # fmt: skip
def test_other_texts_are_no_gift(text: str, read: Read) -> None:
    if "," in text and "question" in text:
        assert read("class.csv", text).format == "csv"
    else:
        assert not looks_like_gift(text)
