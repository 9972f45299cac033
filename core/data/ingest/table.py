"""Tables of text, from whatever file: header, columns, examples."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from core.data.formula import unprotected
from core.data.ingest.columns import choose_columns, names_pair
from core.data.ingest.encoding import has_bad_bytes
from core.data.ingest.learner import Learner
from core.data.ingest.names import column_letter, option_columns
from core.data.ingest.rows import Learned, Row, Table
from core.data.messages import Findings, data_error

__all__ = ["MOST_ROWS", "Learned", "Row", "Table", "column_letter", "learn", "make_table"]

MOST_ROWS = 50_000
MOST_COLUMNS = 200
HEADER_SEARCH = 20  # rows in which the header is looked for
SAMPLE = 1000  # rows that show how answers name options
MOST_WORDS = 6  # of a column's name
LONGEST_NAME = 30  # characters of a cell in the second row of a header

_SPOKEN = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", "::": "double colon"}
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SENTENCE = re.compile(r"[;；。！!]|\w\.$")  # no column is called so
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_table(
    rows: Iterable[Row],
    findings: Findings,
    *,
    encoding: str = "",
    delimiter: str = "",
    header: bool = False,
) -> Table:
    """Find the header among rows as they stand in a file.

    Args:
        rows: all rows of the file or sheet, also the blank ones.
        findings: is told what is left out.
        encoding: of the text, to name bytes that do not fit it.
        delimiter: between the cells of a text file, where one too many shifts the others.
        header: whether the first row is known to be one.

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
    at = 0 if header else _header_row(kept)
    if header:
        body = kept[1:]
        table = Table(_column_names(kept[0].cells, findings), tuple(body))
    elif at < 0:
        body = kept
        width = max(len(r.cells) for r in body)
        table = Table(tuple(column_letter(i) for i in range(width)), tuple(body), named=False)
    else:
        for row in kept[:at]:
            number = kept[at].where.removeprefix("row ")
            findings.add("table.above_header", row.where, header=number)
        names, used = _header_cells(kept[at : at + 2], findings)
        body = _without_headers(kept[at + used :], names, findings)
        table = Table(_column_names(names, findings), tuple(body))
    if not body:
        raise data_error("table.no_rows")
    return _squared(_widened(table, delimiter), findings, delimiter)


class More:
    """Further rows of a table whose header is known, one at a time."""

    def __init__(
        self, table: Table, findings: Findings, *, encoding: str = "", delimiter: str = ""
    ) -> None:
        """Go on where :func:`make_table` ended; arguments as there."""
        self.columns, self.findings = table.columns, findings
        self.encoding, self.delimiter = encoding, delimiter
        self.header = list(table.columns)

    def add(self, row: Row) -> Row | None:
        """Return a row as the table holds it; ``None`` if it is blank or the header again."""
        used = _used(row.cells)
        if not used and not row.left_out:
            return None
        row = _cleaned(row, self.findings, self.encoding)
        if [" ".join(c.split()) for c in row.cells[:used]] == self.header:
            self.findings.add("table.header_again", row.where)
            return None
        return _square(row, self.columns, self.findings, self.delimiter)


def learn(
    table: Table,
    findings: Findings,
    question: str = "",
    answer: str = "",
    *,
    chosen: Mapping[str, Sequence[str]] | None = None,
    topic: str = "",
) -> Learned:
    """Turn rows into examples.

    Args:
        table: the rows.
        findings: is told the rows that are left out, and guesses.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.
        chosen: columns of every part, see :func:`~core.data.ingest.columns.choose_columns`.
        topic: what rows are about where no column says so.

    Raises:
        DataError: if a named column does not exist or there is only one.
    """
    cells = [r.cells for r in table.rows if not r.left_out]
    columns = choose_columns(
        table.columns, cells, question, answer, named=table.named, chosen=chosen
    )
    if columns.guessed:
        code = "table.guessed_columns" if table.named else "table.no_header"
        others = {"columns": ", ".join(table.columns)} if table.named else {}
        findings.add(code, question=columns.question, answer=columns.answer, **others)
    learner = Learner(table.columns, columns, cells[:SAMPLE])
    found = (learner.example(row, findings, topic) for row in table.rows)
    examples = tuple(example for example in found if example)
    if "rejected" in columns.parts:
        findings.add("table.chosen_learned")
    return Learned(
        examples, columns.names(), columns.kind, dict(columns.parts), dict(columns.confidence)
    )


def clean_text(text: str) -> str:
    """Return a text without control characters (tab and line breaks stay)."""
    return text if text.isprintable() else _CONTROL.sub("", _ANSI.sub("", text))


