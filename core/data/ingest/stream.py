"""Class files of any length to examples on disk, in memory that does not grow with the file.

Text tables, JSON Lines and Parquet are read a window at a time. What a file is, its encoding, its
dialect and its columns are found out from the beginning, as for a small file, and then hold.
"""

from __future__ import annotations

import codecs
import io
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.data.arrow import ExampleWriter
from core.data.ingest import conversations, delimited, question_formats
from core.data.ingest.columns import choose_columns
from core.data.ingest.encoding import SAMPLE, decode
from core.data.ingest.flatten import flat_rows
from core.data.ingest.json_text import FRAME, Record, line_value, records_in
from core.data.ingest.label import clean_label, suffix_of
from core.data.ingest.learner import Learner
from core.data.ingest.parquet import records_of
from core.data.ingest.sniff import binary_kind, text_kind
from core.data.ingest.table import More, Row, make_table
from core.data.messages import Findings, data_error, named, problem
from core.data.types import Example
from core.errors import DataError, Problem, Stopped

CHUNK = 1 << 20  # bytes that are read at a time
WINDOW = 4000  # lines of a table that are taken apart together
MARGIN = 1000  # lines that a text in quotation marks may have
SHOWN = 200  # rows that are kept for a preview
HEAD = 1000  # rows from which columns and the way to name options are found out
LONGEST_LINE = 16 * 2**20  # characters of a line
MOST_KEPT = 1000  # places of a finding that are kept by name
EVERY = 0.2  # seconds between two reports of progress


@dataclass(frozen=True)
class Progress:
    """How far an import has come.

    Attributes:
        rows: read so far, whether they can be learned or not.
        done: bytes read.
        total: bytes of the file.
        seconds: since the import began.
    """

    rows: int
    done: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows a second so far."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest takes at this rate."""
        return self.seconds * (self.total - self.done) / max(self.done, 1)


@dataclass
class Imported:
    """What an import found; the examples are in the file."""

    format: str
    encoding: str = ""
    columns: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    examples: int = 0
    shown: list[tuple[str, ...]] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()


class FewPlaces(Findings):
    """Findings that count places after the first ones instead of naming them."""

    def __init__(self) -> None:
        super().__init__()
        self._more: dict[Any, int] = {}

    def add(self, code: str, where: str = "", **values: object) -> None:
        """Note a finding at a place."""
        key = self.key(code, values)
        if len(self._places.get(key, ())) < MOST_KEPT:
            super().add(code, where, **values)
        else:
            self._more[key] = self._more.get(key, 0) + 1

    def problems(self) -> list[Problem]:
        """Return one problem for each kind of finding, with the number of all places."""
        return [
            problem(key[0], named(places, len(places) + self._more.get(key, 0)), **dict(key[1]))
            for key, places in self._places.items()
        ]


@dataclass
class _Run:
    """One import under way."""

    path: Path
    findings: FewPlaces
    wanted: Mapping[str, Any]
    progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    done: int = 0
    rows: int = 0
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0

    def tick(self) -> None:
        """Tell the progress now and then; end if that was asked for."""
        now = time.monotonic()
        if now - self.told < EVERY:
            return
        self.told = now
        if self.should_stop():
            raise Stopped("The import was stopped; nothing was kept.", code="import.stopped")
        self.progress(Progress(self.rows, self.done, self.path.stat().st_size, now - self.began))


