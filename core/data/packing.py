"""Examples laid end to end in rows, rows in optimizer steps: a pure function of (seed, step).

All examples of a class begin alike: the chat template's opening, often a long system message. A row
holds this beginning once, before the segments, and every segment sees it. That changes no answer's
loss and no gradient (attention is causal), but for short answers halves the tokens to compute.
Segments never see each other: their positions start anew, which tells the model where they begin.
No torch in here; the trainer makes tensors of the lists.
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
    """What one forward pass sees: p shared tokens, then segments end to end, T tokens in all.

    Attributes:
        ids: token ids, (T,).
        labels: ``ids`` where learned, -100 elsewhere, (T,); the first token of a segment is never
            learned, since what comes before it belongs to another example.
        position_ids: 0..p-1, then p.. anew in every segment, (T,).
        lengths: tokens of each segment; with p they add up to T.
        members: index of the example in each segment.
        shared: p, tokens of the beginning that belongs to all segments.
    """

    ids: list[int]
    labels: list[int]
    position_ids: list[int]
    lengths: list[int]
    members: list[int]
    shared: int = 0

    @property
    def example_tokens(self) -> int:
        """Tokens of the examples, the beginning counted with each."""
        return sum(self.lengths) + self.shared * len(self.lengths)

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


def shared_beginning(encoded: Sequence[Encoded]) -> int:
    """Return how many leading tokens all examples have in common, none of them learned.

    A segment keeps at least one token that is not learned, because its first token never is; so
    none that is learned is lost.
    """
    if not encoded:
        return 0
    first = encoded[0].ids
    shared = len(first)
    for e in encoded:
        unlearned = next((t for t, y in enumerate(e.labels) if y != IGNORED), len(e.ids))
        shared = min(shared, unlearned - 1)
        shared = next((t for t in range(shared) if e.ids[t] != first[t]), shared)
    return max(0, shared)


def make_row(encoded: Sequence[Encoded], members: Sequence[int], shared: int = 0) -> Row:
    """Lay the given examples end to end after the ``shared`` tokens with which all begin."""
    head = encoded[members[0]].ids[:shared] if members else []
    row = Row(list(head), [IGNORED] * shared, list(range(shared)), [], list(members), shared)
    for i in members:
        ids, labels = encoded[i].ids[shared:], encoded[i].labels[shared:]
        row.ids.extend(ids)
        row.labels.extend([IGNORED, *labels[1:]] if labels else [])
        row.position_ids.extend(range(shared, shared + len(ids)))
        row.lengths.append(len(ids))
    return row


def pack_rows(encoded: Sequence[Encoded], row_tokens: int, shared: int = 0) -> list[Row]:
    """Lay all examples in rows of at most ``row_tokens`` tokens, or of the longest example."""
    if not encoded:
        return []
    own = [len(e.ids) - shared for e in encoded]
    room = max(row_tokens - shared, *own)
    return [make_row(encoded, members, shared) for members in pack(own, room)]


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
        shared: int = 0,
    ) -> None:
        """Plan the steps.

        Args:
            encoded: the examples, none empty.
            tokens_per_step: tokens that one optimizer step should see.
            micro_batch_tokens: most tokens of a row (one forward pass).
            seed: decides the order.
            packing: whether a row may hold several examples.
            shared: tokens that a row holds once because all examples begin with them.

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
        self._shared = shared
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
            return [make_row(self._encoded, [i], self._shared) for i in members]
        own = [self._lengths[i] - self._shared for i in members]
        packed = pack(own, self._row_tokens - self._shared)
        return [make_row(self._encoded, [members[i] for i in row], self._shared) for row in packed]


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


def largest_step(
    encoded: Sequence[Encoded], tokens_per_step: int, seed: int, epochs: int, shared: int = 0
) -> int:
    """Return the most tokens, shared ones apart, of a step of the first ``epochs`` epochs."""
    lengths = [len(e.ids) for e in encoded]
    steps = count_steps(lengths, tokens_per_step)
    return max(
        sum(lengths[i] - shared for i in members)
        for epoch in range(max(1, epochs))
        for members in assign(lengths, steps, seed, epoch)
    )


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