def _cleaned(row: Row, findings: Findings, encoding: str) -> Row:
    """Take control characters and the protection of formulas from a row's cells."""
    cells = row.cells
    if any(c[:1] == "'" for c in cells):
        cells = tuple(map(unprotected, cells))
    clean = cells
    if not all(map(str.isprintable, cells)):
        clean = tuple(map(clean_text, cells))
        if clean != cells:
            findings.add("text.control", row.where)
    if not all(map(is_text, clean)):
        if not row.left_out:
            bad = bool(encoding) and any(map(has_bad_bytes, clean))
            code = "encoding.bad_bytes" if bad else "text.half_character"
            findings.add(code, row.where, **({"encoding": encoding} if bad else {}))
        row = replace(row, left_out=True)
        clean = tuple(_SURROGATE.sub("\ufffd", c) for c in clean)
    return row if clean is row.cells else replace(row, cells=clean)


def is_text(cell: str) -> bool:
    """Say whether a text has no lone surrogate, half a character."""
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


def _header_cells(rows: Sequence[Row], findings: Findings) -> tuple[tuple[str, ...], int]:
    """Return the cells of a header and how many rows it has.

    Two where the second one names what a merged cell of the first spans (``选项`` over
    ``A B C D``), or says the same in another language.
    """
    top = rows[0].cells
    if len(rows) < 2:
        return top, 1
    below = rows[1].cells
    texts = [c.strip() for c in below if c.strip()]
    if len(texts) < 2 or any(len(t) > LONGEST_NAME or t.endswith(("?", "？")) for t in texts):
        return top, 1
    width = max(len(top), len(below))
    top, below = (cells + ("",) * (width - len(cells)) for cells in (top, below))
    spans = list(top)
    for i in range(1, width):
        if not spans[i].strip() and below[i].strip():
            spans[i] = spans[i - 1]
    under = [i for i in range(width) if below[i].strip() not in ("", top[i].strip())]
    beyond = [i for i in under if not top[i].strip()]
    groups = [i for i in under if top[i].strip() and i + 1 < width and not top[i + 1].strip()]
    joined = tuple(
        f"{s.strip()} {b.strip()}".strip() if s.strip() != b.strip() else s
        for s, b in zip(spans, below, strict=True)
    )
    spanned = bool(beyond) and len(beyond) + len(groups) >= len(under)
    if spanned and (option_columns(joined) or (names_pair(joined) and not names_pair(top))):
        findings.add("table.two_headers", rows[1].where)
        return joined, 2
    if names_pair(top) and names_pair(below) and not any(map(_is_number, texts)):
        findings.add("table.second_header", rows[1].where)
        return top, 2
    return top, 1


def _is_number(text: str) -> bool:
    return text.replace(".", "").isdecimal()


def _without_headers(rows: list[Row], names: Sequence[str], findings: Findings) -> list[Row]:
    """Leave out rows that repeat the header, as pages pasted below each other have them."""
    header = [c.strip() for c in names if c.strip()]
    kept = []
    for row in rows:
        same = row.cells[0].strip() == names[0].strip()
        if same and [c.strip() for c in row.cells if c.strip()] == header:
            findings.add("table.header_again", row.where)
        else:
            kept.append(row)
    return kept


def _filled(row: Row) -> int:
    return sum(bool(c.strip()) for c in row.cells)


def _looks_like_data(row: Row) -> bool:
    cells = [c.strip() for c in row.cells if c.strip()]
    asks = any(c.endswith(("?", "？")) for c in cells)
    says = any(len(c.split()) > MOST_WORDS or _SENTENCE.search(c) for c in cells)
    return asks or says or any(len(c) > 60 for c in cells) or any(c.isdecimal() for c in cells[1:])


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
    rows = [_square(r, columns, findings, delimiter, len(table.columns)) for r in table.rows]
    return Table(columns, tuple(rows), table.named)


def _square(
    row: Row, columns: Sequence[str], findings: Findings, delimiter: str, most: int = 0
) -> Row:
    """Give a row as many cells as there are columns; leave it out if it has more texts."""
    n = len(columns)
    left_out = row.left_out
    if delimiter and not left_out and _used(row.cells) > (most or n):
        findings.add("table.extra_cells", row.where, delimiter=_SPOKEN[delimiter])
        left_out = True
    return Row((row.cells + ("",) * n)[:n], row.where, left_out)


def _used(cells: Sequence[str]) -> int:
    return max((i + 1 for i, c in enumerate(cells) if c.strip()), default=0)
