"""CSV and its relatives: comma, semicolon, tab or bar, found out from the text."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from core.data.ingest.columns import names_pair
from core.data.ingest.table import Row
from core.data.messages import Findings

DELIMITERS = (",", ";", "\t", "|", "::")
SAMPLE_LINES = 200
_RULE = re.compile(r":?-{2,}:?")
NAMES = {",": "csv", ";": "csv", "\t": "tsv", "|": "csv", "::": "csv"}
_UNIT = "\x1f"  # stands for a delimiter of two characters, which csv does not know

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long on Windows


@dataclass(frozen=True)
class Dialect:
    """How a text file separates and quotes its cells; ``width`` cells in most of its rows."""

    delimiter: str
    width: int
    escape: bool = False
    skip_space: bool = False
    quote: str = '"'

    def reader(self, lines: list[str]) -> Iterator[list[str]]:
        """Return ``csv.reader`` over lines; it counts them in ``line_num``."""
        one = len(self.delimiter) == 1
        return csv.reader(
            lines if one and self.quote == '"' else [self.written(line) for line in lines],
            delimiter=self.delimiter if one else _UNIT,
            quotechar=self.quote,
            skipinitialspace=self.skip_space,
            escapechar="\\" if self.escape else None,
            doublequote=True,
        )

    def written(self, line: str) -> str:
        """Return a line as ``csv`` can read it.

        In single quotation marks an apostrophe is doubled, unless it stands where a cell begins or
        ends.
        """
        if self.quote == "'":
            line = _apostrophe(self.delimiter).sub("''", line)
        return line if len(self.delimiter) == 1 else line.replace(self.delimiter, _UNIT)


@cache
def _apostrophe(delimiter: str) -> re.Pattern[str]:
    """Return what an apostrophe inside a cell looks like: nothing around it ends the cell."""
    d = re.escape(delimiter)
    return re.compile(rf"(?<=.)(?<!')(?<!{d})(?<!{d} )'(?! ?{d})(?!['\r\n])(?=.)", re.DOTALL)


def _in_single_quotes(sample: list[str], delimiter: str) -> bool:
    """Say whether nearly all lines are cells in single quotation marks."""
    lines = [line.strip() for line in sample if line.strip()]
    body = lines if lines and lines[0].startswith("'") else lines[1:]  # a header may have none
    between = re.compile(f"' ?{re.escape(delimiter)} ?'")
    quoted = sum(x[:1] == "'" and x[-1:] == "'" and bool(between.search(x)) for x in body)
    return quoted >= 2 and quoted >= 0.8 * len(body)


def read_rows(text: str, findings: Findings) -> tuple[list[Row], str]:
    """Return all rows of a text file, blank ones too, and the delimiter.

    Rows are numbered as Excel numbers them: a row may be several lines of the file, and Excel
    does not show a ``sep=`` line.
    """
    lines = list(io.StringIO(text, newline=""))  # keeps \\r, \\n and \\r\\n apart
    hinted = hint(lines[0]) if lines else ""
    lines = lines[1:] if hinted else lines
    dialect = find_dialect(lines, hinted)
    rows = [row for row, _ in records(lines, dialect, findings)]
    if dialect.escape:
        for row in rows:
            if any('"' in c for c in row.cells):
                findings.add("table.backslash_quotes", row.where)
    return rows, dialect.delimiter


def hint(line: str) -> str:
    """Return the delimiter that Excel's hint line ``sep=;`` names."""
    said = line.rstrip("\r\n").strip('"')
    named = said[:4].casefold() == "sep=" and len(said) == 5
    return said[4] if named and said[4] in DELIMITERS else ""


def find_dialect(lines: list[str], hinted: str = "") -> Dialect:
    """Return the dialect that explains the first lines best; ``hinted`` is a known delimiter."""
    sample = lines[:SAMPLE_LINES]
    delimiters = hinted or DELIMITERS
    best = max((_tried(sample, Dialect(d, 0)) for d in delimiters), key=lambda t: t[0])[1]
    if _in_single_quotes(sample, best.delimiter):
        spaced = any(f"'{best.delimiter} '" in line for line in sample)
        quoted = Dialect(best.delimiter, best.width, skip_space=spaced, quote="'")
        return _tried(sample, quoted)[1]
    variants = [best]
    if any(f'{best.delimiter} "' in line for line in sample):
        variants.insert(0, Dialect(best.delimiter, best.width, skip_space=True))
    if any('\\"' in line for line in sample):
        variants.append(Dialect(best.delimiter, best.width, escape=True))
    return max((_tried(sample, v) for v in variants), key=lambda t: t[0])[1]  # the first of equals


def _tried(sample: list[str], dialect: Dialect) -> tuple[tuple[bool, float, int], Dialect]:
    """Return how well a dialect explains a sample, the better the larger, and its width."""
    records = [r for r in dialect.reader(sample) if any(c.strip() for c in r)]
    counts = Counter(len(r) for r in records)
    width = max(counts, key=lambda n: (counts[n] if n > 1 else 0, n), default=1)
    regular = counts[width] / len(records) if width > 1 else 0.0
    header = any(names_pair(r) for r in records[:20])
    found = replace(dialect, width=width)
    return (header, regular, len(records)), found


def records(
    lines: list[str], dialect: Dialect, findings: Findings, number: int = 0
) -> Iterator[tuple[Row, int]]:
    """Yield records; one that an open quotation mark has swallowed lines into is taken back.

    Args:
        lines: of the file, or a window of them that begins with a record.
        dialect: from :func:`find_dialect`.
        findings: is told the open quotation marks.
        number: records before the window.

    Yields:
        Each row, and how many of the lines it and those before it take.
    """
    start = 0
    while start < len(lines):
        reader = dialect.reader(lines[start:])
        first = start
        for cells in reader:
            number += 1
            where = f"row {number}"
            end = start + reader.line_num  # type: ignore[attr-defined]
            never_closed = end == len(lines) and cells[-1:] and cells[-1].endswith(("\n", "\r"))
            if (end - first > 1 or never_closed) and _swallowed(cells, lines[first:end], dialect):
                findings.add("table.open_quote", where)
                yield Row((lines[first].rstrip("\r\n"),), where, left_out=True), first + 1
                start = first + 1
                break
            if dialect.delimiter == "|":  # Markdown sets its cells off with spaces and a rule
                cells = [c.strip(" ") for c in cells]
                if all(_RULE.fullmatch(c) for c in cells if c) and any(cells):
                    cells = []
            yield Row(tuple(cells), where), end
            first = end
        else:
            return


def _swallowed(cells: list[str], raw: list[str], dialect: Dialect) -> bool:
    odd = sum(dialect.written(line).count(dialect.quote) for line in raw) % 2 == 1
    return odd or (len(cells) != dialect.width and len(raw) > 2)
