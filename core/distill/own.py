"""Steps in which the student's own answers are judged by the teacher.

After Agarwal et al. 2024 (GKD, arXiv 2306.13649): a student that only ever sees right answers never
learns what to do after its own mistakes. Ours: whole steps take own answers, chosen by a hash of
seed and step, so that a resumed run sees the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.config import DistillConfig
from core.data.chat import IGNORED, ChatFormat, Encoded
from core.data.packing import Row, Schedule, make_row, pack
from core.data.types import Example
from core.evaluate.generate import drawn_answers, fitting_prompt


def is_own(config: DistillConfig, seed: int, step: int, steps: int) -> bool:
    """Whether the student writes the answers of optimizer step ``step`` itself."""
    if not config.own_share or not config.output_weight or step < config.own_from * steps:
        return False
    digest = hashlib.blake2b(f"own {seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < config.own_share * 2**64


class OwnAnswers(Schedule):
    """A schedule whose chosen steps hold what the student answers now."""

    def __init__(
        self,
        encoded: Sequence[Encoded],
        *,
        own: Callable[[int], bool],
        write: Callable[[int, list[int]], list[Encoded]],
        micro_batch_tokens: int,
        shared: int,
        **settings: Any,
    ) -> None:
        """Plan the steps.

        Args:
            encoded: the examples.
            own: whether a step takes the student's answers.
            write: lets the student answer examples (by index) in a step.
            micro_batch_tokens: most tokens of a row.
            shared: tokens that a row holds once.
            settings: the others of :class:`Schedule`.
        """
        super().__init__(encoded, micro_batch_tokens=micro_batch_tokens, shared=shared, **settings)
        self._own, self._write = own, write
        self._most, self._beginning = micro_batch_tokens, shared

    def rows(self, step: int) -> list[Row]:
        """Rows of a step; where the answers are the student's, it writes them now."""
        rows = super().rows(step)
        if not self._own(step):
            return rows
        written = self._write(step, sorted(i for row in rows for i in row.members))
        head = rows[0].ids[: self._beginning]
        kept = [
            e
            for e in written
            if e.ids[: self._beginning] == head and any(label != IGNORED for label in e.labels)
        ]
        if not kept:
            return rows  # it ended every answer at once
        lengths = [len(e.ids) - self._beginning for e in kept]
        room = max(self._most - self._beginning, *lengths)
        return [make_row(kept, row, self._beginning) for row in pack(lengths, room)]


def writer(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    examples: Sequence[Example],
    *,
    seed: int,
    longest: int,
) -> Callable[[int, list[int]], list[Encoded]]:
    """A function that lets the model answer examples (by index) in a step, drawn at temperature 1.

    Args:
        model: the student, called anew in every step.
        tokenizer: its tokenizer.
        chat: how conversations are written.
        examples: the training examples, in the order of their encodings.
        seed: of the drawing, with the step.
        longest: most tokens of an answer.
    """

    def write(step: int, members: list[int]) -> list[Encoded]:
        prompts = [fitting_prompt(model, chat, examples[i].prompt) for i in members]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        answers = drawn_answers(
            model, prompts, chat, tokenizer, max_new_tokens=longest, generator=generator
        )
        return [
            Encoded([*prompt, *ids], [IGNORED] * len(prompt) + list(ids))
            for prompt, ids in zip(prompts, answers, strict=True)
        ]

    return write
