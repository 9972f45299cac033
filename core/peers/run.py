"""Training in other libraries' layers, in the run's own loop: what learns, and what is kept.

The model is that of ``transformers``, dense or with weights in NF4 of bitsandbytes. Adapters are
PEFT's own layers; method ``full`` has none and trains every weight. Data, schedule, looks at the
quiz, checkpoints and wishes are those of every run (:mod:`core.train.loop`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from core import models
from core.adapters import peers, store
from core.assemble import compute_dtype
from core.config import RunConfig
from core.data.chat import Encoded
from core.data.packing import Schedule, pack_rows
from core.dense import DenseModel
from core.device import device_of
from core.distill.run import keep_whole
from core.errors import ConfigError
from core.events import CheckpointSaved, Emit, Note, PhaseChanged
from core.manifest import sha256_of
from core.peers.adalora import Allocation, Regularised
from core.peers.directed import layers_of
from core.peers.memory import Estimate, HardLimit, chosen
from core.train import checkpoint
from core.train.loop import Progress, Trainer
from core.train.optimizers import must_be_plain
from core.train.whole import restore_whole, whole_optimizer, whole_tensors
from core.whole import write_whole

FULL, ADALORA = "full", "adalora"
ESTIMATE = "estimate.json"  # of a run's memory, made once, so that a resumed run does the same
# Of train.lr, whose scale is that of LoRA. The shares are ours, AdaLoRA's from our benchmark,
# and none was tuned: where a start holds much of the weights, or the
# weights themselves train, equal steps of AdamW go further.
RATES = {ADALORA: 20.0, "pissa": 0.2, FULL: 0.05}


class Material(Protocol):
    """The class as the model sees it.

    Attributes:
        path: the folder of the base model.
        train: encoded training examples.
        quiz: encoded examples that are held out.
        shared: tokens with which all of ``train`` begin.
    """

    path: Path
    train: Sequence[Encoded]
    quiz: Sequence[Encoded]
    shared: int


def is_peer(config: RunConfig) -> bool:
    """Whether other libraries' layers, or all weights, are trained."""
    return config.peer.variant != "none"


def is_full(config: RunConfig) -> bool:
    """Whether all weights are trained."""
    return config.peer.variant == FULL


def check(config: RunConfig) -> None:
    """Refuse what these methods cannot do.

    Raises:
        ConfigError: says what to leave out.
    """
    must_be_plain(config.train, f"Method {config.method}")
    planned = {
        "quant.bits": config.quant.bits,
        "quant.scheme": config.quant.scheme != "affine",
        "train.requantize": config.train.requantize,
    }
    asked = next((name for name, value in planned.items() if value), "")
    if asked:
        raise ConfigError(
            f"Method {config.method} stores its weights in one way, which no setting changes.",
            where=asked,
            action="Leave this setting as it is, or choose method adaq or qlora.",
            code="peers.stored",
        )


@dataclass
class Built:
    """A trainer, PEFT's model around what it trains (None: all weights), and its ranks."""

    trainer: Trainer
    peft: Any
    allocation: Allocation | None
    estimate: Estimate


def built(
    out: Path,
    config: RunConfig,
    lesson: Material,
    least_steps: int,
    emit: Emit,
    sample: Callable[[Trainer], None],
) -> Built:
    """The loop at the newest whole checkpoint, or at step 0.

    Raises:
        MemoryBudgetError: if it does not fit, by the estimate or once it is loaded.
    """
    emit(PhaseChanged("load", 0.0))
    train, device = _trained_config(config), device_of(config.device)
    estimate = _estimate(out, config, lesson)
    schedule = Schedule(
        lesson.train,
        tokens_per_step=train.tokens_per_step,
        micro_batch_tokens=estimate.row_tokens,
        seed=train.seed,
        shared=lesson.shared,
    )
    steps = train.steps or max(least_steps, math.ceil(train.epochs * schedule.steps_per_epoch))
    newest = checkpoint.newest(out / "checkpoints")
    student, peft = _model(out, config, lesson.path, steps, begun=newest is not None)
    if estimate.recompute:
        student.recompute()
    optimizer = whole_optimizer(student.model, [], train.lr, train.weight_decay)
    allocation = Allocation(peft, emit) if config.peer.variant == ADALORA else None
    limit = HardLimit(config.budget_bytes, device)
    limit.check(0)
    trainer = Trainer(
        student,
        {},
        optimizer,
        train,
        schedule,
        steps,
        pack_rows(lesson.quiz, _longest(lesson.quiz, estimate.row_tokens)),
        emit,
        lambda t: _save(out, t, allocation),
        sample,
        predicted_bytes=estimate.total,
        budget_bytes=config.budget_bytes,
        objective=Regularised(student, peft) if allocation else None,
        after_move=_after_move(limit, allocation),
    )
    if train.direction != "off" or train.uses("balanced_decay"):
        trainer.others = layers_of(config, student, peft)
        trainer.add_parts()
    if newest:
        _restore(trainer, allocation, newest[1], newest[2])
    return Built(trainer, peft, allocation, estimate)


