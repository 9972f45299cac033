"""Does what was written answer as the studio does? Asked of every export, after loading it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.data.chat import ChatFormat
from core.data.types import Turn
from core.errors import ModelError
from core.evaluate.generate import answers

CHECKED_PROMPTS = 8
CHECKED_TOKENS = 32


@dataclass(frozen=True)
class Checked:
    """Outcome of a check.

    Attributes:
        prompts: quiz prompts that were answered greedily by both.
        equal: how many answers are the same, character by character.
        tokens: longest answer compared, in tokens.
        differs: number of the first prompt that is answered otherwise, from 1; 0: none.
    """

    prompts: int
    equal: int
    tokens: int = CHECKED_TOKENS
    differs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


def reference_answers(
    model: Any, tokenizer: Any, chat: ChatFormat, prompts: Sequence[Sequence[Turn]]
) -> list[str]:
    """Return the greedy answers that an export must give too."""
    return answers(model, tokenizer, chat, prompts, max_new_tokens=CHECKED_TOKENS)


def compared(
    expected: Sequence[str],
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    prompts: Sequence[Sequence[Turn]],
) -> Checked:
    """Let a freshly loaded export answer the same prompts and count equal answers."""
    return equal_answers(expected, reference_answers(model, tokenizer, chat, prompts))


def equal_answers(expected: Sequence[str], found: Sequence[str]) -> Checked:
    """Count equal answers."""
    same = [a == b for a, b in zip(expected, found, strict=True)]
    return Checked(len(same), sum(same), differs=0 if all(same) else same.index(False) + 1)


def must_be_equal(checked: Checked) -> Checked:
    """Refuse an export that answers otherwise.

    Raises:
        ModelError: says how many answers differ.
    """
    if checked.equal < checked.prompts:
        raise ModelError(
            f"The export answers {checked.prompts - checked.equal} of {checked.prompts} quiz "
            "questions otherwise than the studio, so it was not kept.",
            where=f"question {checked.differs}",
            action="Export it again; if it happens again, report it with the run's folder.",
            code="export.unequal",
        )
    return checked
