"""Editing a class: rows under columns, every change a new version, the old ones untouched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.data.formula import protected, unprotected
from core.data.ingest.table import MOST_ROWS, Row, Table, learn
from core.data.messages import Findings, data_error
from core.data.types import EARLIER, ROLES, Example, ReadResult, Turn
from core.errors import DataError, Problem
from core.whole import write_whole

# Characters that XML 1.0, and so a workbook, cannot hold.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "en": (
        ("question", "answer"),
        (
            ("What is the capital of France?", "Paris."),
            ("Why is the sky blue?", "Air scatters blue light more than red light."),
            ("What is 7 × 8?", "56."),
        ),
    ),
    "zh": (
        ("问题", "答案"),
        (
            ("法国的首都是哪里？", "巴黎。"),
            ("天空为什么是蓝色的？", "空气对蓝光的散射比红光强。"),
            ("7 × 8 等于多少？", "56。"),
        ),
    ),
}


@dataclass(frozen=True)
class Version:
    """One state of a class's rows; changes return a new version.

    Attributes:
        columns: the column names.
        rows: the cells of every row, as many as there are columns.
        mapping: the (first) column of each part of an example (``question``, ``answer`` ...).
        where: the place of each row in the file it came from; empty for rows added since.
        origins: the conversation of each row that came from one; a change of its question or
            answer keeps the turns before it.
        parts: all columns of each part; empty: question and answer are those of ``mapping``, the
            others are guessed.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    mapping: Mapping[str, str]
    where: tuple[str, ...]
    origins: tuple[Example | None, ...]
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(result: ReadResult) -> Version:
        """Return the first version: the rows as they were read."""
        where, mapping, parts = result.row_where, dict(result.mapping), dict(result.parts)
        nothing = (None,) * len(result.rows)
        plain = Version(result.columns, result.rows, mapping, where, nothing, parts)
        plain = _with_topics(plain, {e.where: e.topic for e in result.examples if e.topic})
        longer = {e.where: e for e in result.examples if len(e.turns) > 2}
        if not longer:
            return plain
        try:  # what the columns say themselves needs no conversation behind it
            said = {e.where: e.turns for e in plain.examples()[0]}
        except DataError:
            said = {}
        known = {w: e for w, e in longer.items() if said.get(w) != e.turns}
        return replace(plain, origins=tuple(known.get(w) for w in where))

    def read_by(self, parts: Mapping[str, Sequence[str]]) -> Version:
        """Return the version with other columns for its parts; those that do not exist are left."""
        known = {p: tuple(n for n in names if n in self.columns) for p, names in parts.items()}
        first = {part: names[0] for part, names in known.items() if names}
        return replace(self, parts=known, mapping=first)

    @property
    def id(self) -> str:
        """A name of the version by its content."""
        turns = [e.to_json()["messages"] if e else None for e in self.origins]
        content = [self.columns, self.rows, dict(self.mapping), turns]
        content += [dict(self.parts)] if self.parts else []
        text = json.dumps(content, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def edit(self, row: int, column: str, text: str) -> Version:
        """Return the version with another text in one cell.

        Raises:
            DataError: if there is no such row or column.
        """
        at = self._column(column)
        cells = list(self.rows[self._row(row)])
        cells[at] = text
        return replace(self, rows=_with(self.rows, row, tuple(cells)))

    def edit_many(self, cells: Mapping[tuple[int, str], str]) -> Version:
        """Return the version with other texts in some cells, by row and column.

        Raises:
            DataError: if there is no such row or column.
        """
        changed: dict[int, list[str]] = {}
        for (row, column), text in cells.items():
            at = self._column(column)
            changed.setdefault(row, list(self.rows[self._row(row)]))[at] = text
        rows = (tuple(changed.get(i, row)) for i, row in enumerate(self.rows))
        return replace(self, rows=tuple(rows))

    def rewrite(self, rows: Sequence[int], change: Callable[[str], str]) -> Version:
        """Return the version with every text of some rows changed, earlier turns too.

        Raises:
            DataError: if there is no such row.
        """
        wanted = {self._row(row) for row in rows}

        def turned(origin: Example | None) -> Example | None:
            if origin is None:
                return None
            turns = tuple(Turn(t.role, change(t.content)) for t in origin.turns)
            return replace(origin, turns=turns)

        return replace(
            self,
            rows=tuple(
                tuple(map(change, row)) if i in wanted else row for i, row in enumerate(self.rows)
            ),
            origins=tuple(
                turned(origin) if i in wanted else origin for i, origin in enumerate(self.origins)
            ),
        )

    def add(self, cells: Mapping[str, str], at: int | None = None, where: str = "") -> Version:
        """Return the version with a row more, at the end unless ``at`` is given.

        Args:
            cells: its texts by column.
            at: the index it gets.
            where: what it is called until it is saved.

        Raises:
            DataError: if a column does not exist or there are too many rows.
        """
        if len(self.rows) >= MOST_ROWS:
            raise data_error("table.too_many_rows", limit=MOST_ROWS)
        for column in cells:
            self._column(column)
        row = tuple(cells.get(c, "") for c in self.columns)
        at = len(self.rows) if at is None else min(max(at, 0), len(self.rows))
        return replace(
            self,
            rows=(*self.rows[:at], row, *self.rows[at:]),
            where=(*self.where[:at], where, *self.where[at:]),
            origins=(*self.origins[:at], None, *self.origins[at:]),
        )

    def remove(self, rows: Sequence[int]) -> Version:
        """Return the version without some rows.

        Raises:
            DataError: if there is no such row.
        """
        gone = {self._row(row) for row in rows}
        kept = [i for i in range(len(self.rows)) if i not in gone]
        return replace(
            self,
            rows=tuple(self.rows[i] for i in kept),
            where=tuple(self.where[i] for i in kept),
            origins=tuple(self.origins[i] for i in kept),
        )

    def examples(self) -> tuple[tuple[Example, ...], list[Problem]]:
        """Return what this version teaches, and what is left out and why.

        Raises:
            DataError: if no row has both a question and an answer.
        """
        findings = Findings()
        places = [w or f"added row {i}" for i, w in enumerate(self.where, 1)]
        rows = tuple(Row(r, w) for r, w in zip(self.rows, places, strict=True))
        table = Table(self.columns, rows)
        asked, told = (self.mapping.get(part, "") for part in ("question", "answer"))
        learned = learn(table, findings, asked, told, chosen=self.parts or None)
        origins = dict(zip(places, self.origins, strict=True))
        examples = tuple(_continued(e, origins[e.where]) for e in learned.examples)
        problems = findings.problems()
        if not examples:
            raise DataError(
                "No row has both a question and an answer.",
                action="Fill in the rows named.",
                code="table.no_examples",
                problems=problems,
            )
        return examples, problems

    def _row(self, row: int) -> int:
        if not 0 <= row < len(self.rows):
            raise data_error("edit.unknown_row", row=row + 1, rows=len(self.rows))
        return row

    def _column(self, column: str) -> int:
        if column not in self.columns:
            listed = ", ".join(self.columns)
            raise data_error("table.unknown_column", column=column, columns=listed)
        return self.columns.index(column)


def to_csv(version: Version) -> bytes:
    """Return the rows as CSV in UTF-8, with a BOM for Excel; a conversation is one wide row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    for row in _sheet(version):
        writer.writerow(map(protected, row))
    return text.getvalue().encode("utf-8-sig", "replace")


def to_xlsx(version: Version) -> bytes:
    """Return the rows as a workbook; every cell is text, a conversation is one wide row."""
    import openpyxl  # heavy; only for workbooks

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Class")
    for row in _sheet(version):
        cells = [openpyxl.cell.WriteOnlyCell(sheet, _in_xml(protected(c))) for c in row]
        for cell in cells:
            cell.data_type, cell.number_format = "s", "@"
        sheet.append(cells)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def to_jsonl(version: Version) -> bytes:
    """Return the rows as JSON lines.

    Conversations are written with all their turns under ``messages``, tables by their columns.
    """
    records = _messages(version) if _talks(version) else _cells(version)
    lines = (json.dumps(r, ensure_ascii=False) for r in records)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _talks(version: Version) -> bool:
    """Say whether there are turns that no column holds."""
    return any(origin is not None for origin in version.origins)


def _sheet(version: Version) -> Iterator[tuple[str, ...]]:
    """Yield a header and rows for a table.

    Turns that no column holds become columns: ``system``, and ``question1, answer1, question2 ...``
    by which reading recognises a conversation.
    """
    if not _talks(version):
        yield from (version.columns, *version.rows)
        return
    at = {part: version.columns.index(name) for part, name in version.mapping.items()}
    asked, told = at["question"], at["answer"]
    others = [i for i, n in enumerate(version.columns) if i not in (asked, told) and n != EARLIER]
    befores = [o.prompt[:-1] if o else () for o in version.origins]
    systems = [b[0].content if b and b[0].role == ROLES[0] else "" for b in befores]
    most = 2 + max(sum(t.role != ROLES[0] for t in b) for b in befores)
    numbers = [str(i // 2 + 1) if most > 2 else "" for i in range(most)]
    named = [f"{('question', 'answer')[i % 2]}{n}" for i, n in enumerate(numbers)]
    head = ("system",) if any(systems) else ()
    yield (*(version.columns[i] for i in others), *head, *named)
    for row, before, system in zip(version.rows, befores, systems, strict=True):
        turns = [t.content for t in before if t.role != ROLES[0]] + [row[asked], row[told]]
        own = (system,) if head else ()
        yield (*(row[i] for i in others), *own, *turns, *[""] * (most - len(turns)))


def _cells(version: Version) -> Iterator[dict[str, object]]:
    for row in version.rows:
        # reading takes a quote from before a formula, whatever the file; so one is put there
        texts = (c if unprotected(c) == c else protected(c) for c in row)
        yield dict(zip(version.columns, texts, strict=True))


def _messages(version: Version) -> Iterator[dict[str, object]]:
    at = {part: version.columns.index(name) for part, name in version.mapping.items()}
    for row, origin in zip(version.rows, version.origins, strict=True):
        before = origin.prompt[:-1] if origin else ()
        turns = [*before, Turn("user", row[at["question"]]), Turn("assistant", row[at["answer"]])]
        topic = {"topic": row[at["topic"]]} if "topic" in at and row[at["topic"]] else {}
        yield {"messages": [{"role": t.role, "content": t.content} for t in turns], **topic}


def template(language: str = "en") -> Version:
    """Return a class to fill in: the columns, and three rows that show what is meant."""
    names, rows = _TEMPLATES.get(language, _TEMPLATES["en"])
    mapping = dict(zip(("question", "answer"), names, strict=False))
    return Version(names, rows, mapping, ("",) * len(rows), (None,) * len(rows))


def save(version: Version, folder: Path) -> Path:
    """Write a version as a class file into a folder, whole or not at all; return its path.

    It is ``<id>.csv``, or ``<id>.jsonl`` where rows are conversations, whose earlier turns no table
    could hold.
    """
    talks = _talks(version)
    path = folder / f"{version.id}{'.jsonl' if talks else '.csv'}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_jsonl(version) if talks else to_csv(version))
    return path


def places(version: Version) -> tuple[str, ...]:
    """Return the place that every row has in the file that :func:`save` writes."""
    kind, first = ("line", 1) if _talks(version) else ("row", 2)
    return tuple(f"{kind} {i}" for i in range(first, len(version.rows) + first))


def _with(
    rows: tuple[tuple[str, ...], ...], at: int, row: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    return (*rows[:at], row, *rows[at + 1 :])


def _continued(example: Example, origin: Example | None) -> Example:
    """Put the turns that came before back in front of a question and its answer."""
    if origin is None:
        return example
    before: tuple[Turn, ...] = origin.prompt[:-1]
    return Example((*before, *example.turns[-2:]), example.where, example.topic)


def _with_topics(version: Version, topics: Mapping[str, str]) -> Version:
    """Return the version with a column for topics that none says (names of sheets, of records)."""
    if not topics or "topic" in version.mapping:
        return version
    name = "topic" if "topic" not in version.columns else "topic (2)"
    told = (topics.get(where, "") for where in version.where)
    return replace(
        version,
        columns=(*version.columns, name),
        rows=tuple((*row, topic) for row, topic in zip(version.rows, told, strict=True)),
        mapping={**version.mapping, "topic": name},
        parts={**version.parts, "topic": (name,)} if version.parts else {},
    )


def _in_xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
