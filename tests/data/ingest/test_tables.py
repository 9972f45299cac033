"""Text tables from bytes to examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.ingest import read_file
from core.data.ingest.columns import choose_columns, normal_name
from core.data.ingest.table import MOST_ROWS, column_letter
from core.data.types import ReadResult
from core.errors import DataError


def read_text(text: str, folder: Path, name: str = "class.csv", **options: str) -> ReadResult:
    path = folder / name
    path.write_bytes(text.encode())
    return read_file(path, **options)


def learned(result: ReadResult) -> list[tuple[str, str, str]]:
    return [(e.where, e.question, e.answer) for e in result.examples]


def codes(result: ReadResult) -> dict[str, str]:
    return {p.code: p.where for p in result.problems if p.severity != "info"}


@pytest.mark.parametrize("text", [
    "question,answer\n\"a, b?\",\"x; y\"\nc?,d|e\n",
    "question;answer\na, b?;\"x; y\"\nc?;d|e\n",
    "question\tanswer\na, b?\tx; y\nc?\td|e\n",
    "question|answer\na, b?|x; y\nc?|\"d|e\"\n",
    "sep=;\nquestion;answer\na, b?;\"x; y\"\nc?;d|e\n",
    "question, answer\n\"a, b?\", \"x; y\"\n\"c?\", \"d|e\"\n",
    "question,answer\r\"a, b?\",\"x; y\"\rc?,d|e\r",
])  # fmt: skip
def test_dialects_are_found_out(text: str, tmp_path: Path) -> None:
    result = read_text(text, tmp_path)
    assert learned(result) == [("row 2", "a, b?", "x; y"), ("row 3", "c?", "d|e")]
    assert codes(result) == {}


@pytest.mark.parametrize(("header", "question", "answer"), [
    ("question,answer", "question", "answer"),
    ("Prompt,Response", "Prompt", "Response"),
    ("instruction,output", "instruction", "output"),
    ("Term,Definition", "Term", "Definition"),
    ("Front,Back", "Front", "Back"),
    ("Q,A", "Q", "A"),
    ("问题,答案", "问题", "答案"),
    ("题目,答案", "题目", "答案"),
    ("提问,回答", "提问", "回答"),
    ("问,答", "问", "答"),
    ("题干,参考答案", "题干", "参考答案"),
    ("問題,參考答案", "問題", "參考答案"),
    ("Frage,Antwort", "Frage", "Antwort"),
    ("id,question text,type,correct answer", "question text", "correct answer"),
    ("答案,编号,问题内容", "问题内容", "答案"),
    ("answer,question", "question", "answer"),
])  # fmt: skip
def test_columns_are_recognised_by_name(
    header: str, question: str, answer: str, tmp_path: Path
) -> None:
    cells = ",".join(["one", "two", "three", "four"][: header.count(",") + 1])
    result = read_text(f"{header}\n{cells}\n", tmp_path)
    assert (result.mapping["question"], result.mapping["answer"]) == (question, answer)
    assert "table.guessed_columns" not in codes(result)


def test_unknown_columns_are_guessed_and_told(tmp_path: Path) -> None:
    result = read_text("nr,land,hauptstadt\n1,Peru,Lima\n2,Chile,Santiago\n", tmp_path)
    assert result.mapping == {"question": "land", "answer": "hauptstadt"}
    assert "nr, land, hauptstadt" in result.problems[0].sentence()


def test_a_column_of_numbers_may_be_the_answers(tmp_path: Path) -> None:
    result = read_text("aufgabe hier,ergebnis\nzwei mal drei,6\ndrei mal drei,9\n", tmp_path)
    assert result.mapping == {"question": "aufgabe hier", "answer": "ergebnis"}


def test_the_teachers_columns_count(tmp_path: Path) -> None:
    result = read_text("question,answer\na?,b\n", tmp_path, question="ANSWER", answer="question")
    assert learned(result) == [("row 2", "b", "a?")]


@pytest.mark.parametrize("options", [{"question": "nope"}, {"answer": "nope"}])
def test_an_unknown_column_names_those_found(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'nope'; the columns are question, answer"):
        read_text("question,answer\na?,b\n", tmp_path, **options)


def test_the_same_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both the column 'answer'"):
        read_text("question,answer\na?,b\n", tmp_path, question="answer", answer="answer")


def test_a_table_without_header_loses_no_row(tmp_path: Path) -> None:
    result = read_text("What is 2+2?,4\nWhat is 3+3?,6\n", tmp_path)
    assert learned(result) == [("row 1", "What is 2+2?", "4"), ("row 2", "What is 3+3?", "6")]
    assert result.columns == ("A", "B")
    assert "table.no_header" in codes(result)


def test_rows_keep_excels_numbers(tmp_path: Path) -> None:
    text = 'question,answer\n\n"two\nlines?",b\n,\nc?,d\n'
    assert [w for w, _, _ in learned(read_text(text, tmp_path))] == ["row 3", "row 5"]


def test_an_open_quotation_mark_costs_one_row(tmp_path: Path) -> None:
    for end in ("e?,f\n", 'e?,"f"\n'):
        result = read_text(f'question,answer\na?,"b\nc?,d\n{end}', tmp_path)
        assert [w for w, _, _ in learned(result)] == ["row 3", "row 4"]
        assert codes(result) == {"table.open_quote": "row 2"}


def test_quotation_marks_inside_a_text_are_text(tmp_path: Path) -> None:
    result = read_text('question,answer\na 5" disk?,the "x" one\n', tmp_path)
    assert learned(result) == [("row 2", 'a 5" disk?', 'the "x" one')]


def test_shifted_rows_are_left_out_and_notes_beside_the_table_are_not(tmp_path: Path) -> None:
    result = read_text("question,answer\na?,b\nc?,d, e\nf?,g\n", tmp_path)
    assert [w for w, _, _ in learned(result)] == ["row 2", "row 4"]
    assert codes(result) == {"table.extra_cells": "row 3"}
    wide = read_text("question,answer\na?,b,note\nc?,d,note\n", tmp_path)
    assert wide.columns == ("question", "answer", "C")
    assert len(wide.examples) == 2


def test_repeated_and_empty_headers_get_names(tmp_path: Path) -> None:
    result = read_text("question,answer,answer,,x\na?,b,c,d,e\n", tmp_path)
    assert result.columns == ("question", "answer", "answer (2)", "D", "x")


def test_what_many_rows_lack_is_one_sentence(tmp_path: Path) -> None:
    rows = "".join(f"q{i}?,\n" for i in range(30))
    result = read_text(f"question,answer\na?,b\n{rows}", tmp_path)
    (problem,) = [p for p in result.problems if p.code == "table.no_answer"]
    assert problem.where.startswith("row 3, row 4, row 5,")
    assert problem.where.endswith("row 12 and 20 more")


def test_alpaca_columns_join_instruction_and_input(tmp_path: Path) -> None:
    text = "instruction,input,output,system\nTranslate,Hund,dog,Be brief\nSay hi,,hi,\n"
    result = read_text(text, tmp_path)
    assert result.examples[0].question == "Translate\nHund"
    assert [t.role for t in result.examples[0].turns] == ["system", "user", "assistant"]
    assert result.examples[1].question == "Say hi"
    assert result.mapping["input"] == "input"


def test_preference_pairs_teach_the_chosen_answer_and_say_so(tmp_path: Path) -> None:
    text = "prompt,chosen,rejected\na?,good,bad\nb?,same,same\nc?,x,\n"
    result = read_text(text, tmp_path)
    assert learned(result) == [("row 2", "a?", "good")]
    found = {p.code: p.where for p in result.problems}
    assert found["table.chosen_is_rejected"] == "row 3"
    assert found["table.no_rejected"] == "row 4"
    assert "table.chosen_learned" in found


def test_only_as_many_rows_as_promised_are_read(tmp_path: Path) -> None:
    text = "question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(MOST_ROWS + 5))
    result = read_text(text, tmp_path)
    assert len(result.examples) == MOST_ROWS
    assert "table.too_many_rows" in codes(result)


def test_control_characters_go_and_line_breaks_stay(tmp_path: Path) -> None:
    result = read_text('question,answer\n"a\x07\x1b[31m?","b\nc\td"\n', tmp_path)
    assert learned(result) == [("row 2", "a?", "b\nc\td")]
    assert codes(result) == {"text.control": "row 2"}


def test_a_protected_formula_is_the_text_again(tmp_path: Path) -> None:
    result = read_text("question,answer\na?,'=1+1\nb?,'tis\n", tmp_path)
    assert [a for _, _, a in learned(result)] == ["=1+1", "'tis"]


def test_html_tables_are_read_as_text(tmp_path: Path) -> None:
    page = (
        "<html><body><p>x</p><table><tr><th>Question<th>Answer"
        "<tr><td>a &amp; b<br>c</td><td>d<script>alert(1)</script></td></tr></table>"
    )
    result = read_text(page, tmp_path, "export.xls")
    assert learned(result) == [("row 2", "a & b\nc", "d")]
    assert result.format == "html"
    assert "file.other_format" in codes(result)


@pytest.mark.parametrize(("data", "said"), [
    (b"", "empty"),
    (b"\n \n", "empty"),
    (bytes(4096), "damaged"),
    (bytes(range(256)) * 20, "damaged"),
    (b"%PDF-1.7 ...", "PDF"),
    (b"\x89PNG\r\n", "picture"),
    (b"{\\rtf1 hello}", "RTF"),
    (b"<?xml version='1.0'?><a/>", "XML"),
    (b"\x80\x04\x95pickle", "never opened"),
])  # fmt: skip
def test_what_is_no_class_file_is_called_by_its_name(
    data: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "class.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        read_file(path)


def test_missing_files_and_folders_are_sentences_without_a_path(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(DataError) as caught:
            read_file(path)
        assert str(tmp_path) not in str(caught.value)


def test_names_are_compared_without_case_and_notes() -> None:
    assert normal_name(" Question\n(from book) ") == "question"
    assert normal_name("Re\u0301ponse") == normal_name("R\u00e9ponse")
    assert normal_name("答案（必填）") == "答案"
    assert normal_name("(A)") == "a"


def test_column_letters_are_excels() -> None:
    assert [column_letter(i) for i in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


def test_columns_without_any_text_are_not_chosen() -> None:
    mapping = choose_columns(["question", "answer", "label"], [["q", "", "B"]])
    assert mapping.answer == "label"


def test_a_markdown_table_has_no_rule_among_its_rows(tmp_path: Path) -> None:
    result = read_text("| question | answer |\n|:--|---|\n| a? | b c |\n", tmp_path, "c.txt")
    assert learned(result) == [("row 3", "a?", "b c")]


def test_a_quotation_mark_open_at_the_very_end_costs_its_row(tmp_path: Path) -> None:
    result = read_text('question,answer\na?,b\nc?,"d\n', tmp_path)
    assert [w for w, _, _ in learned(result)] == ["row 2"]
    assert codes(result)["table.open_quote"] == "row 3"


def test_a_column_called_a_is_no_answer_by_itself(tmp_path: Path) -> None:
    result = read_text("a,b\nfirst?,one\nsecond?,two\n", tmp_path)
    assert result.mapping == {"question": "a", "answer": "b"}


@pytest.mark.parametrize("first", [
    "爱\tài\tto love; to be fond of",
    "docker create\tCreate a new container from a particular image\t",
    "Peru\tLima is its capital.\t",
])  # fmt: skip
def test_a_first_row_that_is_a_sentence_is_no_header(first: str, tmp_path: Path) -> None:
    result = read_text(f"{first}\nx\ty z\tw\n", tmp_path, "c.tsv")
    assert len(result.examples) == 2
    assert "table.no_header" in codes(result)


@pytest.mark.parametrize("text", [
    "'question','answer'\n'What's a noun, then?','A word, it''s'\n'Two?','b'\n",
    "question;answer\n'What's a noun, then?'; 'A word, it's'\n'Two?'; 'b'\n",
    "question::answer\nWhat's a noun, then?::A word, it's\nTwo?::b\n",
])  # fmt: skip
def test_single_quotation_marks_and_double_colons(text: str, tmp_path: Path) -> None:
    expected = [("row 2", "What's a noun, then?", "A word, it's"), ("row 3", "Two?", "b")]
    assert learned(read_text(text, tmp_path)) == expected


def test_an_apostrophe_at_the_start_of_a_cell_is_no_quotation_mark(tmp_path: Path) -> None:
    found = learned(read_text("question,answer\nWho?,'Tis I\nWhat?,'Twas it'\n", tmp_path))
    assert [answer for _, _, answer in found] == ["'Tis I", "'Twas it'"]


def test_a_list_of_words_is_answered_by_its_longest_texts(tmp_path: Path) -> None:
    text = "s,r,m\n爱,爫,to love; to be fond of\n八,八,eight; the number 8\n白,白,white and clear\n"
    assert read_text(text, tmp_path).mapping == {"question": "s", "answer": "m"}
    longer = "x,y,z\nWho wrote Faust?,Goethe,He worked on it all his life in Weimar\n" * 2
    assert read_text(longer, tmp_path).mapping["answer"] == "y"
