from __future__ import annotations

from collections.abc import Callable

import pytest

from core.data.types import ReadResult
from core.errors import DataError

Read = Callable[..., ReadResult]


def quiz(*questions: str) -> str:
    return '<?xml version="1.0" encoding="UTF-8"?>\n<quiz>\n' + "\n".join(questions) + "\n</quiz>"


def question(kind: str, stem: str, rest: str = "") -> str:
    text = f'<questiontext format="html"><text><![CDATA[{stem}]]></text></questiontext>'
    return f'<question type="{kind}">{text}{rest}</question>'


def answer(text: str, fraction: int = 100, feedback: str = "") -> str:
    said = f"<feedback><text>{feedback}</text></feedback>" if feedback else ""
    return f'<answer fraction="{fraction}" format="html"><text>{text}</text>{said}</answer>'


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in result.examples]


def test_a_choice_is_a_question_with_its_options_and_the_answer_in_words(read: Read) -> None:
    options = answer("Lyon", 0, "too small") + answer("Paris", 100, "well done")
    result = read("quiz.xml", quiz(question("multichoice", "Capital of <b>France</b>?", options)))
    assert pairs(result) == [("Capital of France?\nA. Lyon\nB. Paris", "Paris")]
    explanation = result.rows[0][result.columns.index("explanation")]
    assert explanation == "well done\nLyon: too small"
    assert "question.html" in {p.code for p in result.problems}


def test_several_right_choices_are_all_learned(read: Read) -> None:
    options = answer("2", 50) + answer("3", 50) + answer("4", -100)
    content = question("multichoice", "Which are prime?", f"<single>false</single>{options}")
    assert pairs(read("quiz.xml", quiz(content)))[0][1] == "2; 3"


@pytest.mark.parametrize(("kind", "stem", "rest", "asked", "told"), [
    ("truefalse", "2 > 1", answer("true") + answer("false", 0), "2 > 1", "True"),
    ("shortanswer", "2+2?", answer("4") + answer("four"), "2+2?", "4"),
    ("shortanswer", "Sign?", answer("&lt;b&gt;"), "Sign?", "<b>"),
    ("numerical", "Pi?", answer("3.14") + "<units><unit><unit_name>rad</unit_name></unit></units>",
     "Pi?", "3.14 rad"),
    ("matching", "Match.",
     "<subquestion><text>one</text><answer><text>1</text></answer></subquestion>"
     "<subquestion><text>two</text><answer><text>2</text></answer></subquestion>"
     "<subquestion><text></text><answer><text>3</text></answer></subquestion>",
     "Match.\n- one\n- two\n[1 / 2 / 3]", "one → 1\ntwo → 2"),
    ("cloze", "The {1:SHORTANSWER:=cat#yes~%50%dog} sat on {1:MC:~a hat~=a mat}.", "",
     "The (1) ____ sat on (2) ____ [a hat / a mat].", "(1) cat\n(2) a mat"),
    ("cloze", "It is {2:NM:=42:0.5}.", "", "It is ____.", "42"),
    ("cloze", r"Set {1:SA:=\{1\}~%0%x}?", "", "Set ____?", "{1}"),
    ("gapselect", "A [[2]] has [[1]] legs.",
     "<selectoption><text>six</text><group>1</group></selectoption>"
     "<selectoption><text>fly</text><group>2</group></selectoption>"
     "<selectoption><text>two</text><group>1</group></selectoption>",
     "A (1) ____ has (2) ____ [six / two] legs.", "(1) fly\n(2) six"),
    ("gapfill", "The [cat|dog] sat.", "<answerdisplay>gapfill</answerdisplay>",
     "The ____ sat.", "cat"),
    ("gapfill", r"Mixing [colou?rs] and [black\s+and\s+white].",
     "<answerdisplay>gapfill</answerdisplay>", "Mixing (1) ____ and (2) ____.",
     "(1) colours\n(2) black and white"),
    ("gapfill", "[a|b] then [a|b]", "<answerdisplay>dragdrop</answerdisplay>" + answer("c", 0),
     "(1) ____ then (2) ____\n[a / b / c]", "(1) a\n(2) b"),
    ("ordering", "Sort.", answer("small") + answer("large"), "Sort.\n- large\n- small",
     "1. small\n2. large"),
    ("kprime", "Which hold?",
     '<row number="1"><optiontext><text>1 = 1</text></optiontext></row>'
     '<row number="2"><optiontext><text>1 = 2</text></optiontext></row>'
     '<column number="1"><responsetext><text>True</text></responsetext></column>'
     '<column number="2"><responsetext><text>False</text></responsetext></column>'
     '<weight rownumber="1" columnnumber="1"><value>1.0</value></weight>'
     '<weight rownumber="2" columnnumber="2"><value>1.0</value></weight>',
     "Which hold?\n- 1 = 1\n- 1 = 2\n[False / True]", "1 = 1 → True\n1 = 2 → False"),
    ("stack", "2+2? [[input:ans1]] [[validation:ans1]]", "<input><tans>4</tans></input>",
     "2+2?", "4"),
])  # fmt: skip
def test_each_type_has_a_question_and_an_answer_in_words(
    kind: str, stem: str, rest: str, asked: str, told: str, read: Read
) -> None:
    assert pairs(read("quiz.xml", quiz(question(kind, stem, rest)))) == [(asked, told)]


