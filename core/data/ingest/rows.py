"""Rows and tables of text, whatever file they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.data.types import Example


@dataclass(frozen=True, slots=True)
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
    """What a table turned out to teach, and from which columns."""

    examples: tuple[Example, ...]
    mapping: dict[str, str]
    kind: str = ""  # alpaca, preference or empty
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
