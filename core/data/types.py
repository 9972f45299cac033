"""Class data in one shape, whatever file it came from. No torch in here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import Problem

ROLES = ("system", "user", "assistant")
EARLIER = "earlier"  # the column that shows what was said before a conversation's last question


@dataclass(frozen=True)
class Turn:
    """One message; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant turns are learned.

    ``where`` is its place in the file in the teacher's words (``row 7``, ``line 3``); ``topic``
    what the file says it is about, if it does.
    """

    turns: tuple[Turn, ...]
    where: str = ""
    topic: str = ""

    @property
    def question(self) -> str:
        """The last user turn."""
        return next((t.content for t in reversed(self.turns) if t.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return next((t.content for t in reversed(self.turns) if t.role == "assistant"), "")

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns before the last assistant turn."""
        last = max((i for i, t in enumerate(self.turns) if t.role == "assistant"), default=0)
        return self.turns[:last]

    def to_json(self) -> dict[str, Any]:
        """Return ``{"messages": [...], "where": ...}``, and ``topic`` if there is one."""
        turns = [{"role": t.role, "content": t.content} for t in self.turns]
        topic = {"topic": self.topic} if self.topic else {}
        return {"messages": turns, "where": self.where, **topic}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Example:
        """Rebuild from :meth:`to_json`."""
        turns = tuple(Turn(m["role"], m["content"]) for m in record["messages"])
        return Example(turns, record.get("where", ""), record.get("topic", ""))

    @staticmethod
    def pair(question: str, answer: str, where: str = "") -> Example:
        """A single question and its answer."""
        return Example((Turn("user", question), Turn("assistant", answer)), where)


@dataclass(frozen=True)
class Candidate:
    """An encoding that a text may have.

    Attributes:
        encoding: its name, as Python knows it.
        title: its name for people.
        preview: the text's first lines in it; what is no text in it shows as U+FFFD.
        fits: whether all bytes are text in it.
    """

    encoding: str
    title: str
    preview: str
    fits: bool


@dataclass(frozen=True)
class ReadResult:
    """What a file turned out to hold; nothing in it was changed.

    Attributes:
        format: csv | tsv | xlsx | xls | json | jsonl | alpaca | sharegpt | messages | html ...
        encoding: name of the text encoding, empty for binary formats.
        columns: the columns found, in order.
        mapping: the (first) column of every part: ``question``, ``answer``, ``system`` ...
        parts: all columns of every part; see :data:`core.data.ingest.columns.PARTS`.
        confidence: how sure each part's guess is, 0..1; 1 is the teacher's choice.
        encodings: what the text may be, the likeliest first, if its encoding was guessed or chosen.
        sheets: the sheets of a workbook that hold rows; ``sheet`` the one that was read, empty if
            several alike were.
        examples: what can be learned.
        rows: raw rows as text under ``columns`` (for the preview and the row editor), in order.
        problems: findings; ``error`` ones mean that ``examples`` is empty.
    """

    format: str
    encoding: str
    columns: tuple[str, ...]
    mapping: dict[str, str]
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()
    sheets: tuple[str, ...] = ()
    sheet: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    row_where: tuple[str, ...] = ()
    health: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    encodings: tuple[Candidate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that ``data --json`` prints (examples counted, not listed)."""
        return {
            "format": self.format,
            "encoding": self.encoding,
            "encodings": [asdict(c) for c in self.encodings],
            "examples": len(self.examples),
            "columns": list(self.columns),
            "mapping": self.mapping,
            "parts": {part: list(names) for part, names in self.parts.items()},
            "confidence": self.confidence,
            "sheets": list(self.sheets),
            "sheet": self.sheet,
            "problems": [p.to_json() for p in self.problems],
            "health": self.health,
        }


def data_sha256(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples' turns, order included (``where`` does not count)."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[t.role, t.content] for t in example.turns]
        digest.update(json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
