"""Errors a person reads: what happened, where, and what to do next.

Every error that can reach a page or a terminal derives from :class:`StudioError`; anything else
is a bug. ``exit_code`` is the contract of the command line (0 done, 2 input, 3 budget, 4 training
failed, 130 stopped).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Problem:
    """One finding about an input.

    Attributes:
        where: the place in the teacher's words, e.g. ``"row 7"``, ``"line 3"``, ``"sheet Unit 1"``.
        what: what is the matter, one sentence.
        action: what to do about it, one sentence.
        severity: ``error`` (nothing can be used), ``warning`` (part is left out), ``info``.
        code: a stable key of the finding, for tests, translations and one-click fixes.
        values: what the sentence was built from, for the translation of it.
    """

    where: str
    what: str
    action: str = ""
    severity: Severity = "error"
    code: str = ""
    values: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary (for ``--json`` and the store)."""
        return {**asdict(self), "values": dict(self.values)}

    def sentence(self) -> str:
        """Return ``where: what action`` as one line."""
        head = f"{self.where}: " if self.where else ""
        return f"{head}{self.what} {self.action}".strip()


class StudioError(Exception):
    """Base of all errors that a person reads."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", action: str = "", code: str = "") -> None:
        """Say what happened, where, and the next action, each as one sentence."""
        self.what, self.where, self.action, self.code = what, where, action, code
        super().__init__(self.problem.sentence())

    @property
    def problem(self) -> Problem:
        """The error as a :class:`Problem`."""
        return Problem(self.where, self.what, self.action, "error", self.code)

    @property
    def problems(self) -> list[Problem]:
        """All findings behind this error (at least itself)."""
        return [self.problem]


class ConfigError(StudioError):
    """A setting is missing, unknown or out of range."""


class ModelError(StudioError):
    """A base model or adapter cannot be used (missing, damaged, unsafe, not supported)."""


class DataError(StudioError):
    """A class file cannot be used; carries every finding, not only the first."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        action: str = "",
        code: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        """As :class:`StudioError`, with the list of findings."""
        super().__init__(what, where=where, action=action, code=code)
        self._problems = list(problems)

    @property
    def problems(self) -> list[Problem]:
        """The error itself, followed by the findings that led to it."""
        return [self.problem, *[p for p in self._problems if p != self.problem]]


class MemoryBudgetError(StudioError):
    """No plan fits the budget."""

    exit_code = 3

    def __init__(
        self, what: str, *, minimum_budget_bytes: int, action: str = "", where: str = ""
    ) -> None:
        """Say so, with the smallest budget (bytes) that works."""
        super().__init__(what, where=where, action=action, code="budget.too_small")
        self.minimum_budget_bytes = minimum_budget_bytes


class TrainingError(StudioError):
    """Training failed; the last whole checkpoint is kept."""

    exit_code = 4


class Stopped(StudioError):
    """The person stopped the run; it can be resumed."""

    exit_code = 130
