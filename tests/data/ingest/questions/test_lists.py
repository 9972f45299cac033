"""Questions as people write them down: lists, cards, trivia, talks, exercises, documents."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from core.data.types import ReadResult
from core.errors import DataError

Read = Callable[..., ReadResult]


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in result.examples]


LISTS = {
    "labels": ("Q: What is a noun?\nA: A name.\n\nQ: And a verb?\nA: A word\nfor doing.\n",
               [("What is a noun?", "A name."), ("And a verb?", "A word\nfor doing.")]),
    "numbered labels": ("Q1. Why?\nA1: Because.\nQ2. How?\nA2: So.\n",
                        [("Why?", "Because."), ("How?", "So.")]),
    "bold labels": ("**Q:** Why?\n**A:** Because.\n\n**Question 2:** How?\n**Answer:** So.\n",
                    [("Why?", "Because."), ("How?", "So.")]),
    "Chinese labels": ("问：什么是名词？\n答：表示名称的词。\n问题2：动词呢？\n"
                       "答案：表示动作的词。\n",
                       [("什么是名词？", "表示名称的词。"), ("动词呢？", "表示动作的词。")]),
    "options and letters": (
        "1. Capital of France?\nA. Lyon\nB. Paris\nAns: B\n\n2) Of Italy?\na) Rome\nb) Milan\n"
        "Answer: a) Rome\n",
        [("Capital of France?\nA. Lyon\nB. Paris", "Paris"),
         ("Of Italy?\nA. Rome\nB. Milan", "Rome")]),
    "several letters": ("1. Primes?\nA) 2\nB) 3\nC) 4\nAnswers: A and B\n"
                        "2. x\nA) p\nB) q\nAns: AB\n",
                        [("Primes?\nA. 2\nB. 3\nC. 4", "2; 3"), ("x\nA. p\nB. q", "p; q")]),
    "options in a line": ("1. 2+2? A. 3 B. 4 C. 5\nAns: B\n2. 3+3?\nA. 6  B. 7\nAns: A\n",
                          [("2+2?\nA. 3\nB. 4\nC. 5", "4"), ("3+3?\nA. 6\nB. 7", "6")]),
    "a Chinese paper": (
        "1．中国的首都是（ B ）。\nA．上海　B．北京\n"
        "2、一年有几个月？\nA、十　B、十二\n答案：B\n解析：见日历。\n",
        [("中国的首都是（  ）。\nA. 上海\nB. 北京", "北京"),
         ("一年有几个月？\nA. 十\nB. 十二", "十二")]),
    "a key at the end": (
        "1. a?\nA. x\nB. y\n2. b?\nA. x\nB. y\n3. c?\nA. x\nB. y\n\nAnswer Key\n1-2 BA\n3. B\n",
        [("a?\nA. x\nB. y", "y"), ("b?\nA. x\nB. y", "x"), ("c?\nA. x\nB. y", "y")]),
    "a star before what is right": ("1. a?\n*A. x\nB. y\nAns: A\n2. b?\nA. x\nB. y (correct)\n",
                                    [("a?\nA. x\nB. y", "x"), ("b?\nA. x\nB. y", "y")]),
    "lists inside a stem": ("5. Which hold?\n1) p\n2) q\nA. one\nB. both\nAns: B\n6. n?\nAns: m\n",
                            [("Which hold?\n1) p\n2) q\nA. one\nB. both", "both"), ("n?", "m")]),
    "options in a list": ("1. Red?\n- A. sky\n- B. blood\nAns: B\n2. Hm?\nAns: yes\n",
                          [("Red?\nA. sky\nB. blood", "blood"), ("Hm?", "yes")]),
    "options without letters": ("1. Red?\n- sky\n- blood\nAns: B\n"
                                "2. List all.\n- p\n- q\nAns: p, q\n",
                                [("Red?\nA. sky\nB. blood", "blood"),
                                 ("List all.\n- p\n- q", "p, q")]),
    "Aiken": ("What is it?\nA. this\nB) that\nANSWER: B\n\nAnd\nnow?\nA) x\nB) y\nANSWER: A\n",
              [("What is it?\nA. this\nB. that", "that"), ("And\nnow?\nA. x\nB. y", "x")]),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_as_they_are_meant(name: str, read: Read) -> None:
    text, expected = LISTS[name]
    result = read("quiz.txt", text)
    assert pairs(result) == expected
    assert result.format == ("aiken" if name == "Aiken" else "text")


def test_what_does_not_fit_is_named_by_its_line(read: Read) -> None:
    text = "Unit 1\n\n1. a?\nA. x\nB. y\nAns: D\n2. b?\nA. x\nB. y\nAns: A\nExplanation: so.\n"
    result = read("quiz.txt", text)
    assert pairs(result) == [("b?\nA. x\nB. y", "x")]
    told = {p.code: p.where for p in result.problems}
    assert told["question.stray"] == "line 1"
    assert told["question.bad_answer"] == "line 3"
    assert result.rows[1][result.columns.index("explanation")] == "so."


MARKDOWN = {
    "marked options": ("# Unit\n* Sky?\n    - red\n    - !blue\n"
                       "* Ed?\n    - [x] vim\n    - [ ] word\n",
                       [("Sky?\nA. red\nB. blue", "blue"), ("Ed?\nA. vim\nB. word", "vim")]),
    "headings that ask": ("# FAQ\n\n## Why?\nBecause\n\nof it.\n\n## How?\nSo.\n",
                          [("Why?", "Because\n\nof it."), ("How?", "So.")]),
    "a table": ("Intro\n\n| Question | Answer |\n|---|:--|\n| 2 \\| 3? | yes |\n| b? | no |\n",
                [("2 | 3?", "yes"), ("b?", "no")]),
    "labels": ("- **Q:** a?\n  **A:** b\n", [("a?", "b")]),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKDOWN)
def test_markdown_is_read_as_it_is_meant(name: str, read: Read) -> None:
    text, expected = MARKDOWN[name]
    result = read("quiz.md", text)
    assert pairs(result) == expected
    assert result.format == "markdown"


@pytest.mark.parametrize(("text", "kind"), [
    ("question,answer\nQ: a?,A: b\n", "csv"),
    ("Question: text;Answer: text\na?;b\n", "csv"),
    ("term\tdefinition\nQ: a\tA: b\n", "tsv"),
    ("name,note\nA. Lincoln,president\nB. Franklin,printer\n", "csv"),
    ("question - text,answer\na - b,c\nd - e,f\n", "csv"),
])  # fmt: skip
def test_tables_stay_tables(text: str, kind: str, read: Read) -> None:
    assert read("class.txt", text).format == kind


def test_cards_and_trivia(read: Read) -> None:
    cards = read(
        "set.txt", "noun---a name\nverb---a word\nfor doing\nJ. S. Bach---a composer, 1685\n"
    )
    assert pairs(cards) == [
        ("noun", "a name"), ("verb", "a word\nfor doing"), ("J. S. Bach", "a composer, 1685"),
    ]  # fmt: skip
    text = "#Q Capital\nof Italy?\n^ Rome\nA Milan\nB Rome\n\n#Q Bad?\n^ x\nA y\nB z\n"
    trivia = read("trivia", text)
    assert pairs(trivia) == [("Capital\nof Italy?\nA. Milan\nB. Rome", "Rome")]
    assert {p.code: p.where for p in trivia.problems}["question.bad_answer"] == "line 7"


def test_conversations_in_yaml_keep_their_turns_and_words(read: Read) -> None:
    text = (
        "categories:\n- x\nconversations:\n- - Is it no?\n  - no\n- - Year?\n  - 012\n"
        "- - a\n  - b\n  - c\n  - d\n- - bad: {\n  - x\n- - *other\n  - y\n"
        "- - !!python/object/apply:os.mkdir [PWNED]\n  - z\n"
    )
    result = read("talk.yml", text)
    assert pairs(result) == [("Is it no?", "no"), ("Year?", "012"), ("c", "d")]
    assert len(result.examples[2].turns) == 4
    told = [p.where for p in result.problems if p.code == "yaml.bad_item"]
    assert sorted(told) == ["line 12", "line 14", "line 16"]


RMD = """Question
========
Which are prime?

