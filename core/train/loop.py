"""One loop for every method: forward, backward, controllers, step, event.

T tokens of a packed row; a step may take several rows, whose gradients add up to that of the mean
over all answer tokens of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from core.config import TrainConfig
from core.data.packing import Row, Schedule
from core.device import held_bytes, peak_bytes
from core.errors import TrainingError
from core.events import (
    Emit,
    Evaluated,
    MemoryMeasured,
    Note,
    OptimizerActed,
    StepDone,
    TermsAdded,
    VerdictReached,
    WentBack,
)
from core.layers.lora import AdapterLinear
from core.objectives.directed import Directed
from core.objectives.direction import make_terms
from core.objectives.terms import LossTerm, add_term
from core.plan.trained import moments
from core.train.ledger import Held, Ledger, held
from core.train.optimizers import RULES, EduAdapt, answering
from core.train.ranks import RankController
from core.train.rules import NO_GAIN, AdaptiveClip, BalancedDecay, rate_at
from core.train.verdict import verdict

STRIKES = 3  # steps in a row without finite gradients before the run stops or goes back
RETURNS = 2  # times that a run goes back before it stops
LOOKS, CHECKPOINTS = 6, 10  # of a run, unless set otherwise
PATIENCE = 3  # looks at the quiz loss without a gain before training ends early


@dataclass
class Progress:
    """What a run remembers between steps (and in checkpoints)."""

    step: int = 0
    strikes: int = 0
    best_nll: float = math.inf
    best_step: int = -1
    waited: int = 0
    losses: list[float] = field(default_factory=list)
    quiz: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    done: bool = False
    requantized: list[int] = field(default_factory=list)  # steps after which bits have changed
    halvings: int = 0  # of the rate: on a plateau, or after going back
    flat: int = 0  # looks at the quiz loss without a gain, since the last halving
    flat_nll: float = math.inf
    returns: int = 0  # times that the run has gone back


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


class Trained(Protocol):
    """What the loop needs of a model: one with adapters, or one that trains as a whole."""

    model: Any
    device: torch.device

    def loss(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Mean answer loss of a packed row; all (T,)."""

    def losses(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Loss of every learned token, without gradients."""


class Objective(Protocol):
    """A loss other than that of the answers alone."""

    def loss(self, row: Row, step: int, share: float) -> tuple[Tensor, float]:
        """What goes down for a row, and the answer loss (nats a token) to tell."""

    def step_done(self, step: int, emit: Emit) -> None:
        """Hear that all rows of a step have been seen."""


@dataclass
class Trainer:
    """The loop and what it needs.

    Attributes:
        rows_of: rows of an optimizer step; row lengths (T,).
        quiz_rows: held-out rows, not trained on.
        save: writes a checkpoint.
        sample: emits a sample answer (asked for now and then).
        ledger: what the tensors of this training may hold; checked in every step.
        requantize: asked after every step; changes the bits of layers when it is time to.
        terms: of the objective, beside the loss.
        clip: sets the largest gradient norm; None: fixed.
        decay: lets factors decay after each step; None: the optimizer's own, if any.
        go_back: puts everything back to the last checkpoint; False where that cannot be done.
            None: steps without finite gradients end the run.
        objective: what goes down; None: the loss of the answers.
        after_move: hears of every step (from 0, and whether it was made) after the optimizer, while
            the gradients are still there.
        others: what terms and decay see of layers that are none of ours, by name.
    """

    model: Trained
    layers: dict[str, AdapterLinear]
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    schedule: Schedule
    steps: int
    quiz_rows: Sequence[Row]
    emit: Emit
    save: Callable[[Trainer], None]
    sample: Callable[[Trainer], None]
    ranks: RankController | None = None
    progress: Progress = field(default_factory=Progress)
    predicted_bytes: int = 0
    budget_bytes: int = 0
    ledger: Ledger | None = None
    requantize: Callable[[Trainer], None] | None = None
    terms: Sequence[LossTerm] = ()
    clip: AdaptiveClip | None = None
    decay: BalancedDecay | None = None
    go_back: Callable[[Trainer], bool] | None = None
    objective: Objective | None = None
    after_move: Callable[[int, bool], None] | None = None
    others: Mapping[str, Directed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Learn how the optimizer wants its rate."""
        rule = RULES[self.config.optimizer]
        self._peak, self._spoils = self.config.lr * rule.factor, rule.spoils
        asked = self.config.schedule
        self._schedule = rule.schedule if asked == "auto" else asked

    @property
    def eval_every(self) -> int:
        """Steps between two looks at the quiz loss."""
        return self.config.eval_every or max(1, math.ceil(self.steps / LOOKS))

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        return self.config.checkpoint_every or max(1, math.ceil(self.steps / CHECKPOINTS))

    def run(self, should_stop: Callable[[], str]) -> str:
        """Train to the end; returns ``""``, or ``pause``/``stop`` as soon as a person wishes so.

        Raises:
            TrainingError: if loss or gradients stay non-finite.
        """
        if self.progress.step == 0:
            self._look_at_start()
        while self.progress.step < self.steps and not self.progress.done:
            started = time.monotonic()
            loss = self._step(self.progress.step)
            if self.progress.strikes >= STRIKES:
                self._go_back()
                continue
            p = self.progress
            p.step += 1
            p.seconds += time.monotonic() - started
            if math.isfinite(loss):
                p.losses.append(loss)
                self._report(loss)
            if self.requantize is not None:
                self.requantize(self)
            if p.step % self.eval_every == 0 or p.step == self.steps:
                self._look()
            wish = should_stop()
            if wish or p.step % self.checkpoint_every == 0 or p.step == self.steps or p.done:
                self.save(self)
            if wish:
                return wish
        return ""

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then by the schedule; halved as often as that was needed."""
        rate = rate_at(step, self.steps, self._peak, self.config.warmup, self._schedule)
        return rate * 0.5**self.progress.halvings

    def evaluate(self) -> float:
        """Mean loss per answer token on the held-out rows (NaN without any)."""
        return self.mean_loss(self.quiz_rows)

    def mean_loss(self, rows: Sequence[Row]) -> float:
        """Mean loss per answer token of any rows (NaN without any)."""
        with answering(self.optimizer):
            losses = [self.model.losses(*self._tensors(row)) for row in rows]
        return float(torch.cat(losses).mean()) if losses else math.nan

    def held(self) -> Held:
        """Bytes of the tensors that the plan allots to this training."""
        return held(self.layers, self.optimizer, self._remembered(), moments(self.config))

    def _remembered(self) -> Iterator[Tensor]:
        """Tensors of the rank controller, of terms and of decay."""
        if self.ranks is not None:
            yield from self.ranks.scores()
        for part in self._parts():
            yield from part.tensors().values()

    def _parts(self) -> list[LossTerm | BalancedDecay]:
        """What remembers something of each layer beside what it trains."""
        return [*self.terms, *([self.decay] if self.decay else [])]

    def add_parts(self) -> None:
        """Make the term and the decay that the settings ask for, as at the start of a run."""
        layers: Mapping[str, Any] = self.others or self.layers
        self.terms = make_terms(self.config.direction, layers, self.steps)
        if self.config.uses("balanced_decay"):
            self.decay = BalancedDecay(layers, self.optimizer, self.config.decay_ratio)

    def part_tensors(self) -> dict[str, Tensor]:
        """What terms and decay remember, by name, for a checkpoint."""
        found = {
            f"term.{term.name}.{key}": t for term in self.terms for key, t in term.tensors().items()
        }
        if self.decay is not None:
            found |= {f"decay.{key}": t for key, t in self.decay.tensors().items()}
        return found

    def restore_parts(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take back what :meth:`part_tensors` and ``decay.numbers`` gave."""
        for term in self.terms:
            term.restore(below(f"term.{term.name}.", tensors))
        if self.decay is not None:
            self.decay.restore(below("decay.", tensors), numbers)

    def renew(self, names: Iterable[str]) -> None:
        """Layers were stored in other bits and fitted anew."""
        for part in self._parts():
            for name in names:
                part.renew(name)

    def check_ledger(self) -> None:
        """Compare what is held with the plan.

        Raises:
            LedgerError: if it is more.
        """
        if self.ledger is not None:
            self.ledger.check(self.held(), self.progress.step + 1)

    def _step(self, step: int) -> float:
        rows = self.schedule.rows(step)
        answers = sum(row.answer_tokens for row in rows)
        total = 0.0
        # The longest row first: if memory were short, it would show at once.
        for row in sorted(rows, key=lambda r: -len(r.ids)):
            if not row.answer_tokens:
                continue
            share = row.answer_tokens / answers
            loss, told = self._row_loss(row, step, share)
            loss.backward()
            total += told
            self.progress.tokens += row.example_tokens
            del loss
        if self.objective is not None:
            self.objective.step_done(step, self.emit)
        if step == 0:
            self._compare_memory()
        self._add_terms(step)
        finite, norm, limit = self._finite(total)
        # Scores are taken from this step's gradients, before they are dropped or written over.
        early = self.ranks is not None and finite and self._spoils
        if self.ranks is not None and early:
            self.ranks.score()
        if finite:
            self._move(step, norm, limit)
        if self.after_move is not None:
            self.after_move(step, finite)
        if self.ranks is not None:
            self.ranks.after_backward(step, self.emit, finite=finite, scored=early)
        self.check_ledger()
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.layers.values():
            layer.gate_gradient = None
        for term in self.terms:
            term.after_step(step + 1)
        return total

    def _row_loss(self, row: Row, step: int, share: float) -> tuple[Tensor, float]:
        """A row's part of the step's loss, and of the answer loss that is told."""
        if self.objective is None:
            loss = self.model.loss(*self._tensors(row)) * share
            return loss, float(loss.detach())
        loss, answers = self.objective.loss(row, step, share)
        return loss * share, answers * share

    def _add_terms(self, step: int) -> None:
        """Add the gradients of the objective's other terms to that of the loss."""
        share, largest = step / self.steps, self.config.direction_share
        due = [term for term in self.terms if step % term.every == 0]
        added = [add_term(term, self.others or self.layers, share, largest) for term in due]
        told = {a.name: asdict(a) for a in added if a is not None}
        if told:
            for values in told.values():
                del values["name"]
            self.emit(TermsAdded(step + 1, told))

    def _move(self, step: int, norm: float, limit: float) -> None:
        """Let the optimizer make its step, and the factors decay."""
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        if self.decay is not None:
            self.decay.before()
        self.optimizer.step()
        decay = {} if self.decay is None else self.decay.after(rate)
        masked = isinstance(self.optimizer, EduAdapt)
        if self.clip is not None or self.decay is not None or masked:
            agreed = self.optimizer.agreed if isinstance(self.optimizer, EduAdapt) else 1.0
            clip = min(1.0, limit / max(norm, 1e-12))
            self.emit(OptimizerActed(step + 1, norm, clip, agreed, decay))

    def _finite(self, loss: float) -> tuple[bool, float, float]:
        """Clip the gradients; count steps whose gradients are not finite.

        Returns:
            Whether this step can be made, the norm of its gradient and the largest that there was
            to be.

        Raises:
            TrainingError: if that cannot be, and the run has nowhere to go back to.
        """
        limit = self.clip.limit if self.clip else self.config.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained(), limit))
        if math.isfinite(loss) and math.isfinite(norm):
            self.progress.strikes = 0
            if self.clip is not None:
                self.clip.see(norm)
            return True, norm, limit
        self.progress.strikes += 1
        self.emit(Note("A step had no finite gradient and was skipped.", "train.skipped"))
        lost = self.progress.strikes >= STRIKES or not math.isfinite(loss)
        if lost and self.go_back is None:
            raise self._unstable()
        return False, norm, limit

    def _trained(self) -> list[Tensor]:
        """All parameters, layer by layer: the order decides the last bit of their norm."""
        own: list[Tensor] = [p for x in self.layers.values() for p in x.trained]
        known = {id(p) for p in own}
        others = (p for group in self.optimizer.param_groups for p in group["params"])
        return own + [p for p in others if id(p) not in known]

    def _go_back(self) -> None:
        """Go back to the last checkpoint with half the rate.

        Raises:
            TrainingError: if that was done before and did not help, or cannot be done.
        """
        p = self.progress
        if p.returns >= RETURNS or self.go_back is None or not self.go_back(self):
            raise self._unstable()
        now = self.progress
        now.strikes, now.returns, now.halvings = 0, p.returns + 1, max(p.halvings, now.halvings) + 1
        self.emit(
            Note(
                f"The steps up to {p.step + 1} had no finite gradients: back to step {now.step},"
                " and on with half the learning rate.",
                "train.went_back",
            )
        )
        self.emit(WentBack(p.step + 1, now.step))

    def _unstable(self) -> TrainingError:
        return TrainingError(
            "The training became unstable (the loss is no number any more).",
            where=f"step {self.progress.step + 1}",
            action="Start again with a learning rate a third as large.",
            code="train.unstable",
        )

    def _compare_memory(self) -> None:
        self.emit(
            MemoryMeasured(self.predicted_bytes, peak_bytes(self.model.device), self.budget_bytes)
        )

    def _tensors(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        device = self.model.device
        return (
            torch.tensor(row.ids, device=device),
            torch.tensor(row.position_ids, device=device),
            torch.tensor(row.labels, device=device),
        )

    def _report(self, loss: float) -> None:
        p = self.progress
        left = (self.steps - p.step) * p.seconds / max(1, p.step)
        self.emit(
            StepDone(
                step=p.step,
                steps=self.steps,
                loss=loss,
                lr=self.learning_rate(p.step - 1),
                tokens_per_second=p.tokens / max(1e-9, p.seconds),
                memory_bytes=held_bytes(self.model.device),
                peak_bytes=peak_bytes(self.model.device),
                seconds=p.seconds,
                seconds_left=left,
            )
        )

    def _look_at_start(self) -> None:
        """The quiz loss before the first step, which the charts and the verdict compare with."""
        nll = self.evaluate()
        if not math.isnan(nll):
            self.progress.quiz.append((0, nll))
            self.emit(Evaluated(0, nll, "base"))

    def _look(self) -> None:
        """Evaluate on the quiz; remember the best; say how it goes; end early if it got worse."""
        p = self.progress
        nll = self.evaluate()
        if math.isnan(nll):
            return
        p.quiz.append((p.step, nll))
        self.emit(Evaluated(p.step, nll, "tuned"))
        if nll < p.best_nll - 1e-4:
            p.best_nll, p.best_step, p.waited = nll, p.step, 0
            if self.config.stop_early:
                self.save(self)
        else:
            p.waited += 1
        plateau = self.config.uses("plateau")
        if plateau:
            self._plateau(nll)
        recent = p.losses[-self.eval_every :]
        mean = sum(recent) / max(1, len(recent))
        self.emit(VerdictReached(p.step, verdict(p.losses, p.quiz), mean, nll))
        # A halved rate gets as many looks again before the run ends.
        if self.config.stop_early and p.waited >= PATIENCE * (2 if plateau else 1):
            p.done = True
            self.emit(
                Note("The quiz loss no longer falls: training ended early.", "train.early_stop")
            )
        elif p.step < self.steps:
            with answering(self.optimizer):
                self.sample(self)

    def _plateau(self, nll: float) -> None:
        """Halve the rate after some looks at the quiz loss without a gain."""
        p = self.progress
        if nll < p.flat_nll * (1 - NO_GAIN):
            p.flat_nll, p.flat = nll, 0
            return
        p.flat += 1
        if p.flat >= PATIENCE:
            p.flat, p.halvings = 0, p.halvings + 1
            self.emit(Note("The quiz loss no longer falls: the rate is halved.", "train.plateau"))
