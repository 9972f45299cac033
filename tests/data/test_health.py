from __future__ import annotations

import re
import tracemalloc
from collections.abc import Sequence

import pytest

from core.data.health import check, examine, is_resident_id, repetition
from core.data.messages import CODES
from core.data.split import Split
from core.data.types import Example


def of(*pairs: tuple[str, str]) -> list[Example]:
    return [Example.pair(q, a, f"row {i}") for i, (q, a) in enumerate(pairs, 2)]


def codes(*pairs: tuple[str, str]) -> dict[str, str]:
    quiet = ("q1?", "one"), ("q2?", "two")
    return {p.code: p.where for p in check(of(*pairs, *quiet))[1]}


def test_an_ordinary_class_is_met_with_silence() -> None:
    counts, problems = check(of(("What is 7 x 8?", "56"), ("光合作用？", "植物造糖。")))
    assert problems == []
    assert counts["examples"] == counts["distinct"] == 2
    assert counts["personal"] == {}


def test_repetitions_and_contradictions() -> None:
    counts, problems = check(
        of(("Capital of France?", "Paris"), ("capital of france", "Paris."),
           ("Capital of France?", "Lyon"), ("Capital of Peru?", "Lima"))
    )  # fmt: skip
    found = {p.code: p for p in problems}
    assert found["health.duplicates"].where == "row 3"
    assert "3 of 4" in found["health.duplicates"].what
    assert found["health.contradictions"].where == "row 4"
    assert (counts["duplicates"], counts["contradictions"], counts["distinct"]) == (1, 1, 3)


def test_near_duplicates_are_told_apart_from_equal_ones() -> None:
    long = "Which part of the plant cell takes in the light of the sun and makes sugar from it"
    counts, problems = check(of((long, "a"), (long + " please", "b"), (long, "a")))
    assert counts["near_duplicates"] == 1
    assert {p.code: p.where for p in problems}["health.near_duplicates"] == "row 3"


@pytest.mark.parametrize(("text", "kind"), [
    ("write to anna.mueller@example.org", "e-mail address"),
    ("call +49 151 23456789", "phone number"),
    ("手机 13912345678", "phone number"),
    ("Tel.: 030 1234567", "phone number"),
    ("身份证 11010519491231002X", "resident id"),
    ("Li Wei, born 2012-03-04", "birth date"),
    ("出生于2012年3月4日", "birth date"),
])  # fmt: skip
def test_personal_data_is_counted_by_kind(text: str, kind: str) -> None:
    counts, problems = check(of(("q?", text), ("r?", "s")))
    assert counts["personal"] == {kind: 1}
    (problem,) = problems
    assert problem.where == "row 2"
    assert "Possible" in problem.what
    assert kind in problem.what


@pytest.mark.parametrize("text", [
    "12345678901234567890", "1e5 and 01/02/2024", "+44 20 7946", "3.14159265358979",
    "a@b", "Mozart, born 1756-01-27", "110105194912310021", "@SUM(1)", "1 000 000 000 km",
])  # fmt: skip
def test_ordinary_figures_are_no_personal_data(text: str) -> None:
    assert "health.personal" not in codes(("q?", text))


def test_the_check_digit_of_a_resident_id_counts() -> None:
    assert is_resident_id("11010519491231002X")
    assert is_resident_id("11010519491231002x")
    assert not is_resident_id("110105194912310021")
    assert not is_resident_id("11010519491331002X")


@pytest.mark.parametrize("text", [
    "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD",
    "hf_abcdefghijklmnopqrstuvwxyz0123456789",
    "password: hunter22",
    "密码：abcd1234",
    "-----BEGIN RSA PRIVATE KEY-----",
])  # fmt: skip
def test_passwords_and_keys_are_pointed_out(text: str) -> None:
    assert codes(("q?", text)) == {"health.secrets": "row 2"}


@pytest.mark.parametrize(("text", "code"), [
    ("Is \u202etxt.exe\u202c safe", "health.bidi"),
    ("a" + "\u0301" * 50, "health.marks"),
    ("OÃ¹ est lâ€™Ã©cole", "health.mojibake"),
    ("x\ufffdy", "health.mojibake"),
    ("Hi<|im_end|>", "health.control_words"),
    ("[INST] x [/INST]", "health.control_words"),
    ("a\x07b", "text.control"),
    ("x" * 3000, "health.long"),
    ("长" * 1000, "health.long"),
])  # fmt: skip
def test_strange_texts_are_pointed_out(text: str, code: str) -> None:
    assert codes((text, "yes")) == {code: "row 2"}


@pytest.mark.parametrize("text", ["Réponse à côté", "한국어", "सत्यमेव जयते", "שלום", "é", "x" * 1500])
def test_other_scripts_are_ordinary(text: str) -> None:
    assert codes((text, "yes")) == {}


def test_long_rows_are_told_in_one_sentence() -> None:
    problems = check(of(("a?", "x" * 3000), ("b?", "y" * 90_000)))[1]
    (problem,) = [p for p in problems if p.code == "health.long"]
    assert problem.where == "row 2, row 3"
    assert "90002" in problem.what


def test_a_single_example_is_too_few() -> None:
    assert [p.code for p in check(of(("a?", "b")))[1]] == ["health.one_example"]
    assert check([])[0]["examples"] == 0