Answerlist
----------
* 2
* 4

Solution
========
Only two.

Answerlist
----------
* True. It is.
* False. 2 x 2.

Meta-information
================
exname: primes
extype: mchoice
exsolution: 10
"""


def test_exercises_of_r_exams(read: Read) -> None:
    result = read("primes.Rmd", RMD)
    assert pairs(result) == [("Which are prime?\nA. 2\nB. 4", "2")]
    assert result.rows[0][2] == "Only two.\n2: True. It is.\n4: False. 2 x 2."
    latex = (
        "\\begin{question}\nHow many\nlegs?\n\\end{question}\n\\begin{solution}\nCount.\n"
        "\\end{solution}\n%% \\extype{num}\n%% \\exsolution{6}\n"
    )
    assert pairs(read("legs.Rnw", latex)) == [("How many legs?", "6")]


@pytest.mark.parametrize("computed", [
    RMD.replace("* 4", "* `r x`"),
    RMD.replace("exsolution: 10", "exsolution: `r mchoice2string(s)`"),
    RMD.replace("Which are", "```{r, echo=FALSE}\nsummary(m)\n```\nWhich are"),
])  # fmt: skip
def test_an_exercise_that_r_fills_in_is_refused_and_not_run(computed: str, read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read("primes.Rmd", computed)
    assert "question.computed" in {p.code for p in caught.value.problems}


def document(build: Callable[[Any], None]) -> bytes:
    docx = pytest.importorskip("docx")
    made = docx.Document()
    build(made)
    data = io.BytesIO()
    made.save(data)
    return data.getvalue()


def test_word_lists_are_numbered_as_word_shows_them(read: Read) -> None:
    def build(made: Any) -> None:
        made.add_heading("Unit 1")
        for stem, answer in (("Capital of France?", "Paris"), ("Of Italy?", "Rome")):
            made.add_paragraph(stem, style="List Number")
            made.add_paragraph(f"Ans: {answer}")

    result = read("quiz.docx", document(build))
    assert pairs(result) == [("Capital of France?", "Paris"), ("Of Italy?", "Rome")]
    assert result.row_where == ("paragraph 2", "paragraph 4")


def test_a_bold_option_of_a_word_document_is_the_right_one(read: Read) -> None:
    def build(made: Any) -> None:
        for stem, right in (("1. Capital of France?", "B. Paris"), ("2. Of Italy?", "A. Rome")):
            made.add_paragraph().add_run(stem).bold = True
            for option in ("A. Rome", "B. Paris"):
                made.add_paragraph().add_run(option).bold = option == right
        made.add_paragraph("3. All alike?")
        for option in ("A. yes", "B. no"):
            made.add_paragraph().add_run(option).bold = True

    result = read("quiz.docx", document(build))
    assert pairs(result) == [
        ("Capital of France?\nA. Rome\nB. Paris", "Paris"),
        ("Of Italy?\nA. Rome\nB. Paris", "Rome"),
    ]
    told = {p.code: p.where for p in result.problems}
    assert told["question.no_answer"] == "paragraph 7"
    assert told["word.emphasis"].startswith("paragraph 3")


def test_the_table_of_a_word_document(read: Read) -> None:
    def build(made: Any) -> None:
        table = made.add_table(rows=0, cols=2)
        for cells in (("Question", "Answer"), ("a?", "b"), ("c?", "d")):
            for cell, text in zip(table.add_row().cells, cells, strict=True):
                cell.text = text

    assert pairs(read("quiz.docx", document(build))) == [("a?", "b"), ("c?", "d")]


def pdf_of(lines: list[str]) -> bytes:
    """Return a PDF with one page of text."""
    shown = "".join(f"({line}) Tj T* " for line in lines)
    stream = zlib.compress(f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET".encode("latin-1"))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    listed = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    return data + b"xref\n0 6\n0000000000 65535 f \n" + listed + end


def test_the_text_of_a_pdf_follows_the_same_rules(read: Read) -> None:
    result = read(
        "quiz.pdf", pdf_of(["1. Capital of France?", "A. Lyon", "B. Paris", "Ans: B", "1"])
    )
    assert pairs(result) == [("Capital of France?\nA. Lyon\nB. Paris", "Paris")]
    assert result.row_where == ("page 1, line 1",)


@pytest.mark.parametrize(("data", "code"), [
    (pdf_of([]), "pdf.no_text"),
    (pdf_of(["1. Capital of France?", "A. Lyon", "B. Paris"]), "question.none_answered"),
    (pdf_of(["A poem about nothing", "with no question in it"]), "question.none"),
    (b"%PDF-1.7\n" + b"x" * 300, "pdf.damaged"),
])  # fmt: skip
def test_a_pdf_without_answers_is_refused_in_a_sentence(data: bytes, code: str, read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read("quiz.pdf", data)
    assert caught.value.code == code


def test_saved_pages_without_a_table(read: Read) -> None:
    terms = "<!DOCTYPE html><html><![x]><dl><dt>noun<dd>a <b>name</b><dt>verb<dd>a word</dl></html>"
    assert pairs(read("terms.html", terms)) == [("noun", "a name"), ("verb", "a word")]
    folded = (
        "<html><details><summary>Why?</summary><p>Because.</p></details>"
        "<details><summary>How?</summary>So.</details></html>"
    )
    assert pairs(read("faq.html", folded)) == [("Why?", "Because."), ("How?", "So.")]
    headed = "<html><body><h2>Why?</h2><p>Because.</p><h2>How?</h2><p>So.</p></body></html>"
    assert pairs(read("page.html", headed)) == [("Why?", "Because."), ("How?", "So.")]
    with pytest.raises(DataError, match="has no table"):
        read("empty.html", "<html><body><p>Nothing here</p></body></html>")
