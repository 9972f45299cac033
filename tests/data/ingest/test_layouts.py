"""How test banks lay their questions out: every shape becomes a question and an answer in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from core.data.edit import Version
from core.data.ingest import read_file
from core.data.types import ReadResult

Fill = Callable[[Any], None]


def rows_into(sheet: Any, rows: list[list[Any]]) -> None:
    for row in rows:
        sheet.append(row)


def book(fill: Fill, folder: Path) -> ReadResult:
    workbook = openpyxl.Workbook()
    fill(workbook)
    workbook.save(folder / "bank.xlsx")
    return read_file(folder / "bank.xlsx")


def text(content: str, folder: Path, encoding: str = "utf-8") -> ReadResult:
    path = folder / "bank.csv"
    path.write_bytes(content.encode(encoding))
    return read_file(path)


def pairs(result: ReadResult) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in result.examples]


def warnings(result: ReadResult) -> dict[str, str]:
    return {p.code: p.where for p in result.problems if p.severity == "warning"}


def asked(stem: str, *options: str) -> str:
    return "\n".join([stem, *(f"{chr(65 + i)}. {o}" for i, o in enumerate(options))])


def test_options_left_of_the_answer_with_a_merged_cell_and_a_sheet_of_types(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.active
        rows_into(sheet, [
            ["题干", "A选项", "B选项", "C选项", "D选项", "正确答案", "类型"],
            ["水的沸点是？", "90℃", "100℃", "110℃", "120℃", "B", "单选题"],
            ["哪些是质数？", "2", "3", "4", "5", "ABD", "多选题"],
            ["地球是圆的。", "对", "错", None, None, "A", "判断题"],
            ["中国的首都是____。", None, None, None, None, "北京", "填空题"],
        ])  # fmt: skip
        sheet.merge_cells("G2:G3")
        rows_into(workbook.create_sheet("类型"), [["单选题"], ["多选题"], ["判断题"], ["填空题"]])

    result = book(fill, tmp_path)
    assert pairs(result) == [
        (asked("水的沸点是？", "90℃", "100℃", "110℃", "120℃"), "100℃"),
        (asked("哪些是质数？", "2", "3", "4", "5"), "2; 3; 5"),
        (asked("地球是圆的。", "对", "错"), "对"),
        ("中国的首都是____。", "北京"),
    ]
    assert result.parts["options"] == ("A选项", "B选项", "C选项", "D选项")
    assert result.mapping["answer"] == "正确答案"
    assert result.sheet == "Sheet"
    assert warnings(result).keys() <= {"excel.sheets"}


def test_five_options_full_width_brackets_and_hard_spaces(tmp_path: Path) -> None:
    names = ["题型", "题干", "选项A", "选项B", "选项C", "选项D", "选项E", "答案"]

    def fill(workbook: Any) -> None:
        rows_into(workbook.active, [
            names,
            ["单选", "下列属于哺乳动物的是（\xa0\xa0）。", "鲸", "鲨", "鸡", "蛇", "蛙", "Ａ"],
            ["多选", "光的三原色（　）", "红", "黄", "绿", "蓝", None, "Ａ，Ｃ，Ｄ"],
            ["单选", "没有这个选项（ ）", "一", "二", None, None, None, "E"],
        ])  # fmt: skip

    result = book(fill, tmp_path)
    assert pairs(result) == [
        (asked("下列属于哺乳动物的是（\xa0\xa0）。", "鲸", "鲨", "鸡", "蛇", "蛙"), "鲸"),
        (asked("光的三原色（　）", "红", "黄", "绿", "蓝"), "红; 绿; 蓝"),
    ]
    assert warnings(result) == {"choices.no_such_option": "row 4"}


def test_no_header_and_some_options_have_their_letter(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        rows_into(workbook.active, [
            ["Which planet is the largest?", "Mars", "Jupiter", "C. Venus", "D. Earth", "B"],
            ["Water is made of", "A. iron", "salt", "C. hydrogen and oxygen", "air", "C"],
            ["Two plus two is", "3", "4", "5", "22", "B"],
        ])  # fmt: skip

    result = book(fill, tmp_path)
    assert pairs(result) == [
        (asked("Which planet is the largest?", "Mars", "Jupiter", "Venus", "Earth"), "Jupiter"),
        (asked("Water is made of", "iron", "salt", "hydrogen and oxygen", "air"),
         "hydrogen and oxygen"),
        (asked("Two plus two is", "3", "4", "5", "22"), "4"),
    ]  # fmt: skip
    assert result.parts["options"] == ("B", "C", "D", "E")
    assert result.confidence["options"] == 0.5
    assert warnings(result) == {"table.no_header": ""}


@pytest.mark.parametrize("cell", [
    "A.红 B.黄 C.蓝",
    "A． 红 B． 黄 C． 蓝",
    "A、红B、黄C、蓝",
    "（A）红（B）黄（C）蓝",
    "A.红\nB.黄\nC.蓝",
    "A: 红; B: 黄; C: 蓝",
    "红\n黄\n蓝",
    "红|黄|蓝",
    "红；黄；蓝",
    "['红', '黄', '蓝']",
    '["红", "黄", "蓝"]',
    "['A. 红', 'B. 黄', 'C. 蓝']",
    "{'A': '红', 'B': '黄', 'C': '蓝'}",
    "['红' '黄'\n '蓝']",
    "array(['红', '黄', '蓝'], dtype=object)",
    "{'text': ['红', '黄', '蓝'], 'label': ['A', 'B', 'C']}",
])  # fmt: skip
def test_all_options_in_one_cell(cell: str, tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        rows_into(workbook.active, [["问题", "选项", "答案"], ["天空是什么颜色？", cell, "C"]])

    result = book(fill, tmp_path)
    assert pairs(result) == [(asked("天空是什么颜色？", "红", "黄", "蓝"), "蓝")]
    assert result.parts["options"] == ("选项",)
    assert warnings(result) == {"health.one_example": ""} or not warnings(result)


def test_a_sheet_for_each_point_value(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        workbook.remove(workbook.active)
        for points in (100, 200, 300):
            sheet = workbook.create_sheet(f"{points} points")
            rows_into(sheet, [["Question", "Answer"], [f"Worth {points}?", f"yes, {points}"]])

    result = book(fill, tmp_path)
    assert pairs(result) == [(f"Worth {p}?", f"yes, {p}") for p in (100, 200, 300)]
    assert [e.topic for e in result.examples] == ["100 points", "200 points", "300 points"]
    assert [e.where for e in result.examples][1] == "200 points row 2"


KAHOOT = ["Question - max 120 characters", "Answer 1 - max 75 characters",
          "Answer 2 - max 75 characters", "Answer 3 - max 75 characters",
          "Answer 4 - max 75 characters", "Time limit (sec) – 5, 10, 20, 30, 60, 90 or 120 secs",
          "Correct answer(s) - choose at least one"]  # fmt: skip


def test_kahoots_template(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.active
        sheet["B2"] = "Quiz template"
        sheet["B3"] = "Add questions, at least two answers, a time limit and correct answers"
        sheet["B4"] = "Remember: questions have a limit of 120 characters"
        for area in ("B2:H2", "B3:H3", "B4:H7"):
            sheet.merge_cells(area)
        for column, name in enumerate(KAHOOT, 2):
            sheet.cell(8, column, name)
        for row, cells in enumerate([
            [1, "Capital of Peru?", "Lima", "Quito", None, None, 20, 1],
            [2, "Which are even?", "1", "2", "3", "4", 30, "2,4"],
            [3, "How many legs has a spider?", "6", "4", "8", "10", 10, 3],
            [4, None, None, None, None, None, None, None],
            [5, "Nobody knows", "a", "b", None, None, 20, 4],
        ], 9):  # fmt: skip
            for column, value in enumerate(cells, 1):
                sheet.cell(row, column, value)

    result = book(fill, tmp_path)
    assert pairs(result) == [
        (asked("Capital of Peru?", "Lima", "Quito"), "Lima"),
        (asked("Which are even?", "1", "2", "3", "4"), "2; 4"),
        (asked("How many legs has a spider?", "6", "4", "8", "10"), "8"),
    ]
    told = {p.code: p for p in result.problems}
    assert told["choices.no_such_option"].where == "row 13"
    assert told["table.no_question"].where == "row 12"
    assert dict(told["table.above_header"].values) == {"header": "8"}


def test_two_header_rows_with_a_merged_one_on_top(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.active
        rows_into(sheet, [
            ["序号", "题干", "选项", None, None, "答案"],
            [None, None, "A", "B", "C", None],
            [1, "一加一等于几？", "1", "2", "3", "B"],
            [2, "二加二等于几？", "2", "3", "4", "C"],
        ])  # fmt: skip
        for area in ("A1:A2", "B1:B2", "C1:E1", "F1:F2"):
            sheet.merge_cells(area)

    result = book(fill, tmp_path)
    assert result.columns == ("序号", "题干", "选项 A", "选项 B", "选项 C", "答案")
    assert pairs(result) == [
        (asked("一加一等于几？", "1", "2", "3"), "2"),
        (asked("二加二等于几？", "2", "3", "4"), "4"),
    ]


def test_a_header_in_two_languages(tmp_path: Path) -> None:
    result = text("题目,答案\nQuestion,Answer\n甲？,乙\n", tmp_path)
    assert pairs(result) == [("甲？", "乙")]
    assert [p.where for p in result.problems if p.code == "table.second_header"] == ["row 2"]


def test_flags_beside_each_option_below_a_group_header(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.active
        rows_into(sheet, [
            ["INTERN", None, None, "These columns are exported", None, None, None, None],
            ["Chapter", "Author", "Question text", "Option 1", "Correct 1", "Option 2", "Correct 2",
             "Option 3", "Correct 3"],
            ["Logic", "AB", "Which are true?", "1 = 1", "X", "1 = 2", None, "2 = 2", "X"],
            ["Logic", "AB", "None is marked?", "a", None, "b", None, None, None],
        ])  # fmt: skip
        sheet.merge_cells("A1:C1")
        sheet.merge_cells("D1:I1")

    result = book(fill, tmp_path)
    assert pairs(result) == [(asked("Which are true?", "1 = 1", "1 = 2", "2 = 2"), "1 = 1; 2 = 2")]
    assert result.examples[0].topic == "Logic"
    assert warnings(result)["choices.none_marked"] == "row 4"
    assert Version.of(result).examples()[0] == result.examples


def test_a_semicolon_file_with_bom(tmp_path: Path) -> None:
    content = "Frage;Option 1;Option 2;Antwort\nHauptstadt von Peru?;Lima, Perú;Quito;A\n"
    result = text(content, tmp_path, "utf-8-sig")
    assert pairs(result) == [(asked("Hauptstadt von Peru?", "Lima, Perú", "Quito"), "Lima, Perú")]


@pytest.mark.parametrize(("header", "row", "answer"), [
    ("question,A,B,C,D,correct", "q?,w,x,y,z,C", "y"),
    ("question,option_a,option_b,option_c,answer", "q?,w,x,y,b", "x"),
    ("question,choice1,choice2,choice3,answer", "q?,w,x,y,3", "y"),
    ("question,choice1,choice2,choice3,answer", "q?,w,x,y,y", "y"),
    ("question,choice1,choice2,choice3,answer_index", "q?,w,x,y,0", "w"),
    ("题目,选项（A）,选项（B）,选项（C）,答案", "q?,w,x,y,答案：B", "x"),
    ("题目,选项一,选项二,选项三,答案", "q?,w,x,y,A C", "w; y"),
    ("question,answer 1,answer 2,answer 3,correct answer", "q?,w,x,y,2", "x"),
    ("question,option 1,option 2,option 3,answer", "q?,w,x,y,Option B", "x"),
    ("question,option 1,option 2,option 3,answer", "q?,w,x,y,something else", "something else"),
])  # fmt: skip
def test_names_of_options_and_ways_to_name_the_right_one(
    header: str, row: str, answer: str, tmp_path: Path
) -> None:
    result = text(f"{header}\n{row}\n", tmp_path)
    assert [e.answer for e in result.examples] == [answer]
    assert result.examples[0].question.startswith("q?\nA. w\nB. x")


def test_wrong_answers_join_the_right_one_in_an_order_that_says_nothing(tmp_path: Path) -> None:
    header = "question,correct_answer,incorrect_answer_1,incorrect_answer_2"
    result = text(f"{header}\nCapital?,Lima,Bonn,Rome\nSea?,Aral,Baltic,Caspian\n", tmp_path)
    assert pairs(result) == [
        (asked("Capital?", "Bonn", "Lima", "Rome"), "Lima"),
        (asked("Sea?", "Aral", "Baltic", "Caspian"), "Aral"),
    ]


def test_options_inside_the_stem_give_the_answer_its_words(tmp_path: Path) -> None:
    stem = "天空是什么颜色？ A．红 B．黄 C．蓝"
    result = text(f"题目,答案\n{stem},C\n什么是A级？,A\n", tmp_path)
    assert pairs(result) == [(stem, "蓝"), ("什么是A级？", "A")]


def test_numbers_that_are_texts_of_options_stay_texts(tmp_path: Path) -> None:
    rows = "1+1?,1,2,3,2\n2+2?,4,5,6,4\n"
    result = text(f"question,option 1,option 2,option 3,answer\n{rows}", tmp_path)
    assert [a for _, a in pairs(result)] == ["2", "4"]


def test_a_header_that_comes_again_is_no_question(tmp_path: Path) -> None:
    result = text("question,answer\na?,b\nquestion,answer\nc?,d\n", tmp_path)
    assert pairs(result) == [("a?", "b"), ("c?", "d")]
    assert [p.where for p in result.problems if p.code == "table.header_again"] == ["row 3"]


# --- mapping -------------------------------------------------------------------------------------


def test_context_system_and_topic_columns_are_guessed(tmp_path: Path) -> None:
    header = "topic,system prompt,passage,question,answer"
    result = text(
        f"{header}\nrivers,Be brief.,The Nile is long.,Which is long?,the Nile\n", tmp_path
    )
    (example,) = result.examples
    assert [(t.role, t.content) for t in example.turns] == [
        ("system", "Be brief."),
        ("user", "The Nile is long.\n\nWhich is long?"),
        ("assistant", "the Nile"),
    ]
    assert example.topic == "rivers"
    assert result.confidence == dict.fromkeys(result.parts, 0.9)


def test_a_conversation_in_a_row(tmp_path: Path) -> None:
    header = "question1,answer1,question2,answer2"
    result = text(f"{header}\na?,b,c?,d\ne?,f,,\ng?,,h?,i\n", tmp_path)
    assert [[t.content for t in e.turns] for e in result.examples] == [
        ["a?", "b", "c?", "d"], ["e?", "f"],
    ]  # fmt: skip
    assert warnings(result)["table.turn_missing"] == "row 4"


def test_columns_are_combined_as_the_teacher_says(tmp_path: Path) -> None:
    path = tmp_path / "class.csv"
    path.write_text("stem,hint,answer,note\na?,think,b,because\nc?,,d,\n", "utf-8")
    chosen = {"question": ["stem", "hint"], "answer": ["answer", "note"]}
    result = read_file(path, columns=chosen)
    assert pairs(result) == [("a?\nthink", "b\nbecause"), ("c?", "d")]
    assert result.parts == {k: tuple(v) for k, v in chosen.items()}
    assert set(result.confidence.values()) == {1.0}


def test_a_guess_says_how_sure_it_is(tmp_path: Path) -> None:
    assert text("the question,answer\na?,b\n", tmp_path).confidence == {
        "question": 0.7, "answer": 0.9,
    }  # fmt: skip
    assert text("land,hauptstadt\nPeru,Lima\n", tmp_path).confidence == {
        "question": 0.3, "answer": 0.3,
    }  # fmt: skip
