"""Workbooks: .xlsx through openpyxl in read-only mode, .xls, .xlsb and .ods through calamine."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.data.ingest.cells import display, loses_digits
from core.data.ingest.names import normal_name
from core.data.ingest.package import check_workbook, ole_kind
from core.data.ingest.table import MOST_COLUMNS, MOST_ROWS, Learned, Row, Table, learn, make_table
from core.data.messages import Findings, data_error
from core.errors import DataError

ERRORS = {"#REF!", "#N/A", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"}
ALL = "*"  # as the name of a sheet: all that have the columns of the first one
MOST_RANGES = 20_000  # merged cells and hidden rows of a sheet that are looked at

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*?\bref="([A-Z]{1,3})(\d+):([A-Z]{1,3})(\d+)"')
_HIDDEN = re.compile(rb'<(?:\w+:)?row\b(?=[^>]*\bhidden="(?:1|true)")[^>]*?\br="(\d+)"')

Rows = Callable[[str, Findings], Iterator[Row]]
Formulas = Callable[[str], Any]


@dataclass(frozen=True)
class Sheet:
    """The sheet of a workbook that was read, and the names of all that have rows.

    ``name`` is empty if several sheets with the same columns were read as one.
    """

    name: str
    names: tuple[str, ...]
    table: Table
    learned: Learned


@dataclass(frozen=True)
class Asked:
    """What a teacher chose: sheet and columns; empty where they are to be found out."""

    sheet: str = ""
    question: str = ""
    answer: str = ""
    columns: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class _Book:
    """An open workbook: its sheets by name, the hidden ones last, and how their rows are read."""

    names: tuple[str, ...]
    hidden: tuple[str, ...]
    rows_of: Rows
    formulas: Formulas | None = None


def read_xlsx(data: bytes, findings: Findings, asked: Asked) -> Sheet:
    """Read a sheet of an .xlsx or .xlsm file; macros are not even opened.

    Raises:
        DataError: if the workbook cannot be opened safely or has nothing to learn.
    """
    check_workbook(data)
    import openpyxl  # heavy; only for workbooks

    def opened(*, formulas: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions it does not keep
            return openpyxl.load_workbook(
                io.BytesIO(data), read_only=True, data_only=not formulas, keep_links=False
            )

    try:
        book = opened(formulas=False)
        sheets = [s for s in book.worksheets if hasattr(s, "iter_rows")]
        hidden = {s.title for s in sheets if s.sheet_state != "visible"}
        if any(name.endswith("vbaProject.bin") for name in book._archive.namelist()):
            findings.add("excel.macros")
        return _read(
            _Book(
                tuple(sorted((s.title for s in sheets), key=hidden.__contains__)),
                tuple(s.title for s in sheets if s.title in hidden),
                lambda name, told: _xlsx_rows(book[name], told),
                lambda name: opened(formulas=True)[name],
            ),
            findings,
            asked,
        )
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes openpyxl stumble over
        raise data_error("excel.damaged") from error


def read_other(data: bytes, findings: Findings, asked: Asked, kind: str) -> Sheet:
    """Read a sheet of an Excel 97-2003 (``xls``), binary (``xlsb``) or OpenDocument (``ods``) file.

    Raises:
        DataError: if the workbook cannot be opened or has nothing to learn.
    """
    if kind == "xls":
        ole_kind(data)
    else:
        check_workbook(data)
    import python_calamine as calamine

    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        sheets = list(book.sheets_metadata)
    except calamine.PasswordError as error:
        raise data_error("excel.password") from error
    except (calamine.CalamineError, ValueError, OSError) as error:
        code = "excel.password" if "password" in str(error).casefold() else "excel.damaged"
        raise data_error(code) from error
    findings.add("excel.xls" if kind == "xls" else "excel.values", kind=f".{kind}")

    def rows_of(name: str, told: Findings) -> Iterator[Row]:
        try:
            sheet = book.get_sheet_by_name(name)
            cells = sheet.to_python(skip_empty_area=False, nrows=MOST_ROWS + MOST_RANGES)
        except (calamine.CalamineError, ValueError, OSError) as error:
            raise data_error("excel.damaged") from error
        ranges = [(a[0] + 1, a[1], b[0] + 1) for a, b in sheet.merged_cell_ranges or ()]
        rows = (
            _row(n, [(v if v != "" else None, "General") for v in values[: MOST_COLUMNS + 1]], told)
            for n, values in enumerate(cells, 1)
        )
        return _filled(rows, ranges, told)

    shown = calamine.SheetVisibleEnum.Visible
    usable = [s for s in sheets if s.typ == calamine.SheetTypeEnum.WorkSheet]
    hidden = {s.name for s in usable if s.visible != shown}
    names = tuple(sorted((s.name for s in usable), key=hidden.__contains__))
    return _read(_Book(names, tuple(n for n in names if n in hidden), rows_of), findings, asked)


def _xlsx_rows(sheet: Any, findings: Findings) -> Iterator[Row]:
    sheet.reset_dimensions()  # what the file says about its size may be a lie
    merged, hidden = _ranges(sheet)
    for number in hidden:
        findings.add("excel.hidden_rows", f"row {number}")

    def rows() -> Iterator[Row]:
        # without bounds the rows between the cells come out empty, and fast
        for number, cells in enumerate(sheet.iter_rows(), 1):
            if cells:
                shown = cells[: MOST_COLUMNS + 1]
                values = [(c.value, getattr(c, "number_format", "General")) for c in shown]
                yield _row(number, values, findings)

    return _filled(rows(), merged, findings)


def _ranges(sheet: Any) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return merged cells as (first row, column from 0, last row), and hidden rows.

    openpyxl keeps neither in read-only mode; the part is searched piece by piece.
    """
    from openpyxl.utils import column_index_from_string

    merged: list[tuple[int, int, int]] = []
    hidden: list[int] = []
    with sheet.parent._archive.open(sheet._worksheet_path) as stream:
        rest = b""
        while (piece := stream.read(1 << 20)) and len(merged) + len(hidden) < MOST_RANGES:
            text = rest + piece
            end = text.rfind(b">") + 1
            text, rest = text[:end], text[end:][-4096:]
            hidden += [int(n) for n in _HIDDEN.findall(text)]
            for first, top, _, bottom in _MERGED.findall(text):
                column = column_index_from_string(first.decode()) - 1
                merged.append((int(top), column, int(bottom)))
    return merged, hidden


