from __future__ import annotations

import pytest

from core.data.health import check, is_resident_id
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
