"""Workbooks: what Excel shows is what is read, and nothing unsafe is opened."""

from __future__ import annotations

import datetime as dt
import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from core.data.ingest import read_file
from core.data.ingest.cells import display, loses_digits
from core.data.types import ReadResult
from core.errors import DataError

MOMENT = dt.datetime(2023, 3, 5, 14, 7, 9)


@pytest.mark.parametrize(("value", "number_format", "shown"), [
    (56.0, "General", "56"),
    (0.1, "General", "0.1"),
    (1 / 3, "General", "0.3333333333"),
    (True, "General", "TRUE"),
    (0.5, "0%", "50%"),
    (0.125, "0.0%", "12.5%"),
    (1234.5, "#,##0.00", "1,234.50"),
    (-1234.5, "#,##0.00;(#,##0.00)", "(1,234.50)"),
    (-3, "0", "-3"),
    (7, "000", "007"),
    (1234567, "#,##0,", "1,235"),
    (12.5, '"$"#,##0.00', "$12.50"),
    (12.5, "[$€-407] #,##0.00", "€ 12.50"),
    (3, '0" apples"', "3 apples"),
    (0, '0;-0;"none"', "none"),
    (1.5, "# ?/?", "1 1/2"),
    (12345, "0.00E+00", "1.23E+04"),
    (2.5, "0.###", "2.5"),
    (2.0, "0.##", "2"),
    (None, "General", ""),
    ("007", "@", "007"),
    (MOMENT, "mm-dd-yy", "2023-03-05 14:07:09"),
    (dt.datetime(2023, 3, 5), "mm-dd-yy", "2023-03-05"),
    (MOMENT, "dd/mm/yyyy", "05/03/2023"),
    (MOMENT, "d.m.yy hh:mm", "5.3.23 14:07"),
    (MOMENT, 'yyyy"年"m"月"d"日"', "2023年3月5日"),
    (MOMENT, "h:mm AM/PM", "2:07 PM"),
    (MOMENT, "mm:ss", "07:09"),
    (dt.time(9, 5), "h:mm", "9:05"),
    (dt.timedelta(hours=26, minutes=3), "[h]:mm:ss", "26:03:00"),
])  # fmt: skip
def test_values_are_written_as_excel_shows_them(
    value: object, number_format: str, shown: str
) -> None:
    assert display(value, number_format) == shown


def test_numbers_too_long_for_excel_are_noticed() -> None:
    assert loses_digits(12345678901234567890)
    assert not loses_digits(123456789012345)
    assert not loses_digits(0.12345678901234567)
    assert not loses_digits(True)


def book(fill: Callable[[Any], None], folder: Path) -> Path:
    workbook = openpyxl.Workbook()
    fill(workbook)
    path = folder / "class.xlsx"
    workbook.save(path)
    return path


def sheet_of(rows: list[list[object]]) -> Callable[[Any], None]:
    def fill(workbook: Any) -> None:
        for row in rows:
            workbook.active.append(row)

    return fill


def learned(result: ReadResult) -> list[tuple[str, str, str]]:
    return [(e.where, e.question, e.answer) for e in result.examples]


def found(result: ReadResult) -> dict[str, str]:
    return {p.code: p.where for p in result.problems if p.severity != "info"}


def test_a_sheet_is_read_with_excels_row_numbers(tmp_path: Path) -> None:
    rows: list[list[object]] = [["My class"], [], ["问题", "答案"], ["甲？", 7], [], ["乙？", "八"]]
    result = read_file(book(sheet_of(rows), tmp_path))
    assert learned(result) == [("row 4", "甲？", "7"), ("row 6", "乙？", "八")]
    assert (result.format, result.sheets, result.sheet) == ("xlsx", ("Sheet",), "Sheet")
    assert found(result) == {"table.above_header": "row 1"}


def several(workbook: Any) -> None:
    workbook.active.title = "Notes"
    workbook.active.append(["only a note"])
    for name, columns in (("Unit 1", ["question", "answer"]), ("Unit 2", ["front", "back"])):
        sheet = workbook.create_sheet(name)
        sheet.append(columns)
        sheet.append([f"{name}?", "yes"])
    workbook.create_sheet("Empty")


def test_the_first_sheet_with_questions_is_read_and_the_others_named(tmp_path: Path) -> None:
    result = read_file(book(several, tmp_path))
    assert (result.sheet, result.sheets) == ("Unit 1", ("Notes", "Unit 1", "Unit 2"))
    assert found(result) == {"excel.sheets": ""}
    assert "Notes, Unit 1, Unit 2" in result.problems[0].what


def alike(workbook: Any) -> None:
    several(workbook)
    sheet = workbook.create_sheet("Unit 3")
    for row in ("Question", "Answer"), ("Unit 3?", "no"), ("lost?", None):
        sheet.append(row)


def test_sheets_with_the_same_columns_are_one_class(tmp_path: Path) -> None:
    path = book(alike, tmp_path)
    result = read_file(path)
    assert learned(result) == [
        ("Unit 1 row 2", "Unit 1?", "yes"),
        ("Unit 3 row 2", "Unit 3?", "no"),
    ]
    assert [e.topic for e in result.examples] == ["Unit 1", "Unit 3"]
    assert (result.sheet, result.sheets) == ("", ("Notes", "Unit 1", "Unit 2", "Unit 3"))
    assert found(result) == {"excel.sheets_joined": "", "table.no_answer": "Unit 3 row 3"}
    assert read_file(path, sheet="*") == result
    assert learned(read_file(path, sheet="Unit 3")) == [("row 2", "Unit 3?", "no")]


