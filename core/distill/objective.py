"""What a student minimises: answers, the teacher's outputs, features and relations, each scaled.

    L = sum over terms of  weight(step) * term / mean of the term over the first 50 steps

Shapes: T tokens of a row, N answer tokens, d_S and d_T hidden sizes, v vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.assemble import seen, shifted
from core.config import DistillConfig
from core.data.chat import IGNORED
from core.data.packing import Row
from core.dense import DenseModel
from core.distill.taps import Heard, Taps, projections
from core.distill.teacher import TeacherCache
from core.distill.weights import ANSWERS, FEATURES, OUTPUT, RELATIONS, Scales, weights
from core.events import Emit, TermsMeasured
from core.objectives.distillation import (
    divergence,
    feature_distance,
    relation_distance,
    with_tail,
)
from core.objectives.head import Head, head_loss
from core.train import optimizers

PROJECTION = "distill.projection"


class Student(Protocol):
    """What is needed of a student: :class:`LanguageModel` or :class:`DenseModel`."""

    model: Any
    blocks: list[nn.Module]
    device: torch.device

    def hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states (T, d) of a packed row."""


@dataclass
class Distiller:
    """The loss of a student in one step, row by row.

    Attributes:
        student: what learns.
        head: its output head.
        config: weights and temperatures.
        steps: optimizer steps of the run.
        own: whether a step holds the student's own answers.
        layer_map: for each layer of the student the teacher's layer that it follows.
        load_teacher: loads the teacher when it is first needed.
        cache: the teacher's probabilities of the class's answers; None: it is asked.
        projection: P (d_T, d_S), trained and dropped at the end; None where no features count.
    """

    student: Student
    head: Head
    config: DistillConfig
    steps: int
    own: Callable[[int], bool]
    layer_map: Sequence[int]
    load_teacher: Callable[[], DenseModel]
    cache: TeacherCache | None = None
    vocabulary: int = 0
    projection: nn.Parameter | None = None
    scales: Scales = field(default_factory=Scales)
    last_answers: float = 0.0
    _teacher: DenseModel | None = None
    _taps: tuple[Taps, Taps] | None = None
    _values: dict[str, float] = field(default_factory=dict)

    # --- what the loop asks for

    def loss(self, row: Row, step: int, share: float) -> tuple[Tensor, float]:
        """Loss of a row that goes down, and the loss of its answers (nats a token) to tell.

        Args:
            row: a packed row.
            step: optimizer steps done before this one.
            share: of the step's answer tokens that the row holds.
        """
        used = weights(self.config, step, self.steps, own=self.own(step))
        loss, values = self._terms(row, used, own=self.own(step))
        for name, value in values.items():
            self._values[name] = self._values.get(name, 0.0) + share * value
        return loss, values.get(ANSWERS, self.last_answers)

    def step_done(self, step: int, emit: Emit) -> None:
        """Take the terms of a step into the scales and tell them."""
        values, self._values = self._values, {}
        self.scales.add(values)
        self.last_answers = values.get(ANSWERS, self.last_answers)
        used = weights(self.config, step, self.steps, own=self.own(step))
        emit(TermsMeasured(step + 1, values, {n: self.scales.of(n) for n in values}, used))

    def prime(self, rows: Sequence[Row]) -> None:
        """Measure the terms on the rows of the first step, before anything is learned."""
        answers = sum(row.answer_tokens for row in rows)
        used = weights(self.config, 0, self.steps, own=False)
        found: dict[str, float] = {}
        with torch.no_grad():
            for row in rows:
                if not row.answer_tokens:
                    continue
                _, values = self._terms(row, used, own=False)
                for name, value in values.items():
                    found[name] = found.get(name, 0.0) + value * row.answer_tokens / answers
        self.scales.prime(found)
        self.last_answers = found.get(ANSWERS, 0.0)

    def tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The projection and its moments, for a checkpoint."""
        if self.projection is None:
            return {}
        tensors, _ = optimizers.state_of(optimizer, self.projection)
        found = {f"{PROJECTION}.{key}": value for key, value in tensors.items()}
        return {PROJECTION: self.projection.data, **found}

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Everything else, for a checkpoint."""
        found = {"scales": self.scales.to_json(), "last_answers": self.last_answers}
        if self.projection is not None:
            _, found["numbers"] = optimizers.state_of(optimizer, self.projection)
        return found

    def restore(
        self, tensors: dict[str, Tensor], state: dict[str, Any], optimizer: torch.optim.Optimizer
    ) -> None:
        """Go on from a checkpoint."""
        self.scales = Scales.from_json(state["scales"])
        self.last_answers = float(state["last_answers"])
        if self.projection is not None and PROJECTION in tensors:
            self.projection.data.copy_(tensors[PROJECTION])
            prefix = f"{PROJECTION}."
            moments: dict[str, Any] = {
                key.removeprefix(prefix): value.to(self.student.device)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            moments |= state.get("numbers", {})
            if moments:
                optimizer.state[self.projection] = moments

    def close(self) -> None:
        """Forget the teacher and take the hooks out."""
        for taps in self._taps or ():
            taps.remove()
        self._teacher, self._taps = None, None
        gc.collect()

    # --- the terms of a row

    def _terms(
        self, row: Row, used: dict[str, float], *, own: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss of a row and the plain value of each term that counts."""
        device = self.student.device
        ids, positions = (torch.tensor(x, device=device) for x in (row.ids, row.position_ids))
        inside = FEATURES in used or RELATIONS in used
        cached = self.cache if self.cache is not None and not own else None
        theirs, their_hidden = Heard(), None
        if inside or (OUTPUT in used and cached is None):
            theirs, their_hidden = self._asked(ids, positions)
        mine, hidden = self._heard(ids, positions, inside)
        targets = shifted(torch.tensor(row.labels, device=device))
        learned = targets != IGNORED
        answers = None if their_hidden is None or cached else their_hidden[learned]
        loss, values = self._outputs(
            hidden[learned], targets[learned], used, answers, cached.of_row(row) if cached else None
        )
        if own:  # the student's own words: how likely it finds them is not what is learned
            del values[ANSWERS]
        for name, value in self._inside(mine, theirs, positions, used).items():
            values[name] = float(value.detach())
            loss = loss + used[name] / self.scales.of(name) * value
        return loss, values

    def _asked(self, ids: Tensor, positions: Tensor) -> tuple[Heard, Tensor]:
        teacher, taps = self._opened()
        with torch.no_grad(), taps[1].listen() as heard:
            hidden = teacher.hidden(ids.to(teacher.device), positions.to(teacher.device))
        return heard, hidden

    def _heard(self, ids: Tensor, positions: Tensor, inside: bool) -> tuple[Heard, Tensor]:
        if not inside:
            return Heard(), self.student.hidden(ids, positions)
        with self._opened()[1][0].listen() as heard:
            hidden = self.student.hidden(ids, positions)
        return heard, hidden

    def _outputs(
        self,
        hidden: Tensor,
        targets: Tensor,
        used: dict[str, float],
        asked: Tensor | None,
        cached: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Answers and outputs of N answer tokens, chunk by chunk."""
        sums, n = {ANSWERS: 0.0}, max(1, len(targets))
        answer_weight = used.get(ANSWERS, 0.0) / self.scales.of(ANSWERS)
        output_weight = used.get(OUTPUT, 0.0) / self.scales.of(OUTPUT)

        def criterion(logits: Tensor, part: slice) -> Tensor:
            answers = F.cross_entropy(logits, targets[part], reduction="sum")
            sums[ANSWERS] += float(answers.detach())
            total = answer_weight * answers
            if OUTPUT in used:
                output = self._output(logits, part, asked, cached)
                sums[OUTPUT] = sums.get(OUTPUT, 0.0) + float(output.detach())
                total = total + output_weight * output
            return total

        loss = head_loss(hidden, self.head, criterion) / n
        return loss, {name: value / n for name, value in sums.items()}

    def _output(
        self,
        logits: Tensor,
        part: slice,
        asked: Tensor | None,
        cached: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Summed divergence of a chunk (k, v), times the temperature squared.

        The square keeps the gradient's size when the temperature changes (Hinton et al. 2015).
        """
        tau = self.config.soft_temperature
        student = (logits[:, : self.vocabulary] / tau).log_softmax(-1)
        if cached is not None:
            ids, teacher = (t[part].to(logits.device) for t in cached)
            student = with_tail(student, ids)
        else:
            assert asked is not None
            head = self._opened()[0].head
            with torch.no_grad():
                theirs = head.finished(head.raw(asked[part]))[:, : self.vocabulary]
                teacher = (theirs / tau).log_softmax(-1).to(logits.device)
        return tau * tau * divergence(student, teacher, self.config.jsd_beta).sum()

    def _inside(
        self, mine: Heard, theirs: Heard, positions: Tensor, used: dict[str, float]
    ) -> dict[str, Tensor]:
        """Features of all layers, relations of the last."""
        found = {}
        if FEATURES in used:
            distances = [
                feature_distance(
                    mine.hidden[layer], theirs.hidden[other].to(positions.device), self.projection
                )
                for layer, other in enumerate(self.layer_map)
            ]
            found[FEATURES] = torch.stack(distances).mean()
        if RELATIONS in used and mine.qkv and theirs.qkv:
            their_qkv = [x.to(positions.device) for x in theirs.relations]
            found[RELATIONS] = relation_distance(
                mine.relations, their_qkv, seen(positions), self.config.relation_heads
            )
        return found

    def _opened(self) -> tuple[DenseModel, tuple[Taps, Taps]]:
        """The teacher and the hooks on both models."""
        if self._teacher is None:
            self._teacher = self.load_teacher()
        if self._taps is None:
            features = self.config.feature_weight > 0
            relations = self.config.attention_weight > 0 and self.can_relate(self._teacher)
            last = len(self.layer_map) - 1
            self._taps = (
                Taps(
                    self.student.blocks,
                    self.student.model.config,
                    hidden=range(len(self.layer_map)) if features else (),
                    relations=last if relations else None,
                ),
                Taps(
                    self._teacher.blocks,
                    self._teacher.model.config,
                    hidden=self.layer_map if features else (),
                    relations=self.layer_map[last] if relations else None,
                ),
            )
        return self._teacher, self._taps

    def can_relate(self, teacher: DenseModel) -> bool:
        """Whether both models make queries, keys and values in a way that is known."""
        return all(projections(m.blocks[-1], m.model.config) for m in (self.student, teacher))


def start_projection(student: int, teacher: int, seed: int) -> Tensor:
    """P (d_T, d_S) with orthonormal rows or columns; the identity where the widths are equal."""
    if student == teacher:
        return torch.eye(teacher)
    generator = torch.Generator().manual_seed(seed)
    wide, narrow = max(student, teacher), min(student, teacher)
    q: Tensor = torch.linalg.qr(torch.randn(wide, narrow, generator=generator))[0]
    return q if teacher == wide else q.t().contiguous()
