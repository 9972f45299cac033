"""Whether a class teaches anything at all, and if not, why. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.chat import ChatFormat, Encoded
from core.errors import DataError


def require_answers(
    chat: ChatFormat, encoded: Sequence[Encoded], *, refused: int, limit: int
) -> None:
    """Refuse a class of which no answer's own text is learned.

    Args:
        chat: how the model writes conversations.
        encoded: the examples that fit.
        refused: how many examples did not fit.
        limit: most tokens of an example.

    Raises:
        DataError: says why there is nothing to learn.
    """
    if not any(map(chat.teaches, encoded)):
        raise nothing_to_learn(empty=len(encoded), refused=refused, limit=limit)


def nothing_to_learn(*, empty: int, refused: int, limit: int) -> DataError:
    """Return the error of a class without a trainable token.

    Args:
        empty: examples whose answer has none.
        refused: examples whose question leaves no room.
        limit: most tokens of an example.
    """
    where = "class data"
    if refused and not empty:
        return DataError(
            f"There is no answer to learn: each of the {refused} questions fills the {limit} "
            "tokens of an example alone.",
            where=where,
            action="Raise the longest example in the settings, or shorten the questions.",
            code="data.questions_fill",
        )
    if empty and not refused:
        return DataError(
            f"There is no answer to learn: all {empty} answers are empty for this model.",
            where=where,
            action="Fill in the answers, or choose the right answer column.",
            code="data.answers_empty",
        )
    return DataError(
        f"There is no answer to learn: {empty} answers are empty, and {refused} questions fill "
        f"the {limit} tokens of an example alone.",
        where=where,
        action="Raise the longest example, or choose the right answer column.",
        code="data.no_answer_tokens",
    )
