"""Quiz questions that stand word for word inside another row, which is learned.

The split keeps rows with (nearly) the same question on one side; it does not look into answers,
passages and earlier turns. Those are searched here for every question of the quiz.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from core.data.health.report import Tick, quiet
from core.data.split import Split, normalised
from core.data.types import Example

SHORTEST = 5  # words (characters of Chinese) below which a question may stand anywhere by chance
_STEP = 4096


def leaks(examples: Sequence[Example], split: Split, tick: Tick = quiet) -> list[int]:
    """Return the indices of the learned examples that hold a question of the quiz.

    Args:
        examples: the class.
        split: its two sides.
        tick: is told the share that is done, 0..1.
    """
    quiz = _by_beginning(split)
    if not quiz:
        return []
    held_out = {id(e) for e in split.quiz}
    found = []
    for i, example in enumerate(examples):
        if not i % _STEP:
            tick(i / len(examples))
        if id(example) not in held_out and _holds(example, quiz):
            found.append(i)
    return found


def _by_beginning(split: Split) -> dict[tuple[str, ...], list[str]]:
    """Return the questions of the quiz that are long enough, by their first words."""
    beginnings: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for example in split.quiz:
        words = normalised(example.question).split()
        if len(words) >= SHORTEST:
            beginnings[tuple(words[:SHORTEST])].append(f" {' '.join(words)} ")
    return beginnings


def _holds(example: Example, quiz: dict[tuple[str, ...], list[str]]) -> bool:
    for turn in example.turns:
        words = normalised(turn.content).split()
        text = ""
        for at in range(len(words) - SHORTEST + 1):
            for question in quiz.get(tuple(words[at : at + SHORTEST]), ()):
                text = text or f" {' '.join(words)} "
                if question in text:
                    return True
    return False