def _trained_config(config: RunConfig) -> Any:
    """The loop's settings at the method's own rate."""
    factor = RATES.get(config.peer.variant, 1.0)
    return replace(config.train, lr=config.train.lr * factor)


def _longest(encoded: Sequence[Encoded], least: int = 0) -> int:
    return max([least, *(len(e.ids) for e in encoded)])


def _estimate(out: Path, config: RunConfig, lesson: Material) -> Estimate:
    """How the run is done; kept, since a resumed run may find another amount of free memory."""
    kept = out / ESTIMATE
    if kept.is_file():
        return Estimate(**json.loads(kept.read_text("utf-8")))
    asked = config.train.micro_batch_tokens or config.train.tokens_per_step
    found = chosen(config, lesson.path, asked, _longest(lesson.train))
    write_whole(kept, json.dumps(asdict(found)))
    return found


def _model(
    out: Path, config: RunConfig, path: Path, steps: int, *, begun: bool
) -> tuple[DenseModel, Any]:
    """What trains, and PEFT's model around it (None: all weights train)."""
    device = device_of(config.device)
    if is_full(config):
        return DenseModel.load(path, torch.float32, device, trained=True), None
    base = peers.load_base(path, config.peer.stored, compute_dtype(device), device)
    student = DenseModel.of(base)
    return student, peers.wrapped(base, config, steps, path, out, begun=begun)


def _after_move(limit: HardLimit, allocation: Allocation | None) -> Callable[[int, bool], None]:
    def after_move(step: int, finite: bool) -> None:
        if allocation is not None:
            allocation.after_move(step, finite)
        limit.check(step + 1)

    return after_move


def _save(out: Path, trainer: Trainer, allocation: Allocation | None) -> None:
    """Checkpoint what trains, keep the best and the newest two."""
    p = trainer.progress
    tensors = whole_tensors(trainer.model.model, trainer.optimizer)
    state: dict[str, Any] = {"progress": asdict(p)}
    tensors |= trainer.part_tensors()
    if trainer.decay is not None:
        state["decay"] = trainer.decay.numbers()
    if allocation is not None:
        tensors |= allocation.tensors()
        state["adalora"] = allocation.state()
    path = checkpoint.save(out / "checkpoints", p.step, tensors, state)
    checkpoint.rotate(out / "checkpoints", {f"step-{p.best_step:06d}"})
    trainer.emit(CheckpointSaved(p.step, path.name))


def _restore(
    trainer: Trainer, allocation: Allocation | None, tensors: dict[str, Any], state: dict[str, Any]
) -> None:
    restore_whole(trainer.model.model, tensors, trainer.optimizer)
    trainer.progress = Progress(**state["progress"])
    trainer.progress.quiz = [(int(s), float(v)) for s, v in trainer.progress.quiz]
    trainer.restore_parts(tensors, state.get("decay", {}))
    if allocation is not None:
        allocation.restore(tensors, state["adalora"])


def keep(out: Path, config: RunConfig, run: Built, start: Path) -> tuple[str, int]:
    """Write the best state: ``adapter/`` as PEFT does, or the whole model as ``model/``.

    Args:
        out: the run's folder.
        config: its settings.
        run: at the end of its training.
        start: the folder of the base model.

    Returns:
        SHA-256 of the weights written, and how many numbers were trained.

    Raises:
        ModelError: if a number is not finite.
    """
    if run.peft is None:
        base = models.resolve(config.model)
        whole = {
            "kind": "full",
            "title": f"{config.name or out.name} (tuned)",
            "licence": base.licence,
            "note": f"All weights of {base.title}, trained in {run.trainer.progress.step} steps.",
        }
        numbers = sum(p.numel() for p in run.trainer.model.model.parameters())
        return keep_whole(out, config, run.trainer, start, whole), numbers
    _take_best(out, config, run)
    numbers = sum(p.numel() for p in run.peft.parameters() if p.requires_grad)
    facts: dict[str, Any] = {
        "kind": "adapter",
        "method": config.method,
        "steps": run.trainer.progress.step,
        "base_storage": config.peer.stored,
    }
    target = out / store.ADAPTER
    peers.save_adapter(target, run.peft, config.model, facts, out / peers.PISSA_START)
    if run.allocation is not None:  # ranks that are left
        numbers = sum(t.numel() for t in load_file(target / peers.WEIGHTS).values())
    return sha256_of(target / peers.WEIGHTS), numbers


def _take_best(out: Path, config: RunConfig, run: Built) -> None:
    """Go back to the best checkpoint if a later state is worse."""
    p = run.trainer.progress
    if not (config.train.stop_early and 0 < p.best_step < p.step):
        return
    best = checkpoint.load(out / "checkpoints" / f"step-{p.best_step:06d}")
    if best is None:
        return
    restore_whole(run.trainer.model.model, best[0])
    if run.allocation is not None:
        run.allocation.restore(best[0], best[1]["adalora"])
    run.trainer.emit(Note(f"The best state, of step {p.best_step}, is kept.", "train.best"))
