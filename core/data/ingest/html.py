"""The table of an HTML page (school systems export these under the name .xls)."""

from __future__ import annotations

from html.parser import HTMLParser

from core.data.ingest.table import Row
from core.data.messages import Findings, data_error

_SILENT = {"script", "style", "template", "noscript", "title"}
_BREAKS = {"br", "p", "div", "li"}


class _Tables(HTMLParser):
    """Collects the cells of every table; what scripts and styles hold is no text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self._open: list[int] = []
        self._cell: list[str] | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag == "table":
            self._end_cell()
            self.tables.append([])
            self._open.append(len(self.tables) - 1)
        elif tag == "tr" and self._open:
            self._end_cell()
            self.tables[self._open[-1]].append([])
        elif tag in ("td", "th") and self._open:
            self._end_cell()
            self._cell = []
        elif tag in _BREAKS and self._cell:
            self._cell.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in ("td", "th", "tr"):
            self._end_cell()
        elif tag == "table" and self._open:
            self._end_cell()
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._cell is not None and not self._silent:
            self._cell.append(data)

    def _end_cell(self) -> None:
        if self._cell is None or not self._open:
            return
        table = self.tables[self._open[-1]]
        if not table:
            table.append([])
        lines = [" ".join(line.split()) for line in "".join(self._cell).split("\n")]
        table[-1].append("\n".join(line for line in lines if line))
        self._cell = None


def read_rows(text: str, findings: Findings) -> list[Row]:
    """Return the rows of the largest table.

    Raises:
        DataError: if there is no table with rows.
    """
    parser = _Tables()
    parser.feed(text)
    parser.close()
    table = max(parser.tables, key=lambda t: sum(map(len, t)), default=[])
    if not any(table):
        raise data_error("html.no_table")
    findings.add("html.table")
    return [Row(tuple(cells), f"row {i}") for i, cells in enumerate(table, 1)]
