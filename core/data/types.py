"""Class data in one shape, whatever file it came from. No torch in here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import Problem

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One message; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant turns are learned.

    ``where`` is its place in the file in the teacher's words (``row 7``, ``line 3``).
    """

    turns: tuple[Turn, ...]
    where: str = ""

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
        """Return ``{"messages": [...], "where": ...}``."""
        return {"messages": [asdict(t) for t in self.turns], "where": self.where}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Example:
        """Rebuild from :meth:`to_json`."""
        turns = tuple(Turn(m["role"], m["content"]) for m in record["messages"])
        return Example(turns, record.get("where", ""))

    @staticmethod
    def pair(question: str, answer: str, where: str = "") -> Example:
        """A single question and its answer."""
        return Example((Turn("user", question), Turn("assistant", answer)), where)


@dataclass(frozen=True)
class ReadResult:
    """What a file turned out to hold; nothing in it was changed.

    Attributes:
        format: csv | tsv | xlsx | xls | json | jsonl | alpaca | sharegpt | messages | html ...
        encoding: name of the text encoding, empty for binary formats.
        columns: the columns found, in order.
        mapping: column used for ``question``, ``answer`` (and ``instruction``/``system`` if any).
        sheets: the sheets of a workbook that hold rows; ``sheet`` the one that was read.
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

    def to_json(self) -> dict[str, Any]:
        """The document that ``data --json`` prints (examples counted, not listed)."""
        return {
            "format": self.format,
            "encoding": self.encoding,
            "examples": len(self.examples),
            "columns": list(self.columns),
            "mapping": self.mapping,
            "sheets": list(self.sheets),
            "sheet": self.sheet,
            "problems": [p.to_json() for p in self.problems],
            "health": self.health,
        }


def data_sha256(examples: tuple[Example, ...] | list[Example]) -> str:
    """SHA-256 over the examples' turns, order included (``where`` does not count)."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[t.role, t.content] for t in example.turns]
        digest.update(json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
