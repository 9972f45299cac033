"""Examples laid end to end in rows, rows in optimizer steps: a pure function of (seed, step).

Segments of a row never see each other: positions start anew with each, and the trainer masks
attention by ``lengths``. No torch in here; the trainer makes tensors of the lists.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.data.chat import IGNORED, Encoded
from core.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """What one forward pass sees: segments end to end, T tokens in all.

    Attributes:
        ids: token ids, (T,).
        labels: ``ids`` where learned, -100 elsewhere, (T,); the first token of a segment is never
            learned, since what comes before it belongs to another example.
        position_ids: 0.. anew in every segment, (T,).
        lengths: tokens of each segment; they add up to T.
        members: index of the example in each segment.
    """

    ids: list[int]
    labels: list[int]
    position_ids: list[int]
    lengths: list[int]
    members: list[int]

    @property
    def answer_tokens(self) -> int:
        """How many tokens of the row are learned."""
        return sum(label != IGNORED for label in self.labels)


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Distribute lengths over as few rows as first-fit decreasing needs.

    Args:
        lengths: tokens of every example.
        row_tokens: most tokens of a row.

    Returns:
        Indices of each row's examples; at most 11/9 of the fewest possible rows, plus one (Johnson
        1973). Equal lengths keep their order.

    Raises:
        ConfigError: if an example is longer than a row.
    """
    if lengths and max(lengths) > row_tokens:
        raise ConfigError(
            f"The longest example has {max(lengths)} tokens, one forward pass only {row_tokens}.",
            where="train.micro_batch_tokens",
            action="Raise the tokens of a forward pass or lower the longest example.",
            code="packing.row_too_short",
        )
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if at is None:
            rows.append([i])
            room.append(row_tokens - lengths[i])
        else:
            rows[at].append(i)
            room[at] -= lengths[i]
    return rows


def make_row(encoded: Sequence[Encoded], members: Sequence[int]) -> Row:
    """Lay the given examples end to end."""
    row = Row([], [], [], [], list(members))
    for i in members:
        ids, labels = encoded[i].ids, encoded[i].labels
        row.ids.extend(ids)
        row.labels.extend([IGNORED, *labels[1:]] if labels else [])
        row.position_ids.extend(range(len(ids)))
        row.lengths.append(len(ids))
    return row


class Schedule:
    """Which rows every optimizer step sees.

    Every example comes once an epoch. Steps of an epoch hold nearly equal numbers of tokens, about
    ``tokens_per_step``, so that no step counts for more than another.

    Attributes:
        steps_per_epoch: optimizer steps in which every example is seen once.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        *,
        tokens_per_step: int,
        micro_batch_tokens: int,
        seed: int,
        packing: bool = True,
    ) -> None:
        """Plan the steps.

        Args:
            encoded: the examples, none empty.
            tokens_per_step: tokens that one optimizer step should see.
            micro_batch_tokens: most tokens of a row (one forward pass).
            seed: decides the order.
            packing: whether a row may hold several examples.

        Raises:
            ConfigError: if there are no examples, or one is longer than a row.
        """
        if not encoded:
            raise ConfigError("There is nothing to learn from.", code="packing.empty")
        self._encoded = encoded
        self._lengths = [len(e.ids) for e in encoded]
        self._row_tokens = micro_batch_tokens
        self._seed = seed
        self._packing = packing
        self.steps_per_epoch = count_steps(self._lengths, tokens_per_step)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        pack([max(self._lengths)], micro_batch_tokens)  # refuse now rather than in some later step

    def rows(self, step: int) -> list[Row]:
        """Return the rows of optimizer step ``step`` (0, 1, ...; goes on over epochs)."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            steps = assign(self._lengths, self.steps_per_epoch, self._seed, epoch)
            self._epoch = (epoch, steps)
        members = self._epoch[1][at]
        if not self._packing:
            return [make_row(self._encoded, [i]) for i in members]
        packed = pack([self._lengths[i] for i in members], self._row_tokens)
        return [make_row(self._encoded, [members[i] for i in row]) for row in packed]


def batches(
    encoded: Sequence[Encoded],
    tokens_per_step: int,
    micro_batch_tokens: int,
    seed: int,
    epoch: int,
) -> list[list[Row]]:
    """Return all steps of one epoch, each a list of rows; see :class:`Schedule`."""
    schedule = Schedule(
        encoded,
        tokens_per_step=tokens_per_step,
        micro_batch_tokens=micro_batch_tokens,
        seed=seed,
    )
    first = epoch * schedule.steps_per_epoch
    return [schedule.rows(first + i) for i in range(schedule.steps_per_epoch)]


def count_steps(lengths: Sequence[int], tokens_per_step: int) -> int:
    """Return the number of steps of an epoch.

    Half an average example is left free in each step, since the fullest of them ends up about that
    much above the mean; so a step of ``tokens_per_step`` rarely needs another forward pass.
    """
    total = sum(lengths)
    mean = total / len(lengths)
    aim = max(tokens_per_step - mean / 2, mean)
    return min(max(1, math.ceil(total / aim)), len(lengths))


def assign(lengths: Sequence[int], steps: int, seed: int, epoch: int) -> list[list[int]]:
    """Deal the examples in the epoch's order, each to the step with the fewest tokens so far.

    The order comes from a hash, not from a random generator whose stream might change with a
    library's version: a run resumed after an update sees the same data.
    """
    order = sorted(range(len(lengths)), key=lambda i: _draw(seed, epoch, i))
    dealt: list[list[int]] = [[] for _ in range(steps)]
    loads = [(0, _draw(seed, epoch, -1 - s), s) for s in range(steps)]
    heapq.heapify(loads)
    for i in order:
        load, tie, step = heapq.heappop(loads)
        dealt[step].append(i)
        heapq.heappush(loads, (load + lengths[i], tie, step))
    return dealt


def _draw(seed: int, epoch: int, item: int) -> bytes:
    return hashlib.blake2b(f"{seed} {epoch} {item}".encode(), digest_size=8).digest()