def _filled(
    rows: Iterator[Row], merged: Sequence[tuple[int, int, int]], findings: Findings
) -> Iterator[Row]:
    """Give each row what a merged cell of a row above shows in it, if the row has other texts."""
    tall = sorted(m for m in merged if m[2] > m[0] and m[1] < MOST_COLUMNS)
    if not tall:
        yield from rows
        return
    at = 0
    open_cells: dict[int, tuple[int, str]] = {}  # column to last row and text
    for row in rows:
        number = int(row.where.removeprefix("row "))
        cells = list(row.cells)
        own = any(c.strip() for c in cells)
        for column, (last, text) in list(open_cells.items()):
            if number > last:
                del open_cells[column]
            elif own and not (cells[column].strip() if column < len(cells) else ""):
                cells += [""] * (column + 1 - len(cells))
                cells[column] = text
                findings.add("excel.merged", row.where)
        while at < len(tall) and tall[at][0] <= number:
            top, column, bottom = tall[at]
            if top == number and column < len(cells) and cells[column].strip():
                open_cells[column] = bottom, cells[column]
            at += 1
        yield replace(row, cells=tuple(cells))


def _row(number: int, values: Sequence[tuple[Any, str]], findings: Findings) -> Row:
    where = f"row {number}"
    texts = tuple(display(v, f or "General") for v, f in values)
    if any(loses_digits(v) for v, _ in values):
        findings.add("excel.digits", where)
    broken = next((t for t in texts if t.startswith("#") and t in ERRORS), "")
    if broken:
        findings.add("excel.error_cell", where, cell=broken)
    return Row(texts, where, left_out=bool(broken))


