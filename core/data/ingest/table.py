"""Tables of text, from whatever file: header, columns, examples."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from core.data.formula import unprotected
from core.data.ingest.columns import choose_columns, names_pair
from core.data.ingest.encoding import has_bad_bytes
from core.data.messages import Findings, data_error
from core.data.types import Example, Turn

MOST_ROWS = 50_000
MOST_COLUMNS = 200
HEADER_SEARCH = 20  # rows in which the header is looked for

_SPOKEN = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """A row of text; ``left_out`` if its reader already said why it cannot be used."""

    cells: tuple[str, ...]
    where: str
    left_out: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under named columns; ``named`` is false where the file has no header."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    named: bool = True


@dataclass(frozen=True)
class Learned:
    """What a table turned out to teach."""

    examples: tuple[Example, ...]
    mapping: dict[str, str]
    kind: str = ""  # alpaca, preference or empty


def make_table(
    rows: Iterable[Row], findings: Findings, *, encoding: str = "", delimiter: str = ""
) -> Table:
    """Find the header among rows as they stand in a file.

    Args:
        rows: all rows of the file or sheet, also the blank ones.
        findings: is told what is left out.
        encoding: of the text, to name bytes that do not fit it.
        delimiter: between the cells of a text file, where one too many shifts the others.

    Raises:
        DataError: if there is no row below a header.
    """
    kept: list[Row] = []
    for row in rows:
        if not any(c.strip() for c in row.cells) and not row.left_out:
            continue
        if len(kept) > MOST_ROWS:
            findings.add("table.too_many_rows", limit=MOST_ROWS)
            break
        kept.append(_cleaned(row, findings, encoding))
    if not kept:
        raise data_error("file.empty")
    at = _header_row(kept)
    body = kept[at + 1 :]
    if at < 0:
        width = max(len(r.cells) for r in body)
        table = Table(tuple(column_letter(i) for i in range(width)), tuple(body), named=False)
    else:
        for row in kept[:at]:
            number = kept[at].where.removeprefix("row ")
            findings.add("table.above_header", row.where, header=number)
        table = Table(_column_names(kept[at].cells, findings), tuple(body))
    if not body:
        raise data_error("table.no_rows")
    return _squared(_widened(table, delimiter), findings, delimiter)


def learn(table: Table, findings: Findings, question: str = "", answer: str = "") -> Learned:
    """Turn rows into examples.

    Args:
        table: the rows.
        findings: is told the rows that are left out, and guesses.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.

    Raises:
        DataError: if a named column does not exist or there is only one.
    """
    mapping = choose_columns(
        table.columns, [r.cells for r in table.rows], question, answer, named=table.named
    )
    if mapping.guessed:
        code = "table.guessed_columns" if table.named else "table.no_header"
        columns = {"columns": ", ".join(table.columns)} if table.named else {}
        findings.add(code, question=mapping.question, answer=mapping.answer, **columns)
    at = {role: table.columns.index(name) for role, name in mapping.names().items()}
    examples = []
    for row in table.rows:
        found = {role: row.cells[i] for role, i in at.items()}
        if not row.left_out and _usable(found, row.where, findings):
            examples.append(_example(found, row.where))
    if mapping.rejected:
        findings.add("table.chosen_learned")
    return Learned(tuple(examples), mapping.names(), mapping.kind)


def column_letter(index: int) -> str:
    """Return Excel's name of a column: A .. Z, AA, AB ..."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def clean_text(text: str) -> str:
    """Return a text without control characters (tab and line breaks stay)."""
    return text if text.isprintable() else _CONTROL.sub("", _ANSI.sub("", text))


