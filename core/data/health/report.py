"""Findings with the rows they concern."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from core.data.messages import MOST_PLACES, named, problem
from core.data.types import Example
from core.errors import Problem

MOST_LISTED = 50_000  # places of one finding that a report names

Tick = Callable[[float], None]


def quiet(share: float) -> None:
    """Tell nobody how far the work is."""


@dataclass
class Finding:
    """One thing to know, and the examples it is true of.

    Attributes:
        code: key of :data:`core.data.messages.CODES`.
        rows: indices of the examples, ascending, four bytes each.
        values: the named fields of its sentence.
    """

    code: str
    rows: array[int] = field(default_factory=lambda: array("I"))
    values: dict[str, object] = field(default_factory=dict)

    def problem(self, examples: Sequence[Example]) -> Problem:
        """Return the finding as one sentence that names its first places."""
        places = [examples[i].where for i in islice(self.rows, MOST_PLACES)]
        return problem(self.code, named(places, len(self.rows)), **self.values)


@dataclass(frozen=True)
class Report:
    """What the examination of a class found.

    Attributes:
        counts: examples by kind of finding, and the class's measures (see ``examine``).
        findings: in the order in which a teacher would look at them.
    """

    counts: dict[str, Any]
    findings: tuple[Finding, ...]

    def problems(self, examples: Sequence[Example]) -> list[Problem]:
        """Return every finding as one sentence."""
        return [f.problem(examples) for f in self.findings]

    def to_json(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return ``counts`` and ``findings``, a finding with its count and all its places."""
        listed = []
        for finding in self.findings:
            places = [examples[i].where for i in islice(finding.rows, MOST_LISTED)]
            told = finding.problem(examples).to_json()
            listed.append({**told, "count": len(finding.rows), "rows": places})
        return {"counts": self.counts, "findings": listed}


class Notebook:
    """Collects rows by finding while a class is gone through."""

    def __init__(self) -> None:
        """Start with none."""
        self._found: dict[str, Finding] = {}

    def add(self, code: str, row: int, **values: object) -> None:
        """Note an example; values are those of the first one."""
        if code not in self._found:
            self._found[code] = Finding(code, values=values)
        rows = self._found[code].rows
        if not rows or rows[-1] != row:
            rows.append(row)

    def say(self, code: str, rows: Iterable[int], values: Mapping[str, object]) -> None:
        """Note many examples, or set what the sentence about them says."""
        for row in rows:
            self.add(code, row)
        if code in self._found:
            self._found[code].values = dict(values)

    def count(self, code: str) -> int:
        """Return how many examples a finding concerns."""
        return len(self._found[code].rows) if code in self._found else 0

    def findings(self, order: Sequence[str]) -> tuple[Finding, ...]:
        """Return what was found, in the order of the codes."""
        return tuple(self._found[code] for code in order if code in self._found)