def test_hidden_sheets_are_read_only_when_chosen(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        alike(workbook)
        workbook["Unit 1"].sheet_state = "hidden"

    path = book(fill, tmp_path)
    assert [e.question for e in read_file(path).examples] == ["Unit 2?"]
    assert [e.question for e in read_file(path, sheet="Unit 1").examples] == ["Unit 1?"]


def test_a_merged_cell_counts_for_each_row_beside_it(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet = workbook.active
        for row in (["Class 7", "", ""], ["topic", "question", "answer"], ["rivers", "a?", "b"],
                    ["", "c?", "d"], ["", "", ""], ["", "e?", "f"]):  # fmt: skip
            sheet.append(row)
        sheet.merge_cells("A1:C1")
        sheet.merge_cells("A3:A5")

    result = read_file(book(fill, tmp_path))
    assert [(e.where, e.topic) for e in result.examples] == [
        ("row 3", "rivers"), ("row 4", "rivers"), ("row 6", ""),
    ]  # fmt: skip
    assert [p.where for p in result.problems if p.code == "excel.merged"] == ["row 4"]


def test_hidden_rows_are_read_and_named(tmp_path: Path) -> None:
    def fill(workbook: Any) -> None:
        sheet_of([["question", "answer"], ["a?", "b"], ["c?", "d"]])(workbook)
        workbook.active.row_dimensions[3].hidden = True

    result = read_file(book(fill, tmp_path))
    assert len(result.examples) == 2
    assert [p.where for p in result.problems if p.code == "excel.hidden_rows"] == ["row 3"]


def test_the_teachers_sheet_counts(tmp_path: Path) -> None:
    path = book(several, tmp_path)
    result = read_file(path, sheet="Unit 2")
    assert learned(result) == [("row 2", "Unit 2?", "yes")]
    assert found(result) == {}
    with pytest.raises(DataError, match=r"no sheet 'Unit 3'.*Unit 1, Unit 2"):
        read_file(path, sheet="Unit 3")


def test_formulas_without_result_are_named(tmp_path: Path) -> None:
    rows: list[list[object]] = [["question", "answer"], ["a?", "=7*8"], ["b?", "c"]]
    result = read_file(book(sheet_of(rows), tmp_path))
    assert learned(result) == [("row 3", "b?", "c")]
    assert found(result) == {"table.no_answer": "row 2", "excel.no_value": "row 2"}


def test_error_cells_are_left_out(tmp_path: Path) -> None:
    rows: list[list[object]] = [["question", "answer"], ["a?", "#DIV/0!"], ["b?", "#hashtag"]]
    result = read_file(book(sheet_of(rows), tmp_path))
    assert learned(result) == [("row 3", "b?", "#hashtag")]
    assert found(result) == {"excel.error_cell": "row 2"}


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as package:
        parts = {n: package.read(n) for n in package.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in parts.items():
            package.writestr(name, data)
    return path


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    return book(sheet_of([["question", "answer"], ["a?", "b"]]), tmp_path)


def test_a_part_swollen_by_compression_is_refused(workbook: Path) -> None:
    bomb = changed(workbook, lambda p: p.update({"xl/media/x.bin": bytes(40_000_000)}))
    with pytest.raises(DataError, match="too large"):
        read_file(bomb)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_any_encoding(workbook: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "b">]><x/>'
    path = changed(workbook, lambda p: p.update({"xl/theme/theme1.xml": text.encode(encoding)}))
    with pytest.raises(DataError, match="not safe"):
        read_file(path)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil", "..\\evil", "C:evil", "XL/Workbook.xml"]
)
def test_names_that_lead_out_or_come_twice_are_refused(workbook: Path, name: str) -> None:
    with pytest.raises(DataError, match="not safe"):
        read_file(changed(workbook, lambda p: p.update({name: b"x"})))


def test_links_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("xl/workbook.xml")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr(info, "/etc/passwd")
    path = tmp_path / "class.xlsx"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="link"):
        read_file(path)


@pytest.mark.parametrize(("name", "said"), [
    ("ppt/presentation.xml", "PowerPoint"),
    ("content.xml", "OpenDocument"),
    ("readme.txt", "zip file"),
])  # fmt: skip
def test_other_packages_are_called_by_their_name(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "class.xlsx"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(name, "x")
    with pytest.raises(DataError, match=f"{said}.*no Excel workbook"):
        read_file(path)


def test_every_cut_of_a_workbook_is_a_sentence(workbook: Path) -> None:
    whole = workbook.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        workbook.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="damaged"):
            read_file(workbook)


@pytest.mark.parametrize("part", ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/styles.xml"])
def test_damaged_parts_are_a_sentence(workbook: Path, part: str) -> None:
    path = changed(workbook, lambda p: p.update({part: b"<not><closed>"}))
    with pytest.raises(DataError, match=r"damaged|empty"):
        read_file(path)