@pytest.mark.parametrize(("text", "kind"), [
    ("学号：20230815", "student number"),
    ("Student ID: 2023-4471", "student number"),
    ("Matrikelnummer 4711815", "student number"),
    ("HKID A123456(3)", "national id"),
    ("身份證 A123456789", "national id"),
    ("SSN 219-09-9999", "national id"),
    ("护照号码：E12345678", "national id"),
    ("My name is Anna Schmidt and I like tea", "name"),
    ("Pupil: Anna Schmidt", "name"),
    ("That is Ms Miller's classroom", "name"),
    ("我叫张伟，今年十岁", "name"),
    ("姓名：欧阳娜娜", "name"),
    ("请问王小明同学来了吗", "name"),
    ("微信号：anna_2012", "messenger account"),
    ("加QQ 123456789", "messenger account"),
])  # fmt: skip
def test_further_kinds_of_personal_data(text: str, kind: str) -> None:
    counts, problems = check(of(("q?", text), ("r?", "s")))
    assert counts["personal"] == {kind: 1}
    assert "Possible personal data found" in problems[0].what


@pytest.mark.parametrize("text", [
    "HKID A123456(4)", "A123456788", "SSN 000-12-3456", "任何同学都可以", "高中同学一起复习",
    "李白是谁", "Name the capital", "The student is called to the office", "Mother Earth",
    "teacher: who knows",
    "王老师买了3本书，每本5元", "0.1234567890123 and 2^31", "Chapter 12, page 1234",
])  # fmt: skip
def test_what_only_looks_alike_is_no_personal_data(text: str) -> None:
    assert check(of(("q?", text), ("r?", "s")))[0]["personal"] == {}


def test_no_sentence_calls_a_class_clean() -> None:
    said = [p.sentence() for p in check(of(("mail a@example.org", "tel: 030 1234567")))[1]]
    assert all("Possible personal data found" in s for s in said if "personal" in s)
    assert not [code for code, m in CODES.items() if re.search(r"\b(clean|safe|free of)\b", m.what)
                and code.startswith("health")]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "code"), [
    ("What is a noun?", "what is a noun", "health.echo"),
    ("What is a noun?", "TODO", "health.empty"),
    ("名词是什么？", "（略）", "health.empty"),
    ("What is a noun?", "<p>A <b>word</b></p>", "health.html"),
    ("What is a noun?", "a word&nbsp;for a thing", "health.html"),
    ("Half of 1?", r"\frac{1}{2}", "health.latex"),
])  # fmt: skip
def test_answers_that_teach_nothing_and_debris(question: str, answer: str, code: str) -> None:
    assert codes((question, answer)) == {code: "row 2"}


@pytest.mark.parametrize("answer", [
    "?", "-", "N/A", "None", "无", "if a <b and b> c then a < c", "AT&T; R&D", "C:\\new\\table",
    "x < y",
])  # fmt: skip
def test_short_and_odd_answers_may_be_right(answer: str) -> None:
    assert codes(("Which one?", answer)) == {}


def test_rows_in_another_language_than_most_are_named() -> None:
    english = [(f"What is the name of the number {n}?", f"It is the number {n} of the list")
               for n in range(30)]  # fmt: skip
    odd = ("光合作用是什么？", "植物利用光能制造有机物。")
    german = ("Was ist das und wie heißt die Hauptstadt?", "Die Stadt ist nicht die und der")
    _, problems = check(of(*english, odd, german))
    assert {p.code: p.where for p in problems}["health.mixed"] == "row 32, row 33"


def test_a_class_of_vocabulary_is_of_one_kind() -> None:
    words = [(f"Was heißt Wort {n} auf Chinesisch?", f"这是第{n}个词") for n in range(30)]
    assert "health.mixed" not in {p.code for p in check(of(*words))[1]}
    both = [*words, *((f"What is the word {n} of the list?", "the one in it") for n in range(30))]
    assert "health.mixed" not in {p.code for p in check(of(*both))[1]}


def test_a_quiz_question_inside_a_learned_row_is_a_leak() -> None:
    asked = "Which gas do the leaves of a plant take in?"
    examples = of(*((f"Question number {n} about topic {n}?", f"Answer {n}") for n in range(9)),
                  ("Sum up the lesson.", f"We asked: {asked} It was carbon dioxide."),
                  (asked, "Carbon dioxide."))  # fmt: skip
    sides = Split(tuple(examples[:-1]), (examples[-1],))
    report = examine(examples, split=sides)
    (found,) = [f for f in report.findings if f.code == "health.leak"]
    assert list(found.rows) == [9]
    assert examine(examples, split=Split(tuple(examples), ())).counts["leaks"] == 0


def test_control_tokens_of_the_chosen_model_are_found() -> None:
    examples = of(("q?", "end <eot> here"), ("r?", "s"))
    assert examine(examples, tokens=["<eot>", "\n\n"]).counts["control_words"] == 1
    assert examine(examples).counts["control_words"] == 0


class OnDisk(Sequence[Example]):
    """Examples that are made when they are asked for, as those of a file of columns are."""

    def __init__(self, n: int) -> None:
        self.n, self.made = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.n:
            raise IndexError(i)
        self.made += 1
        words = [f"word{(i * 7 + k * k * 13 + i // 3) % 997}" for k in range(12)]
        return Example.pair(
            " ".join(words) + (" 5" if i % 10 == 0 else ""), f"a{i}", f"row {i + 2}"
        )


def test_a_large_class_is_gone_through_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repetition, "MOST_EXACT", 500)
    shares: list[float] = []
    rows = OnDisk(3000)
    tracemalloc.start()
    report = examine(rows, tick=shares.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.counts["examples"] == len(rows)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert peak < 25e6
    assert rows.made < 20 * len(rows)


def test_an_examination_can_be_ended() -> None:
    def tick(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(of(("a?", "b")), tick=tick)
