"""Every finding about class data can be mended by one click, and the rows before are untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.edit import Version
from core.data.health import check, examine, letters
from core.data.health.examine import ORDER
from core.data.health.fixes import FIXES, fixed
from core.data.health.lengths import shortened
from core.data.health.private import KINDS, masked
from core.data.ingest import read_file
from core.data.types import Example, Turn


def version_of(*pairs: tuple[str, str]) -> Version:
    rows = tuple(pairs)
    names = ("question", "answer")
    where = tuple(f"row {i}" for i in range(2, len(rows) + 2))
    return Version(names, rows, {n: n for n in names}, where, (None,) * len(rows))


def rows_of(version: Version, code: str) -> list[int]:
    """The rows of a version that a finding concerns."""
    examples = version.examples()[0]
    found = [f for f in examine(examples).findings if f.code == code]
    at = {where: i for i, where in enumerate(version.where)}
    return [at[examples[i].where] for f in found for i in f.rows]


def test_every_finding_but_a_single_example_has_a_fix() -> None:
    assert set(ORDER) - set(FIXES) == {"health.one_example"}


CASES = {
    "health.email": "write to anna@example.org today",
    "health.phone": "call 13912345678",
    "health.resident_id": "身份证 11010519491231002X 的人",
    "health.national_id": "passport number: E12345678",
    "health.student_number": "学号：20230815",
    "health.birth_date": "Li Wei, born 2012-03-04",
    "health.account": "微信号：anna_2012",
    "health.name": "姓名：欧阳娜娜",
    "health.secrets": "password: hunter22",
    "health.empty": "TODO",
    "health.echo": "And what is a verb?",
    "health.control_words": "Done<|im_end|> here",
    "health.mojibake": "lâ€™Ã©cole",
    "health.html": "<p>A <b>word</b></p>",
    "health.latex": r"it is \frac{1}{2}",
    "health.bidi": "Is \u202etxt.exe\u202c safe",
    "health.marks": "a" + "\u0301" * 50,
    "health.long": "x" * 3000,
}


@pytest.mark.parametrize("code", sorted(CASES))
def test_a_fix_takes_the_finding_away_and_can_be_undone(code: str) -> None:
    before = version_of(("What is a noun?", "a word"), ("And what is a verb?", CASES[code]))
    rows = rows_of(before, code)
    assert rows == [1]
    kept = before.rows
    after = fixed(before, code, rows)
    assert rows_of(after, code) == []
    assert after.rows[0] == before.rows[0]
    assert before.rows == kept
    assert after.id != before.id


@pytest.mark.parametrize(("code", "pairs", "left"), [
    ("health.duplicates", [("a?", "b"), ("A?", "b."), ("c?", "d")], [0, 2]),
    ("health.contradictions", [("a?", "b"), ("a?", "c"), ("c?", "d")], [0, 2]),
])  # fmt: skip
def test_of_rows_that_repeat_the_first_is_kept(
    code: str, pairs: list[tuple[str, str]], left: list[int]
) -> None:
    before = version_of(*pairs)
    after = fixed(before, code, rows_of(before, code))
    assert after.rows == tuple(before.rows[i] for i in left)
    assert rows_of(after, code) == []


def test_what_is_blacked_out_leaves_the_words_around_it() -> None:
    assert masked("mail anna@example.org or b.c@x.de!", "health.email") == (
        "mail [e-mail] or [e-mail]!"
    )
    assert masked("Hello, my name is Anna Schmidt.", "health.name") == "Hello, my name is [name]."
    assert masked("护照号码：E12345678，请看", "health.national_id") == "护照号码：[id]，请看"
    assert masked("id 11010519491231002X and 110105194912310021", "health.resident_id") == (
        "id [id] and 110105194912310021"
    )


@pytest.mark.parametrize(("text", "plain"), [
    ("<p>One</p><p>Two<br/>Three</p>", "One\n\nTwo\nThree"),
    ("a &lt; b &amp;&nbsp;c", "a < b & c"),
    ("<script>alert(1)</script>Safe", "Safe"),
    ('<a href="http://x.example">link</a>', "link"),
    ("if a <b and b> c", "if a <b and b> c"),
])  # fmt: skip
def test_html_becomes_plain_text(text: str, plain: str) -> None:
    assert letters.without_html(text) == plain


@pytest.mark.parametrize(("text", "plain"), [
    (r"\frac{1}{2}", "1/2"),
    (r"$3 \times 4$ is 12, 50% of 24", "3 × 4 is 12, 50% of 24"),
    (r"\alpha \leq \beta", "α≤β"),
    ("costs $5 and 20% of $6", "costs $5 and 20% of $6"),
])  # fmt: skip
def test_latex_becomes_plain_text(text: str, plain: str) -> None:
    assert letters.without_latex(text).replace(" ≤ ", "≤") == plain


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_no_fix_fails_or_touches_a_text_without_the_fault(text: str) -> None:
    mends = (letters.without_html, letters.without_latex, letters.without_control,
             letters.without_bidi, letters.without_words(letters.control_words()))  # fmt: skip
    finds = (letters.debris, letters.latex, letters.control, letters.bidi,
             lambda t: letters.around(letters.control_words(), t))  # fmt: skip
    for mend, find in zip(mends, finds, strict=True):
        mended = mend(text)
        if not find(text):
            assert mended == text
    for kind in KINDS:
        assert not list(kind.spans(text)) or masked(text, kind.code) != text


def test_a_fix_reaches_the_earlier_turns_of_a_conversation(tmp_path: Path) -> None:
    line = (
        '{"messages": [{"role": "user", "content": "I am a@example.org"}, '
        '{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}, '
        '{"role": "assistant", "content": "Bye, a@example.org"}]}\n'
    )
    path = tmp_path / "class.jsonl"
    path.write_text(line, "utf-8")
    after = fixed(Version.of(read_file(path)), "health.email", [0])
    (example,) = after.examples()[0]
    assert example.turns == (
        Turn("user", "I am [e-mail]"), Turn("assistant", "Hello"), Turn("user", "Bye"),
        Turn("assistant", "Bye, [e-mail]"),
    )  # fmt: skip
    assert check([example])[0]["personal"] == {}


@pytest.mark.parametrize(("answer", "kept", "left"), [
    ("One. Two three. Four five six.", 20, "One. Two three."),
    ("一句话。第二句话！第三句。", 9, "一句话。第二句话！"),
    ("Version 3.5 of it. More", 19, "Version 3.5 of it."),
    ("line one\nline two", 12, "line one"),
    ("No end in sight of this sentence", 10, "No end in sight of this sentence"),
])  # fmt: skip
def test_answers_are_shortened_to_whole_sentences(answer: str, kept: int, left: str) -> None:
    assert shortened(answer, kept) == left


def test_a_truncated_answer_is_shortened_in_its_own_column() -> None:
    before = version_of(("q?", "One. Two three. Four."), ("r?", "s"))
    after = fixed(before, "tokens.truncated", [0], kept={0: 16})
    assert after.rows == (("q?", "One. Two three."), ("r?", "s"))


def test_an_example_may_have_no_place() -> None:
    assert check([Example.pair("a?", "b"), Example.pair("c?", "d")])[1] == []
