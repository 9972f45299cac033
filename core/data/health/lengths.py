"""How long a class is for the chosen model: a histogram, and what the length limit cuts off."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.data.chat import IGNORED, ChatFormat
from core.data.health.report import Tick, quiet
from core.data.messages import MOST_PLACES, named, problem
from core.data.types import Example
from core.errors import DataError, Problem

BARS = 24  # of the histogram, at most
UNLIMITED = 1 << 30
_STEP = 64  # examples between two reports of progress
_SENTENCE_END = re.compile(r"[.!?。！？；;…]+[\"'”’）)」』]*(?=\s|$)|[。！？；…]+[”’）」』]*|\n")


@dataclass
class Forecast:
    """What the model's tokenizer makes of a class.

    Attributes:
        limit: most tokens of an example.
        lengths: tokens of each example if nothing were cut, in the order of the class.
        answer_tokens: tokens that are learned within the limit.
        teaching: examples of which a token of an answer's own text is learned.
        cut: examples of which something is left out at the end; the characters of their last
            answer that are kept (0: the answer is left out as a whole).
        refused: examples whose question leaves no room for an answer.
        unwritable: examples that the chat template cannot write.
    """

    limit: int
    lengths: list[int] = field(default_factory=list)
    answer_tokens: int = 0
    teaching: int = 0
    cut: dict[int, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    unwritable: list[int] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(self.lengths, default=0)

    def histogram(self) -> list[tuple[int, int]]:
        """Return ``(upper edge in tokens, examples up to it)`` of bars of one width."""
        width = _round_up(max(self.longest, 1) / BARS)
        bars = [0] * max(1, math.ceil(self.longest / width))
        for length in self.lengths:
            if length:
                bars[(length - 1) // width] += 1
        return [((i + 1) * width, n) for i, n in enumerate(bars)]

    def problems(self, examples: Sequence[Example]) -> list[Problem]:
        """Return what is cut off and what is left out, as sentences."""
        values = {"limit": self.limit, "longest": self.longest}
        found = (("tokens.truncated", sorted(self.cut)), ("tokens.no_room", self.refused))
        return [
            problem(
                code, named([examples[i].where for i in rows[:MOST_PLACES]], len(rows)), **values
            )
            for code, rows in found
            if rows
        ]

    def to_json(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return figures, histogram and the places of what is cut off or left out."""
        return {
            "limit": self.limit,
            "examples": len(self.lengths),
            "tokens": sum(self.lengths),
            "answer_tokens": self.answer_tokens,
            "teaching": self.teaching,
            "longest": self.longest,
            "histogram": self.histogram(),
            "truncated": {examples[i].where: kept for i, kept in self.cut.items()},
            "no_room": [examples[i].where for i in self.refused],
            "unwritable": [examples[i].where for i in self.unwritable],
        }


def forecast(
    chat: ChatFormat, examples: Sequence[Example], limit: int, tick: Tick = quiet
) -> Forecast:
    """Tokenize a class as training does, one example at a time; keeps two numbers of each.

    Args:
        chat: how the model writes conversations.
        examples: the class.
        limit: most tokens of an example (``train.max_length``).
        tick: is told the share that is done, 0..1.
    """
    found = Forecast(limit)
    for i, example in enumerate(examples):
        if not i % _STEP:
            tick(i / len(examples))
        try:
            whole = chat.encode(example, UNLIMITED)
        except DataError:
            found.lengths.append(0)
            found.unwritable.append(i)
            continue
        found.lengths.append(len(whole.ids))
        encoded = whole
        if len(whole.ids) > limit:
            try:
                encoded = chat.encode(example, limit)
            except DataError:
                found.refused.append(i)
                continue
            found.cut[i] = _kept(chat, example, encoded.ids, encoded.labels)
        found.answer_tokens += sum(label != IGNORED for label in encoded.labels)
        found.teaching += chat.teaches(encoded)
    return found


def _kept(chat: ChatFormat, example: Example, ids: list[int], labels: list[int]) -> int:
    """Return how many characters of the last answer are left of a cut example."""
    start = len(labels)
    while start and labels[start - 1] != IGNORED:
        start -= 1
    text = chat.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    answer = example.answer.strip()
    # the end may be half a character, and an earlier answer may stand there instead
    text = text.rstrip("\ufffd")
    return len(text) if answer.startswith(text) else 0


def shortened(answer: str, kept: int) -> str:
    """Return the whole sentences of an answer that fit into ``kept`` characters.

    An answer whose first sentence is longer than that is left as it is: half of it would teach
    nothing.
    """
    ends = [m.end() for m in _SENTENCE_END.finditer(answer) if m.end() <= kept]
    text = answer[: ends[-1]].rstrip() if ends else ""
    return text or answer


def _round_up(width: float) -> int:
    """Return 1, 2 or 5 times a power of ten that is not below a width."""
    return next(w for w in _round_numbers() if w >= width)


def _round_numbers() -> Iterator[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10
