"""One loop for every method: forward, backward, controllers, step, event.

T tokens of a packed row; a step may take several rows, whose gradients add up to that of the mean
over all answer tokens of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from core.config import TrainConfig
from core.data.packing import Row, Schedule
from core.device import held_bytes, peak_bytes
from core.errors import TrainingError
from core.events import Emit, Evaluated, MemoryMeasured, Note, StepDone, VerdictReached
from core.layers.lora import AdapterLinear
from core.train.ledger import Held, Ledger, held
from core.train.ranks import RankController
from core.train.verdict import verdict

STRIKES = 3  # steps in a row without finite gradients before the run stops
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
        objective: what goes down; None: the loss of the answers.
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
    objective: Objective | None = None

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
        p = self.progress
        if p.step == 0:
            self._look_at_start()
        while p.step < self.steps and not p.done:
            started = time.monotonic()
            loss = self._step(p.step)
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
        """Linear warm-up, then a cosine down to a tenth."""
        warm = max(1.0, self.config.warmup * self.steps)
        if step < warm:
            return self.config.lr * (step + 1) / (warm + 1)
        share = (step - warm) / max(1.0, self.steps - warm)
        return self.config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))

    def evaluate(self) -> float:
        """Mean loss per answer token on the held-out rows (NaN without any)."""
        return self.mean_loss(self.quiz_rows)

    def mean_loss(self, rows: Sequence[Row]) -> float:
        """Mean loss per answer token of any rows (NaN without any)."""
        losses = [self.model.losses(*self._tensors(row)) for row in rows]
        return float(torch.cat(losses).mean()) if losses else math.nan

    def held(self) -> Held:
        """Bytes of the tensors that the plan allots to this training."""
        return held(self.layers, self.optimizer, self.ranks.scores() if self.ranks else ())

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
        finite = self._finite(total)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
            self.optimizer.step()
        # Scores are taken from this step's gradients, before they are dropped.
        if self.ranks is not None:
            self.ranks.after_backward(step, self.emit, finite=finite)
        self.check_ledger()
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.layers.values():
            layer.gate_gradient = None
        return total

    def _row_loss(self, row: Row, step: int, share: float) -> tuple[Tensor, float]:
        """A row's part of the step's loss, and of the answer loss that is told."""
        if self.objective is None:
            loss = self.model.loss(*self._tensors(row)) * share
            return loss, float(loss.detach())
        loss, answers = self.objective.loss(row, step, share)
        return loss * share, answers * share

    def _finite(self, loss: float) -> bool:
        """Clip; skip a step whose gradients are not finite, stop after three in a row."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = self.config.grad_clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(loss) and math.isfinite(norm):
            self.progress.strikes = 0
            return True
        self.progress.strikes += 1
        self.emit(Note("A step had no finite gradient and was skipped.", "train.skipped"))
        if self.progress.strikes >= STRIKES or not math.isfinite(loss):
            raise TrainingError(
                "The training became unstable (the loss is no number any more).",
                where=f"step {self.progress.step + 1}",
                action="Start again with a learning rate a third as large.",
                code="train.unstable",
            )
        return False

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
        recent = p.losses[-self.eval_every :]
        mean = sum(recent) / max(1, len(recent))
        self.emit(VerdictReached(p.step, verdict(p.losses, p.quiz), mean, nll))
        if self.config.stop_early and p.waited >= PATIENCE:
            p.done = True
            self.emit(
                Note("The quiz loss no longer falls: training ended early.", "train.early_stop")
            )
        elif p.step < self.steps:
            self.sample(self)


def make_optimizer(layers: dict[str, AdapterLinear], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all triplets; betas for short runs, no decay unless asked for."""
    parameters = [p for x in layers.values() for p in (x.U, x.s, x.V) if p.numel()]
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        fused=True,
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, layers: dict[str, AdapterLinear]
) -> dict[str, Tensor]:
    """Moments by parameter name, for a checkpoint."""
    out: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for key in ("U", "s", "V"):
            for moment, value in optimizer.state.get(getattr(layer, key), {}).items():
                out[f"optim.{name}.{key}.{moment}"] = value
    return out


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    layers: dict[str, AdapterLinear],
    tensors: dict[str, Tensor],
) -> None:
    """Take moments back from a checkpoint."""
    for name, layer in layers.items():
        for key in ("U", "s", "V"):
            prefix = f"optim.{name}.{key}."
            parameter = getattr(layer, key)
            state: dict[str, Any] = {
                k.removeprefix(prefix): v.to(parameter.device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            if state:
                optimizer.state[parameter] = state