def _cleaned(row: Row, findings: Findings, encoding: str) -> Row:
    """Take control characters and the protection of formulas from a row's cells."""
    cells = tuple(map(unprotected, row.cells))
    clean = tuple(map(clean_text, cells))
    if clean != cells:
        findings.add("text.control", row.where)
    if not all(map(_is_text, clean)) and not row.left_out:
        if encoding and any(map(has_bad_bytes, clean)):
            findings.add("encoding.bad_bytes", row.where, encoding=encoding)
        else:
            findings.add("text.half_character", row.where)
        row = replace(row, left_out=True)
    return replace(row, cells=tuple(_SURROGATE.sub("\ufffd", c) for c in clean))


def _is_text(cell: str) -> bool:
    return cell.isascii() or not _SURROGATE.search(cell)


def _header_row(rows: Sequence[Row]) -> int:
    """Return the index of the header; -1 if the first row is data already."""
    first = next((i for i, r in enumerate(rows) if _filled(r) >= 2), 0)
    for i, row in enumerate(rows[:HEADER_SEARCH]):
        if names_pair(row.cells):
            return i
    if _filled(rows[first]) >= 2 and _looks_like_data(rows[first]):
        return -1
    return first


def _filled(row: Row) -> int:
    return sum(bool(c.strip()) for c in row.cells)


def _looks_like_data(row: Row) -> bool:
    cells = [c.strip() for c in row.cells if c.strip()]
    asks = any(c.endswith(("?", "？")) for c in cells)
    return asks or any(len(c) > 60 for c in cells) or any(c.isdecimal() for c in cells[1:])


def _column_names(cells: Sequence[str], findings: Findings) -> tuple[str, ...]:
    names = [unicodedata.normalize("NFC", " ".join(c.split())) for c in cells]
    while names and not names[-1]:
        names.pop()
    names = [name or column_letter(i) for i, name in enumerate(names)]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        if seen[name] == 2:
            findings.add("table.repeated_header", column=name)
        unique.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return tuple(unique)


def _widened(table: Table, delimiter: str) -> Table:
    """Add columns for cells beyond the header, unless they are slips of a few rows."""
    n = len(table.columns)
    used = [_used(r.cells) for r in table.rows]
    beyond = sum(u > n for u in used)
    if not beyond or (delimiter and beyond * 2 <= len(used)):
        return table
    return replace(table, columns=(*table.columns, *map(column_letter, range(n, max(used)))))


def _squared(table: Table, findings: Findings, delimiter: str) -> Table:
    """Give every row as many cells as there are columns."""
    columns = table.columns[:MOST_COLUMNS]
    if len(columns) < len(table.columns):
        findings.add("table.too_many_columns", limit=MOST_COLUMNS)
    n = len(columns)
    rows = []
    for row in table.rows:
        cells = (row.cells + ("",) * n)[:n]
        left_out = row.left_out
        if delimiter and not left_out and _used(row.cells) > len(table.columns):
            findings.add("table.extra_cells", row.where, delimiter=_SPOKEN[delimiter])
            left_out = True
        rows.append(Row(cells, row.where, left_out))
    return Table(columns, tuple(rows), table.named)


def _used(cells: Sequence[str]) -> int:
    return max((i + 1 for i, c in enumerate(cells) if c.strip()), default=0)


def _usable(found: dict[str, str], where: str, findings: Findings) -> bool:
    """Say whether a row can be learned, and tell why not."""
    if not found["question"].strip():
        findings.add("table.no_question", where)
    elif not found["answer"].strip():
        findings.add("table.no_answer", where)
    elif "rejected" in found and not found["rejected"].strip():
        findings.add("table.no_rejected", where)
    elif found.get("rejected", "").strip() == found["answer"].strip():
        findings.add("table.chosen_is_rejected", where)
    else:
        return True
    return False


def _example(found: dict[str, str], where: str) -> Example:
    question = found["question"]
    if found.get("input", "").strip():
        question = f"{question}\n{found['input']}"
    system = found.get("system", "")
    start = (Turn("system", system),) if system.strip() else ()
    return Example((*start, Turn("user", question), Turn("assistant", found["answer"])), where)