@pytest.mark.parametrize(("kind", "stem", "rest", "code"), [
    ("stack", "{@a@}+1?", "<input><tans>ta</tans></input>", "question.computed"),
    ("calculated", "{x}+{y}?", answer("{x}+{y}"), "question.computed"),
    ("ddmarker", "Where is it?", "", "question.unknown_type"),
    ("essay", "Discuss.", "", "question.no_answer"),
    ("multichoice", "None is right?", answer("a", 0), "question.no_answer"),
    ("cloze", "No gap at all", "", "question.no_answer"),
])  # fmt: skip
def test_what_has_no_answer_stays_as_a_row_that_says_why(
    kind: str, stem: str, rest: str, code: str, read: Read
) -> None:
    good = question("shortanswer", "2+2?", answer("4"))
    result = read("quiz.xml", quiz(good, question(kind, stem, rest)))
    assert len(result.examples) == 1
    assert len(result.rows) == 2
    found = {p.code: p.where for p in result.problems}
    assert found[code] == "question 2, line 4"
    assert len({code, "question.no_answer", "table.no_answer"} & set(found)) == 1


def test_categories_are_topics_and_descriptions_are_passed_over(read: Read) -> None:
    category = (
        '<question type="category"><category><text>$course$/top/Maths/Sums</text></category>'
        "</question>"
    )
    result = read("q.xml", quiz(category, question("description", "Read on."),
                                question("shortanswer", "2+2?", answer("4"))))  # fmt: skip
    assert result.columns == ("question", "answer", "topic")
    assert result.rows == (("2+2?", "4", "Maths / Sums"),)
    assert "question.description" in {p.code for p in result.problems}


def test_scripts_vanish_and_pictures_are_told(read: Read) -> None:
    stem = '<script>alert(1)</script><p>2<sup>3</sup>?</p><img src="http://x/y.png" alt="z.png">'
    result = read("quiz.xml", quiz(question("shortanswer", stem, answer("8"))))
    assert pairs(result) == [("2^3?", "8")]
    assert "question.picture" in {p.code for p in result.problems}


def test_a_stray_byte_costs_one_question_and_is_named(read: Read) -> None:
    good = question("shortanswer", "2+2 égale?", answer("4"))
    bad = question("shortanswer", "Où?", answer("ici")).encode("latin-1")
    content = quiz(good, "@", *[good.replace("2+2", f"2+{i}") for i in range(30)])
    result = read("quiz.xml", content.encode().replace(b"@", bad))
    assert len(result.examples) == 31
    assert {p.code: p.where for p in result.problems}["encoding.bad_bytes"] == "question 2, line 4"


def test_the_declared_encoding_is_used(read: Read) -> None:
    content = quiz(question("shortanswer", "日本の首都は？", answer("東京")))
    data = content.replace("UTF-8", "Shift_JIS").encode("shift_jis")
    assert pairs(read("quiz.xml", data)) == [("日本の首都は？", "東京")]


def test_damaged_xml_is_refused_with_its_line(read: Read) -> None:
    with pytest.raises(DataError, match=r"quiz\.xml, line 3: The XML is damaged") as caught:
        read("quiz.xml", quiz("<question></quiz>"))
    assert caught.value.code == "xml.syntax"