@dataclass(frozen=True)
class _Read:
    """One sheet with something in it."""

    name: str
    table: Table
    learned: Learned
    told: Findings


def _read(book: _Book, findings: Findings, asked: Asked) -> Sheet:
    """Return the sheet asked for, else the first with something to learn and all that are alike."""
    if asked.sheet and asked.sheet not in (*book.names, ALL):
        raise data_error("excel.unknown_sheet", sheet=asked.sheet, sheets=", ".join(book.names))
    full = [n for n in book.names if any(any(r.cells) for r in book.rows_of(n, Findings()))]
    if not full:
        raise data_error("excel.empty")
    one = asked.sheet if asked.sheet != ALL else ""
    shown = [n for n in full if n not in book.hidden] or full
    found = _sheets([one] if one else shown, book, asked)
    chosen = [f for f in found if f.learned.examples] or found[-1:]
    first, *others = chosen
    alike = [first, *(f for f in others if _same_columns(f.table, first.table))]
    if len(full) > 1 and not one:
        code = "excel.sheets_joined" if len(alike) > 1 else "excel.sheets"
        read = ", ".join(f.name for f in alike)
        findings.add(code, "", sheets=", ".join(full), sheet=read)
    if len(alike) > 1:
        return _joined(alike, tuple(full), findings)
    findings.extend(first.told)
    return Sheet(first.name, tuple(full), first.table, first.learned)


def _sheets(names: Sequence[str], book: _Book, asked: Asked) -> list[_Read]:
    """Read sheets; those without a table are left out.

    Raises:
        DataError: the first one's, if none has a table.
    """
    found: list[_Read] = []
    failed: DataError | None = None
    for name in names:
        told = Findings()
        try:
            table = make_table(book.rows_of(name, told), told)
            learned = learn(
                table, told, asked.question, asked.answer, chosen=asked.columns, topic=""
            )
        except DataError as error:
            failed = failed or error
            continue
        if book.formulas:
            _name_missing_results(table, learned, book.formulas, name, told)
        found.append(_Read(name, table, learned, told))
    if not found:
        raise failed or data_error("table.no_examples")
    return found


def _same_columns(a: Table, b: Table) -> bool:
    return a.named and b.named and [*map(normal_name, a.columns)] == [*map(normal_name, b.columns)]


def _joined(sheets: Sequence[_Read], names: tuple[str, ...], findings: Findings) -> Sheet:
    """Put the rows of sheets with the same columns below each other, each named by its sheet."""
    rows: list[Row] = []
    examples = []
    for sheet in sheets:
        findings.extend(sheet.told.within(sheet.name))
        rows += [replace(r, where=f"{sheet.name} {r.where}") for r in sheet.table.rows]
        examples += [
            replace(e, where=f"{sheet.name} {e.where}", topic=e.topic or sheet.name)
            for e in sheet.learned.examples
        ]
    if len(rows) > MOST_ROWS:
        findings.add("table.too_many_rows", limit=MOST_ROWS)
        rows = rows[:MOST_ROWS]
        kept = {r.where for r in rows}
        examples = [e for e in examples if e.where in kept]
    first = sheets[0]
    table = replace(first.table, rows=tuple(rows))
    return Sheet("", names, table, replace(first.learned, examples=tuple(examples)))


def _name_missing_results(
    table: Table, learned: Learned, formulas: Formulas, name: str, findings: Findings
) -> None:
    """Tell rows that lack a text only because a formula was saved without its result."""
    known = {e.where for e in learned.examples}
    lacking = {r.where for r in table.rows if not r.left_out} - known
    if not lacking:
        return
    sheet = formulas(name)
    sheet.reset_dimensions()
    last = max(int(where.removeprefix("row ")) for where in lacking)
    for number, cells in enumerate(itertools.islice(sheet.iter_rows(max_row=last), last), 1):
        if f"row {number}" in lacking and any(c.data_type == "f" for c in cells):
            findings.add("excel.no_value", f"row {number}")
