"""Workbooks: .xlsx through openpyxl in read-only mode, old .xls through calamine."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.data.ingest.cells import display, loses_digits
from core.data.ingest.package import check_workbook, ole_kind
from core.data.ingest.table import MOST_COLUMNS, Learned, Row, Table, learn, make_table
from core.data.messages import Findings, data_error
from core.errors import DataError

ERRORS = {"#REF!", "#N/A", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"}

Rows = Callable[[str, Findings], Iterator[Row]]


@dataclass(frozen=True)
class Sheet:
    """The sheet of a workbook that was read, and the names of all that have rows."""

    name: str
    names: tuple[str, ...]
    table: Table
    learned: Learned


def read_xlsx(
    data: bytes, findings: Findings, *, sheet: str = "", question: str = "", answer: str = ""
) -> Sheet:
    """Read a sheet of an .xlsx file.

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
        names = [s.title for s in book.worksheets if hasattr(s, "iter_rows")]
        rows_of: Rows = lambda name, told: _xlsx_rows(book[name], told)  # noqa: E731
        found = _choose_sheet(names, rows_of, findings, sheet, question, answer)
        _name_missing_results(found, lambda: opened(formulas=True)[found.name], findings)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes openpyxl stumble over
        raise data_error("excel.damaged") from error
    return found


def read_xls(
    data: bytes, findings: Findings, *, sheet: str = "", question: str = "", answer: str = ""
) -> Sheet:
    """Read a sheet of an Excel 97-2003 file.

    Raises:
        DataError: if the workbook cannot be opened or has nothing to learn.
    """
    ole_kind(data)
    import python_calamine as calamine

    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        names = list(book.sheet_names)
    except calamine.PasswordError as error:
        raise data_error("excel.password") from error
    except (calamine.CalamineError, ValueError, OSError) as error:
        code = "excel.password" if "password" in str(error).casefold() else "excel.damaged"
        raise data_error(code) from error
    findings.add("excel.xls")

    def rows_of(name: str, told: Findings) -> Iterator[Row]:
        cells = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
        for number, values in enumerate(cells, 1):
            yield _row(number, [(v if v != "" else None, "General") for v in values], told)

    return _choose_sheet(names, rows_of, findings, sheet, question, answer)


def _xlsx_rows(sheet: Any, findings: Findings) -> Iterator[Row]:
    sheet.reset_dimensions()  # what the file says about its size may be a lie
    # without bounds the rows between the cells come out empty, and fast
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if cells:
            shown = cells[: MOST_COLUMNS + 1]
            values = [(c.value, getattr(c, "number_format", "General")) for c in shown]
            yield _row(number, values, findings)


def _row(number: int, values: list[tuple[Any, str]], findings: Findings) -> Row:
    where = f"row {number}"
    texts = tuple(display(v, f or "General") for v, f in values)
    if any(loses_digits(v) for v, _ in values):
        findings.add("excel.digits", where)
    broken = next((t for t in texts if t.startswith("#") and t in ERRORS), "")
    if broken:
        findings.add("excel.error_cell", where, cell=broken)
    return Row(texts, where, left_out=bool(broken))


def _choose_sheet(
    names: list[str], rows_of: Rows, findings: Findings, sheet: str, question: str, answer: str
) -> Sheet:
    """Return the sheet asked for, or else the first with something to learn."""
    full = [n for n in names if any(any(r.cells) for r in rows_of(n, Findings()))]
    if sheet and sheet not in names:
        raise data_error("excel.unknown_sheet", sheet=sheet, sheets=", ".join(names))
    if not full:
        raise data_error("excel.empty")
    first_error: DataError | None = None
    for name in [sheet] if sheet else full:
        told = Findings()
        try:
            table = make_table(rows_of(name, told), told)
            learned = learn(table, told, question, answer)
        except DataError as error:
            first_error = first_error or error
            continue
        if learned.examples or name == (sheet or full[-1]):
            if len(full) > 1 and not sheet:
                findings.add("excel.sheets", "", sheets=", ".join(full), sheet=name)
            findings.extend(told)
            return Sheet(name, tuple(full), table, learned)
    raise first_error or data_error("table.no_examples")


def _name_missing_results(found: Sheet, formulas: Callable[[], Any], findings: Findings) -> None:
    """Tell rows that lack a text only because a formula was saved without its result."""
    learned = {e.where for e in found.learned.examples}
    lacking = {r.where for r in found.table.rows if not r.left_out} - learned
    if not lacking:
        return
    sheet = formulas()
    sheet.reset_dimensions()
    last = max(int(where.removeprefix("row ")) for where in lacking)
    for number, cells in enumerate(sheet.iter_rows(max_row=last), 1):
        if f"row {number}" in lacking and any(c.data_type == "f" for c in cells):
            findings.add("excel.no_value", f"row {number}")
