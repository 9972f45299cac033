"""The whole job for pairs: freeze the slices, start, train, choose the threshold, mark the test.

``run`` and ``resume`` are what ``core.pipeline`` hands runs of the method ``pairs`` to; both are
the same sequence, which skips what has been done.

Best checkpoint and threshold are chosen on the calibration pairs, never on those that are reported.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core import models
from core.adapters.store import ADAPTER
from core.config import RunConfig
from core.data.chat import Encoded
from core.data.packing import Schedule, make_row
from core.data.pairs import (
    Pair,
    PairSplit,
    freeze_pairs,
    is_frozen_pairs,
    load_pairs,
    read_pairs,
    split_pairs,
)
from core.device import device_of, peak_bytes, release, within_budget
from core.errors import Stopped
from core.evaluate.binary import best_threshold, marks
from core.events import DataFrozen, Emit, Note, PairsMarked, PhaseChanged, QuizDone, RanksChanged
from core.objectives.classify import class_weights, classification_losses
from core.pairs.duplicates import overlap
from core.pairs.model import PairEncoder, PairModel, Shape, opened, unpacked
from core.pairs.start import scale_of, start
from core.pairs.store import save_trained
from core.pairs.train import (
    PairTrainer,
    make_trainer,
    probabilities,
    restore,
    set_tensors,
    trainable,
)
from core.train import checkpoint

ShouldStop = Callable[[], str]
LEAST_STEPS = 30  # unless a number is asked for: the head starts with nothing
START_TOKENS = 1024  # of the pairs whose gradient gives V its directions
ROW_TOKENS = 512  # of a forward pass, unless set otherwise


@dataclass
class Task:
    """The slices as the model sees them."""

    path: Path
    sides: PairSplit
    model: PairModel
    encoder: PairEncoder
    train: list[Encoded]


def run(config: RunConfig, out: Path, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    """Do a whole run in the folder ``out``; returns what ``result.json`` holds.

    Args:
        config: settings, composed for the method.
        out: the run's folder.
        emit: receives events.
        should_stop: asked after every step.

    Raises:
        StudioError: in the words a person reads; ``Stopped`` if the person stopped or paused it.
    """
    device_of(config.device)
    out.mkdir(parents=True, exist_ok=True)
    emit(PhaseChanged("data"))
    config.save(out / "config.json")
    freeze_pairs(read(config), out / "data")
    return resume(out, emit, should_stop)


def read(config: RunConfig) -> PairSplit:
    """The slices of the pair file, or pairs that are frozen already.

    Raises:
        DataError: if the file cannot be used.
    """
    path = Path(config.data.path)
    if is_frozen_pairs(path):
        return load_pairs(path)
    c, d = config.pairs, config.data
    how = {"first": c.first, "second": c.second, "label": c.label}
    found = read_pairs(path, **how, sheet=d.sheet, encoding=d.encoding)
    return split_pairs(
        found.pairs,
        calibration=c.calibration_share,
        test=c.test_share,
        seed=config.train.seed,
        how=c.pair_split,
    )


def resume(out: Path, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    """Go on with the run in ``out`` from the newest whole checkpoint, or from its frozen pairs.

    Raises:
        StudioError: in the words a person reads.
    """
    config = RunConfig.load(out / "config.json")
    if (out / "result.json").is_file() and (out / ADAPTER).is_dir():
        done: dict[str, Any] = json.loads((out / "result.json").read_text("utf-8"))
        return done
    with within_budget(device_of(config.device), config.budget_bytes):
        return _resume(out, config, emit, should_stop)


def _resume(out: Path, config: RunConfig, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    begun = time.monotonic()
    torch.manual_seed(config.train.seed)
    task = _task(config, load_pairs(out / "data"), emit)
    if should_stop():
        raise Stopped("The run was stopped; it can be resumed.")
    trainer = _trainer(out, config, task, emit)
    emit(PhaseChanged("train"))
    if trainer.run(should_stop):
        raise Stopped("The run was stopped; it can be resumed.")
    _take_best(out, config, trainer)
    numbers = sum(t.numel() for t in trainable(task.model).values())
    trainer.optimizer.state.clear()
    release()
    emit(PhaseChanged("quiz"))
    quiz = _marked(task, emit, trainer.progress.step)
    facts = {"model": config.model, "method": config.method, "steps": trainer.progress.step}
    digest = save_trained(out, task.model, quiz["tuned"]["threshold"], facts)
    emit(QuizDone(quiz))
    emit(PhaseChanged("done", 1.0))
    p = trainer.progress
    return {
        "run": out.name,
        "status": "done",
        "steps": p.step,
        "predicted_peak_bytes": 0,
        "measured_peak_bytes": peak_bytes(task.model.device),
        "budget_bytes": config.budget_bytes,
        "tokens_per_second": p.tokens / max(1e-9, p.seconds),
        "best_step": p.best_step if p.best_step > 0 else p.step,
        "adapter_sha256": digest,
        "trained_numbers": numbers,
        "seconds": {
            "train": round(p.seconds, 2),
            "total": round(time.monotonic() - begun, 2),
        },
        "quiz": quiz,
    }


def _task(config: RunConfig, sides: PairSplit, emit: Emit) -> Task:
    path = models.ensure_local(
        models.resolve(config.model),
        lambda share, text: emit(PhaseChanged("data", share, text)),
        encoder=True,
    )
    emit(PhaseChanged("load"))
    q = config.quant
    shape = Shape(q.bits or 16, q.group, q.scheme, config.pairs.dropout, config.pairs.r_drop)
    model, encoder = opened(path, shape, config.train.max_length, device=device_of(config.device))
    train = encoder.examples(sides.train)
    held_out = len(sides.calibration) + len(sides.test)
    tokens = sum(len(e.ids) for e in train)
    emit(DataFrozen(len(sides.train), held_out, sides.sha256, tokens, len(train)))
    cut = sum(e.cut for e in train)
    if cut:
        emit(Note(f"{cut // 2} pairs are cut at {encoder.max_length} tokens.", "pairs.cut"))
    if sides.problems:
        few = min(len(sides.calibration), len(sides.test))
        text = f"A slice holds only {few} pairs, too few for marks that say much."
        emit(Note(text, "pairs.few"))
    if config.pairs.class_weights:
        model.weights = class_weights(torch.tensor([p.same for p in sides.train])).to(model.device)
    return Task(path, sides, model, encoder, train)


def _trainer(out: Path, config: RunConfig, task: Task, emit: Emit) -> PairTrainer:
    """The loop at the newest whole checkpoint, or at step 0."""
    found = checkpoint.newest(out / "checkpoints")
    if found:
        set_tensors(task.model, found[1])
    else:
        _start(config, task, emit)
    longest = max(len(e.ids) for e in task.train)
    schedule = Schedule(
        task.train,
        tokens_per_step=config.train.tokens_per_step,
        micro_batch_tokens=max(longest, config.train.micro_batch_tokens or ROW_TOKENS),
        seed=config.train.seed,
    )
    steps = config.train.steps or max(
        LEAST_STEPS, math.ceil(config.train.epochs * schedule.steps_per_epoch)
    )
    trainer = make_trainer(
        task.model,
        task.encoder,
        config,
        schedule,
        steps,
        task.sides.calibration,
        emit,
        out / "checkpoints",
    )
    if found:
        restore(trainer, found[1], found[2])
    return trainer


def _start(config: RunConfig, task: Task, emit: Emit) -> None:
    """Give the adapters their start; half as much again of rank where ranks will fall."""
    c, rank = config.pairs, config.adapter.rank
    scale = scale_of(c.alpha, rank, stabilised=c.scaling == "rank-stabilised")
    begin = math.ceil(1.5 * rank) if config.adapter.dynamic else rank
    start(
        task.model,
        begin,
        scale,
        loss=(lambda: _first_loss(task)) if c.gradient_start else None,
        magnitude=c.magnitude,
        seed=config.train.seed,
    )
    emit(RanksChanged(0, {n: x.rank for n, x in task.model.layers.items()}, "start"))


def _first_loss(task: Task) -> torch.Tensor:
    """The loss of some pairs of both labels, spread over the training slice."""
    order = sorted(range(len(task.train)), key=lambda k: (k * 2654435761) % 2**32)
    chosen: list[int] = []
    tokens = 0
    for k in order:
        if tokens > START_TOKENS:
            break
        chosen.append(k)
        tokens += len(task.train[k].ids)
    row = make_row(task.train, chosen)
    parts = (torch.tensor(x) for x in (row.ids, row.position_ids, row.labels))
    texts, classes = unpacked(*parts)
    logits = task.model.logits(texts)
    return classification_losses(logits, classes.to(logits.device), task.model.weights).mean()


def _take_best(out: Path, config: RunConfig, trainer: PairTrainer) -> None:
    """Take the best checkpoint if a later one is worse on the calibration pairs."""
    p = trainer.progress
    if config.train.stop_early and 0 < p.best_step < p.step:
        best = checkpoint.load(out / "checkpoints" / f"step-{p.best_step:06d}")
        if best is not None:
            set_tensors(trainer.pair_model, best[0])
            trainer.emit(Note(f"The best state, of step {p.best_step}, is kept.", "train.best"))


def _marked(task: Task, emit: Emit, step: int) -> dict[str, Any]:
    """Marks of the test pairs at the threshold that the calibration pairs chose.

    ``base`` is what comparing words alone reaches (see :func:`core.pairs.duplicates.overlap`), its
    threshold chosen in the same way.
    """
    sides = task.sides
    found = {
        name: probabilities(task.model, task.encoder, pairs)
        for name, pairs in (("calibration", sides.calibration), ("test", sides.test))
    }
    threshold = best_threshold([p.same for p in sides.calibration], found["calibration"])
    tuned = marks([p.same for p in sides.test], found["test"], threshold)
    emit(PairsMarked(step, "test", tuned))
    return {
        "task": "pairs",
        "base": _by_words(sides.calibration, sides.test),
        "tuned": tuned,
        "calibration": marks([p.same for p in sides.calibration], found["calibration"], threshold),
        "pairs": {"train": len(sides.train), "calibration": len(sides.calibration),
                  "test": len(sides.test)},
    }  # fmt: skip


def _by_words(calibration: tuple[Pair, ...], test: tuple[Pair, ...]) -> dict[str, Any]:
    seen = [overlap(p.first, p.second) for p in calibration]
    threshold = best_threshold([p.same for p in calibration], seen)
    found = marks([p.same for p in test], [overlap(p.first, p.second) for p in test], threshold)
    # An overlap is no probability: how well it is calibrated says nothing.
    return {name: value for name, value in found.items() if name not in ("nll", "ece")}