def import_rows(
    path: Path,
    to: Path,
    *,
    question: str = "",
    answer: str = "",
    encoding: str = "",
    columns: Mapping[str, Sequence[str]] | None = None,
    label: str = "",
    progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Imported:
    """Read a file of any length and write its examples as they come.

    Args:
        path: a text table, JSON Lines or Parquet.
        to: the Arrow file to write; see :mod:`core.data.arrow`.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.
        encoding: of the text; empty: recognised.
        columns: the columns of every part; see :func:`core.data.ingest.read_file`.
        label: how the file is called in messages; empty: its name.
        progress: is told rows, bytes and seconds about five times a second.
        should_stop: is asked as often; true ends the import and removes what was written.

    Raises:
        DataError: if nothing in the file can be used, or it is of a kind that is not read so.
        Stopped: if that was asked for.
    """
    wanted = {"question": question, "answer": answer, "chosen": columns}
    run = _Run(path, FewPlaces(), wanted, progress, should_stop)
    label = label or clean_label(path.name)
    try:
        found = Imported("")
        with ExampleWriter(to) as writer:
            for example in _examples(run, found, encoding):
                writer.add(example)
            if not writer.count:
                raise data_error("table.no_examples")
        found.rows, found.examples = run.rows, writer.count
        found.problems = tuple(run.findings.problems())
        run.told = 0.0
        run.tick()
        return found
    except DataError as error:
        where = f"{label}, {error.where}" if error.where else label
        raise DataError(
            error.what,
            where=where,
            action=error.action,
            code=error.code,
            problems=run.findings.problems(),
        ) from error.__cause__


def _examples(run: _Run, found: Imported, encoding: str) -> Iterator[Example]:
    """Yield the examples of a file; what is found out about it goes into ``found``."""
    try:
        with run.path.open("rb") as file:
            head = file.read(SAMPLE)
    except OSError as error:
        raise data_error("file.unreadable") from error
    kind = binary_kind(head)
    if kind == "parquet":
        found.format = kind
        records = _counted(run, records_of(run.path))
        yield from _of_records(run, found, records)
        return
    # A zip is refused for what it is; its head alone does not say what it holds.
    if kind or question_formats.binary_kind(head):
        raise data_error("large.kind")
    text = decode(head, run.findings, encoding)
    suffix = suffix_of(run.path.name)
    if question_formats.text_kind(text.text, suffix):
        raise data_error("large.kind")
    kind = text_kind(text.text, suffix)
    found.format, found.encoding = kind, text.encoding
    lines = _lines(run, text.encoding)
    if kind == "delimited":
        yield from _of_table(run, found, lines)
    elif kind == "jsonl":
        yield from _of_records(run, found, _json_records(run, lines))
    else:
        raise data_error("large.kind")


def _counted(run: _Run, records: Iterable[Record]) -> Iterator[Record]:
    size = run.path.stat().st_size
    for record in records:
        run.rows += 1
        run.done = min(size, run.done + 1)
        run.tick()
        yield record
    run.done = size


# --- lines ---------------------------------------------------------------------------------------


def _lines(run: _Run, encoding: str) -> Iterator[str]:
    """Yield the lines of a text with their ends, whatever these are."""
    wide = encoding.startswith(("utf-16", "utf-32"))
    decoder = codecs.getincrementaldecoder(encoding)("replace" if wide else "surrogateescape")
    rest = ""
    first = True
    with run.path.open("rb") as file:
        while True:
            data = file.read(CHUNK)
            run.done += len(data)
            text = rest + decoder.decode(data, final=not data)
            if first:
                text, first = text.removeprefix("\ufeff"), False
            if not data:
                yield from io.StringIO(text, newline="")
                return
            # a line end at the very end may be the first half of one of two characters
            cut = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
            if cut == 0 and len(text) > LONGEST_LINE:
                raise data_error("large.line", limit=LONGEST_LINE >> 20)
            complete, rest = text[:cut], text[cut:]
            yield from io.StringIO(complete, newline="")


# --- tables --------------------------------------------------------------------------------------


def _of_table(run: _Run, found: Imported, lines: Iterator[str]) -> Iterator[Example]:
    head = list(itertools.islice(lines, WINDOW))
    hinted = delimited.hint(head[0]) if head else ""
    head = head[1:] if hinted else head
    dialect = delimited.find_dialect(head, hinted)
    found.format = delimited.NAMES[dialect.delimiter]
    rows = _rows(run, itertools.chain(head, lines), dialect)
    first = list(itertools.islice(rows, HEAD))
    encoding, delimiter = found.encoding, dialect.delimiter
    table = make_table(first, run.findings, encoding=encoding, delimiter=delimiter)
    learner = _learner(run, found, table.columns, table.rows, named=table.named)
    more = More(table, run.findings, encoding=encoding, delimiter=delimiter)
    later = (row for raw in rows if (row := more.add(raw)))
    for row in itertools.chain(table.rows, later):
        if example := learner.example(row, run.findings):
            yield example


def _rows(run: _Run, lines: Iterator[str], dialect: delimited.Dialect) -> Iterator[Row]:
    """Yield the records of a table, a window of lines at a time.

    The lines after the last whole record of a window begin the next one. A text in quotation marks
    that takes more than a margin of lines is one that was never closed.
    """
    window = list(itertools.islice(lines, WINDOW))
    while window:
        whole = len(window) < WINDOW
        used = 0
        for row, end in delimited.records(window, dialect, run.findings, run.rows):
            if not whole and end > WINDOW - MARGIN:
                break
            used = end
            run.rows += 1
            run.tick()
            yield row
        if whole:
            return
        if not used:  # one record takes all of it
            run.rows += 1
            where = f"row {run.rows}"
            run.findings.add("table.open_quote", where)
            used = 1
        window = [*window[used:], *itertools.islice(lines, used)]


def _learner(
    run: _Run, found: Imported, columns: Sequence[str], rows: Sequence[Row], *, named: bool = True
) -> Learner:
    """Choose columns by the first rows and note them in ``found``."""
    cells = [r.cells for r in rows if not r.left_out]
    chosen = choose_columns(columns, cells, named=named, **run.wanted)
    if chosen.guessed:
        code = "table.guessed_columns" if named else "table.no_header"
        others = {"columns": ", ".join(columns)} if named else {}
        run.findings.add(code, question=chosen.question, answer=chosen.answer, **others)
    found.columns, found.mapping = tuple(columns), chosen.names()
    found.parts, found.confidence = dict(chosen.parts), dict(chosen.confidence)
    found.format = chosen.kind or found.format if found.format == "jsonl" else found.format
    found.shown = [r.cells for r in rows[:SHOWN]]
    return Learner(columns, chosen, cells)


# --- records -------------------------------------------------------------------------------------


def _json_records(run: _Run, lines: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        used = line.strip() not in FRAME
        run.rows += used
        run.tick()
        if not used:
            continue
        try:
            value = line_value(line.rstrip("\r\n"), number, run.findings)
        except DataError:  # the findings have it
            continue
        yield from records_in(value, number, run.findings)


def _of_records(run: _Run, found: Imported, records: Iterator[Record]) -> Iterator[Example]:
    records = map(conversations.with_messages, records)
    head = list(itertools.islice(records, HEAD))
    everything = itertools.chain(head, records)
    keys = [k for r in head if (k := conversations.message_key(r))]
    pairs = any(isinstance(r.value.get("chosen"), list) for r in head)
    if keys or pairs:
        found.format = "sharegpt" if "conversations" in keys else "messages"
        for record in everything:
            if example := conversations.example(record, run.findings):
                yield example
        return
    columns, rows = flat_rows(head)
    if not columns:
        raise data_error("json.no_texts", keys="none")
    table = make_table([Row(columns, "header"), *rows], run.findings, header=True)
    learner = _learner(run, found, table.columns, table.rows)
    more = More(table, run.findings)
    later = (row for r in records if (row := more.add(_under(columns, r))))
    for row in itertools.chain(table.rows, later):
        if example := learner.example(row, run.findings):
            yield example


def _under(columns: Sequence[str], record: Record) -> Row:
    """Return a record's texts in the order of the columns."""
    names, (row,) = flat_rows([record])
    if names == columns:
        return row
    cells = dict(zip(names, row.cells, strict=True))
    return Row(tuple(cells.get(name, "") for name in columns), row.where)
