"""The whole job on one screen: freeze the data, plan, load, train, save, mark.

``run`` begins a run folder, ``resume`` goes on from whatever is whole in it; both are the same
sequence, which skips what has been done. So a run killed at any moment is repaired by ``resume``.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import methods, modelload, models, workspace
from core.adapters import store
from core.adapters.start import start_model
from core.config import RunConfig
from core.data import frozen
from core.data.arrow import Chosen, Joined
from core.data.chat import ChatFormat, Encoded
from core.data.ingest import large, read_isolated
from core.data.ondisk import split_on_disk
from core.data.packing import Schedule, pack_rows, shared_beginning
from core.data.split import Split, split
from core.data.tokens import TokensOnDisk
from core.data.trainable import require_answers
from core.data.types import Example
from core.device import device_of, peak_bytes, release, within_budget
from core.distill import run as distillation
from core.distill import students
from core.distill.objective import Distiller
from core.errors import ConfigError, DataError, Stopped
from core.evaluate.generate import answer
from core.evaluate.marks import mark_run
from core.events import (
    BitsChanged,
    CheckpointSaved,
    DataFrozen,
    Emit,
    Event,
    Note,
    PhaseChanged,
    Planned,
    QuizDone,
    RanksChanged,
    SampleAnswer,
)
from core.pairs import run as pairs
from core.peers import run as peers
from core.plan.memory import probe
from core.plan.planning import Planned as Found
from core.plan.planning import calibration_row, does_not_fit, plan_for
from core.plan.rounding import round_linears, task_gate
from core.plan.types import LinearPlan, Plan
from core.train import checkpoint, optimizers
from core.train.ledger import Ledger
from core.train.loop import Progress, Trainer, below
from core.train.ranks import RankController
from core.train.requantize import Requantizer
from core.train.rules import AdaptiveClip
from core.whole import write_whole

ShouldStop = Callable[[], str]
PAIRS = "pairs"  # the method with a task of its own
LEAST_STEPS = 12  # unless a number is asked for: fewer hardly move the adapter
PROBE_TOKENS = 128  # learned tokens of the examples on which changes of bits are judged
SAMPLE_SHARE = 0.06  # of the training time may go into sample answers
SAMPLE_TOKENS = 40


@dataclass
class Lesson:
    """The class as the model sees it: encoded examples of both sides and what encodes them.

    ``shared``: tokens with which all training examples begin and which a row holds once;
    ``examples``: those of ``train``, in its order.
    """

    path: Path
    tokenizer: Any
    chat: ChatFormat
    train: Sequence[Encoded]
    quiz: Sequence[Encoded]
    split: Split
    shared: int
    examples: Sequence[Example]


def plan_run(config: RunConfig, emit: Emit) -> Plan:
    """Plan without training: what ``plan`` prints and the page shows.

    Raises:
        StudioError: if model, data or settings cannot be used.
    """
    config = methods.planned(methods.composed(config))
    optimizers.check(config.train)
    with within_budget(device_of(config.device), config.budget_bytes):
        config = _with_plan(config)
        lesson = _lesson(config, _read(config)[1], emit)
        return _found(config, lesson, emit).plan


def run(config: RunConfig, out: Path, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    """Do a whole run in the folder ``out``; returns what ``result.json`` holds.

    Raises:
        StudioError: in the words a person reads; ``Stopped`` if the person stopped or paused it.
    """
    config = methods.composed(config)
    if config.method == PAIRS:
        optimizers.must_be_plain(config.train, "Method pairs")
        return pairs.run(config, out, emit, should_stop)
    device_of(config.device)  # if there is no such device, say so before anything is written
    optimizers.check(config.train)
    if config.method == "distill":
        config = students.completed(config)
    if peers.is_peer(config):
        peers.check(config)
    out.mkdir(parents=True, exist_ok=True)
    emit(PhaseChanged("data"))
    config.save(out / "config.json")
    examples, sides = _read(config)
    frozen.freeze(examples, sides, out / "data")
    return resume(out, emit, should_stop)


def resume(out: Path, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    """Go on with the run in ``out`` from the newest whole checkpoint, or from its frozen data.

    Raises:
        StudioError: in the words a person reads.
    """
    config = RunConfig.load(out / "config.json")
    if config.method == PAIRS:
        return pairs.resume(out, emit, should_stop)
    with within_budget(device_of(config.device), config.budget_bytes):
        return _resume(out, config, emit, should_stop)


def _resume(out: Path, config: RunConfig, emit: Emit, should_stop: ShouldStop) -> dict[str, Any]:
    started = time.monotonic()
    finished = (out / store.ADAPTER).is_dir() or store.whole_model(out) is not None
    if (out / "result.json").is_file() and finished:
        done: dict[str, Any] = json.loads((out / "result.json").read_text("utf-8"))
        return done
    seconds: dict[str, float] = {}
    torch.manual_seed(config.train.seed)
    with _clock(seconds, "prepare"):
        lesson = _lesson(config, frozen.load_frozen(out / "data"), emit, out)
    trained = _trained_whole if _is_whole(config) else _trained
    if peers.is_peer(config):
        trained = _trained_elsewhere
    result = trained(out, config, lesson, seconds, emit, should_stop)
    release()
    with _clock(seconds, "quiz"):
        quiz = _quiz(out, config, lesson, emit, should_stop)
    if _is_whole(config) or peers.is_full(config):
        distillation.forget_checkpoints(out)
    seconds["total"] = time.monotonic() - started
    emit(PhaseChanged("done", 1.0))
    return {**result, "seconds": {k: round(v, 2) for k, v in seconds.items()}, "quiz": quiz}


def _trained(
    out: Path,
    config: RunConfig,
    lesson: Lesson,
    seconds: dict[str, float],
    emit: Emit,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    """Plan, train an adapter and keep it; what ``result.json`` says of that."""
    with _clock(seconds, "plan"):
        plan = _kept_plan(out, config, lesson, _stoppable(emit, should_stop))
    _go_on(should_stop)
    with _clock(seconds, "load"):
        trainer = _trainer(out, config, plan, lesson, emit)
    with _clock(seconds, "train"):
        emit(PhaseChanged("train"))
        if trainer.run(should_stop):
            raise Stopped("The run was stopped; it can be resumed.")
        optimizers.settle(trainer.optimizer)
        trainer.optimizer.state.clear()
        workspace.forget()
        release()
        digest = _keep_best(out, config, trainer)
    numbers = sum(x.trained_numbers for x in trainer.layers.values())
    result = _figures(out, config, trainer, digest, numbers)
    result["predicted_peak_bytes"] = plan.predicted_peak_bytes
    if config.method == "distill":
        result["sizes"] = distillation.sizes(out, config, 0)
    return result


def _trained_whole(
    out: Path,
    config: RunConfig,
    lesson: Lesson,
    seconds: dict[str, float],
    emit: Emit,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    """Train all weights of a student and keep it; what ``result.json`` says of that."""
    kept = out / "trained.json"
    if kept.is_file() and store.whole_model(out) is not None:
        known: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return known
    tell, sample = _stoppable(emit, should_stop), _Sampler(lesson, emit)
    with _clock(seconds, "load"):
        emit(PhaseChanged("load", 0.0))
        trainer, found = distillation.whole_trainer(out, config, lesson, LEAST_STEPS, tell, sample)
        distillation.begin(trainer, found)
    trainer.emit = emit
    with _clock(seconds, "train"):
        emit(PhaseChanged("train"))
        if trainer.run(should_stop):
            raise Stopped("The run was stopped; it can be resumed.")
        trainer.optimizer.state.clear()
        found.close()
        digest = distillation.keep_student(out, config, trainer, lesson.path)
    numbers = sum(p.numel() for p in trainer.model.model.parameters())
    result = _figures(out, config, trainer, digest, numbers)
    result["sizes"] = distillation.sizes(out, config, numbers)
    write_whole(kept, json.dumps(result))
    return result


def _trained_elsewhere(
    out: Path,
    config: RunConfig,
    lesson: Lesson,
    seconds: dict[str, float],
    emit: Emit,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    """Train an adapter of PEFT, or all weights, and keep it; what ``result.json`` says of that."""
    kept = out / "trained.json"
    if kept.is_file() and ((out / store.ADAPTER).is_dir() or store.whole_model(out) is not None):
        known: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return known
    tell = _stoppable(emit, should_stop)
    with _clock(seconds, "load"):
        run = peers.built(out, config, lesson, LEAST_STEPS, tell, _Sampler(lesson, emit))
    run.trainer.emit = emit
    with _clock(seconds, "train"):
        emit(PhaseChanged("train"))
        if run.trainer.run(should_stop):
            raise Stopped("The run was stopped; it can be resumed.")
        run.trainer.optimizer.state.clear()
        digest, numbers = peers.keep(out, config, run, lesson.path)
    result = _figures(out, config, run.trainer, digest, numbers)
    result["predicted_peak_bytes"] = run.estimate.total
    write_whole(kept, json.dumps(result))
    return result


def _figures(
    out: Path, config: RunConfig, trainer: Trainer, digest: str, numbers: int
) -> dict[str, Any]:
    """What a finished training says of itself."""
    trained = trainer.progress
    return {
        "run": out.name,
        "status": "done",
        "steps": trained.step,
        "predicted_peak_bytes": 0,
        "measured_peak_bytes": peak_bytes(trainer.model.device),
        "budget_bytes": config.budget_bytes,
        "tokens_per_second": trained.tokens / max(1e-9, trained.seconds),
        "best_step": trained.best_step if trained.best_step > 0 else trained.step,
        "adapter_sha256": digest,
        "trained_numbers": numbers,
    }


def _is_whole(config: RunConfig) -> bool:
    """Whether all weights of the model train, so that there is neither plan nor adapter."""
    return config.method == "distill" and students.is_whole(config)


def _with_plan(config: RunConfig) -> RunConfig:
    """Refuse to plan what has no plan, or none before its run has made its student.

    Raises:
        ConfigError: says which students have one.
    """
    if config.method != "distill":
        return config
    config = students.completed(config)
    if students.is_whole(config) or config.distill.student == students.LAYERS:
        raise ConfigError(
            "This student has no plan: bits and ranks are planned for stored weights only.",
            where="distill.student",
            action="Train it without a plan, or choose the student quantized.",
            code="distill.no_plan",
        )
    return config


# --- data ----------------------------------------------------------------------------------------


def _read(config: RunConfig) -> tuple[Sequence[Example], Split]:
    """The class file, a large class that was imported, or data that is frozen already."""
    path = Path(config.data.path)
    if frozen.is_frozen(path):
        sides = frozen.load_frozen(path)
        return Joined(sides.train, sides.quiz), sides
    d = config.data
    if large.is_imported(path):
        examples = large.load(path).examples
        return examples, split_on_disk(
            examples, share=d.quiz_share, largest=d.max_quiz, seed=config.train.seed
        )
    found = read_isolated(path, **d.reading())
    sides = split(found.examples, share=d.quiz_share, largest=d.max_quiz, seed=config.train.seed)
    return tuple(found.examples), sides


def _lesson(config: RunConfig, sides: Split, emit: Emit, out: Path | None = None) -> Lesson:
    path = models.ensure_local(
        models.resolve(config.model), lambda share, text: emit(PhaseChanged("data", share, text))
    )
    if config.method == "distill":
        teacher, path = path, students.prepare(config, out or Path())
        students.same_tokenizer(teacher, path, Joined(sides.train, sides.quiz))
    tokenizer = modelload.load_tokenizer(path)
    chat = ChatFormat.of(tokenizer)
    train, examples = _encoded(chat, sides.train, config.train.max_length, emit)
    quiz, _ = _encoded(chat, sides.quiz, config.train.max_length, emit)
    refused = len(sides.train) - len(train)
    require_answers(chat, train, refused=refused, limit=config.train.max_length)
    answers = sum(label != -100 for e in train for label in e.labels)
    tokens = sum(len(e.ids) for e in train)
    emit(DataFrozen(len(train), len(quiz), sides.sha256, tokens, answers))
    shared = _beginning(path, train)
    return Lesson(path, tokenizer, chat, train, quiz, sides, shared, examples)


def _encoded(
    chat: ChatFormat, examples: Sequence[Example], longest: int, emit: Emit
) -> tuple[Sequence[Encoded], Sequence[Example]]:
    """Encode what fits, with the examples that did; name what does not.

    Of a large class the tokens are kept on disk, and the examples stay where they are.
    """
    places, refused, cut = array("q"), [], 0

    def fitting() -> Iterator[Encoded]:
        nonlocal cut
        for i, example in enumerate(examples):
            try:
                one = chat.encode(example, longest)
            except DataError:
                refused.append(example.where)
                continue
            places.append(i)
            cut += bool(one.cut)
            yield one

    if len(examples) > frozen.MOST_IN_MEMORY:
        kept: Sequence[Encoded] = TokensOnDisk(fitting())
        whole: Sequence[Example] = Chosen(examples, np.array(places, np.int64))
    else:
        kept = list(fitting())
        whole = [examples[i] for i in places]
    if refused:
        emit(Note(f"Too long and left out: {', '.join(refused[:10])}.", "data.too_long"))
    if cut:
        emit(Note(f"{cut} answers are cut at {longest} tokens.", "data.cut"))
    return kept, whole


def _beginning(path: Path, encoded: Sequence[Encoded]) -> int:
    """Tokens that rows of these examples hold once.

    Models that look back over a window would need a mask of their own for examples longer than it;
    these keep their beginnings apart.
    """
    config = modelload.load_config(path)
    window = getattr(config, "sliding_window", None) or math.inf
    longest = max((len(e.ids) for e in encoded), default=0)
    return shared_beginning(encoded) if longest <= window else 0


# --- plan ----------------------------------------------------------------------------------------


def _found(config: RunConfig, lesson: Lesson, emit: Emit) -> Found:
    return plan_for(config, lesson.path, lesson.train, lesson.shared, lesson.split.sha256, emit)


def _kept_plan(out: Path, config: RunConfig, lesson: Lesson, emit: Emit) -> Plan:
    """The plan of this run, made once; its starting point is written beside it.

    Raises:
        MemoryBudgetError: if nothing fits the budget.
    """
    kept = out / "plan.json"
    if kept.is_file() and (out / store.BASE).is_dir():
        plan = Plan.from_json(json.loads(kept.read_text("utf-8")))
        emit(Planned(plan.to_json()))
        return plan
    found = _found(config, lesson, emit)
    plan = found.plan
    if not plan.feasible:
        raise does_not_fit(config.budget_bytes, plan.minimum_budget_bytes, plan.suggestion)
    emit(Planned(plan.to_json()))
    write_whole(kept, json.dumps(plan.to_json(), indent=1))
    _start(out, config, lesson, found, emit)
    release()  # that model lives on in a cycle, for fused blocks hold their layers
    return plan


def _start(out: Path, config: RunConfig, lesson: Lesson, found: Found, emit: Emit) -> None:
    """Round the weights as planned and write the model at step 0 beside its plan."""
    total = len(found.plan.linears)
    bases = store.bases_of(config, found.plan)
    emit(PhaseChanged("load", 0.0))

    def rounded(linear: LinearPlan, done: int, of: int) -> None:
        emit(PhaseChanged("load", 0.9 * done / of, linear.name))

    def loaded(linear: LinearPlan, done: int, of: int) -> None:
        emit(BitsChanged(0, {linear.name: linear.bits}))
        emit(RanksChanged(0, {linear.name: linear.rank}, "start"))
        if done % 10 == 0 or done == total:
            emit(PhaseChanged("load", 0.9 + 0.1 * done / of, linear.name))

    with tempfile.TemporaryDirectory(dir=out, prefix="rounding-") as folder:
        candidate = round_linears(
            lesson.path,
            found.row,
            found.plan,
            found.profile,
            Path(folder),
            group=config.quant.group,
            error_start=config.adapter.start == "error",
            embedding_bits=8 if found.tight else 16,
            bases=bases,
            device=device_of(config.device),
            on_linear=rounded,
        )
        release()
        model = start_model(
            lesson.path,
            found.plan,
            config.quant.group,
            candidate,
            gate=task_gate(found.plan, found.profile, error_start=config.adapter.start == "error"),
            bases=bases,
            device=device_of(config.device),
            on_linear=loaded,
        )
        store.save_base(out, store.adapted(model), bases)


# --- train ---------------------------------------------------------------------------------------


def _trainer(out: Path, config: RunConfig, plan: Plan, lesson: Lesson, emit: Emit) -> Trainer:
    """The loop at the newest whole checkpoint, or at step 0."""
    found = checkpoint.newest(out / "checkpoints")
    tensors = found[1] if found else store.start_triplets(out)
    changes = found[2]["progress"].get("requantized", []) if found else []
    model, _ = store.load_stored(out, device_of(config.device), requantized=changes)
    layers = store.adapted(model)
    store.set_triplets(layers, tensors)
    release()
    model.recompute(plan.recomputed)
    schedule = Schedule(
        lesson.train,
        tokens_per_step=config.train.tokens_per_step,
        micro_batch_tokens=plan.micro_batch,
        seed=config.train.seed,
        packing=plan.packing,
        shared=lesson.shared,
    )
    steps = config.train.steps or max(
        LEAST_STEPS, math.ceil(config.train.epochs * schedule.steps_per_epoch)
    )
    optimizer = optimizers.make_optimizer(layers, config.train, steps)
    trainer = Trainer(
        model,
        layers,
        optimizer,
        config.train,
        schedule,
        steps,
        pack_rows(lesson.quiz, plan.micro_batch, _beginning(lesson.path, lesson.quiz)),
        emit,
        lambda t: _save(out, t),
        _Sampler(lesson, emit),
        predicted_bytes=plan.predicted_peak_bytes,
        budget_bytes=config.budget_bytes,
        ledger=Ledger.of(plan),
        requantize=_requantizer(out, config, plan, lesson, emit),
        go_back=(lambda t: _go_back(out, config, plan, t))
        if config.train.uses("recover")
        else None,
    )
    _add_parts(trainer, config, plan)
    teacher = None
    if config.method == "distill":
        teacher = distillation.attach(out, config, trainer, model, lesson, plan, emit)
    if found:
        _restore(trainer, found[1], found[2])
    if teacher is not None:
        distillation.begin(trainer, teacher)
    return trainer


def _add_parts(trainer: Trainer, config: RunConfig, plan: Plan) -> None:
    """What the settings ask for beside the optimizer, as at the start of a run."""
    layers, optimizer, train = trainer.layers, trainer.optimizer, config.train
    trainer.add_parts()
    trainer.clip = AdaptiveClip(train.grad_clip or math.inf) if train.uses("clip") else None
    if config.adapter.dynamic:
        cost = sum(x.target_rank * (x.out_features + x.in_features + 1) for x in plan.linears)
        trainer.ranks = RankController(layers, optimizer, trainer.steps, cost)
        if trainer.decay is not None:
            trainer.ranks.on_keep = trainer.decay.keep


def _go_back(out: Path, config: RunConfig, plan: Plan, trainer: Trainer) -> bool:
    """Put a trainer back to the newest whole checkpoint, or to step 0.

    False where bits have changed since, so that the layers' codes are others now; and where a
    distillation has no checkpoint yet.
    """
    found = checkpoint.newest(out / "checkpoints")
    tensors = found[1] if found else store.start_triplets(out)
    changes = found[2]["progress"].get("requantized", []) if found else []
    if changes != trainer.progress.requantized:
        return False
    if not found and isinstance(trainer.objective, Distiller):
        return False  # where its projection began is in no file
    before = {name: layer.trained for name, layer in trainer.layers.items()}
    store.set_triplets(trainer.layers, tensors)
    for name, layer in trainer.layers.items():
        for old, new in zip(before[name], layer.trained, strict=True):
            optimizers.swap_parameter(trainer.optimizer, old, new)
    trainer.optimizer.state.clear()
    _add_parts(trainer, config, plan)
    trainer.progress = Progress(quiz=[look for look in trainer.progress.quiz if look[0] == 0])
    if found:
        _restore(trainer, found[1], found[2])
    return True


def _requantizer(
    out: Path, config: RunConfig, plan: Plan, lesson: Lesson, emit: Emit
) -> Requantizer | None:
    """What changes bits while training, if that is wanted and bits are the plan's to choose."""
    if not config.train.requantize:
        return None
    fixed = config.quant.bits or config.quant.scheme != "affine"
    if fixed or config.adapter.parametrisation == "svd":
        text = "The bits are fixed by the settings and will not change while training."
        emit(Note(text, "train.requantize_fixed"))
        return None
    judged, fitted = _set_apart(lesson.train, PROBE_TOKENS)
    return Requantizer(
        out,
        lesson.path,
        plan,
        config.quant.group,
        lambda tokens: calibration_row(fitted, tokens, lesson.shared),
        pack_rows(judged, plan.micro_batch, lesson.shared),
        probe(lesson.path, device_of(config.device)).step,
        config.quant.calibration_tokens,
    )


def _set_apart(
    encoded: Sequence[Encoded], tokens: int
) -> tuple[Sequence[Encoded], Sequence[Encoded]]:
    """Examples of about so many learned tokens from all of the class, and the others.

    At least half of the class is left over; of a single example both are that one.
    """
    most = len(encoded) // 2
    order = [k for first in range(4) for k in range(first, len(encoded), 4)][:most]
    apart: set[int] = set()
    for k in order:
        if tokens <= 0:
            break
        apart.add(k)
        tokens -= sum(label != -100 for label in encoded[k].labels)
    if not apart:
        return encoded, encoded
    return (
        [encoded[k] for k in sorted(apart)],
        [e for k, e in enumerate(encoded) if k not in apart],
    )


def _save(out: Path, trainer: Trainer) -> None:
    """Checkpoint the trainer (once a step), keep the best and the newest two."""
    p = trainer.progress
    tensors: dict[str, Tensor] = {
        **store.triplets(trainer.layers),
        **optimizers.optimizer_tensors(trainer.optimizer, trainer.layers),
    }
    numbers = optimizers.optimizer_numbers(trainer.optimizer, trainer.layers)
    state: dict[str, Any] = {"progress": asdict(p), "optimizer": numbers}
    if optimizers.averages(trainer.optimizer):
        with optimizers.answering(trainer.optimizer):
            kept = store.triplets(trainer.layers)
            tensors |= {f"answers.{k}": t.clone() for k, t in kept.items()}
    tensors |= trainer.part_tensors()
    if trainer.clip is not None:
        state["clip"] = asdict(trainer.clip)
    if trainer.decay is not None:
        state["decay"] = trainer.decay.numbers()
    if trainer.ranks is not None:
        tensors |= trainer.ranks.tensors()
        state["updates"], state["start_cost"] = trainer.ranks.updates, trainer.ranks.start_cost
    if isinstance(trainer.objective, Distiller):
        tensors |= trainer.objective.tensors(trainer.optimizer)
        state["distill"] = trainer.objective.state(trainer.optimizer)
    path = checkpoint.save(out / "checkpoints", p.step, tensors, state)
    checkpoint.rotate(out / "checkpoints", {f"step-{p.best_step:06d}"})
    trainer.emit(CheckpointSaved(p.step, path.name))


def _restore(trainer: Trainer, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    numbers = state.get("optimizer")
    optimizers.restore_optimizer(trainer.optimizer, trainer.layers, tensors, numbers)
    trainer.restore_parts(tensors, state.get("decay", {}))
    if trainer.clip is not None:
        trainer.clip = AdaptiveClip(**state["clip"])
    trainer.progress = Progress(**state["progress"])
    trainer.progress.quiz = [(int(s), float(v)) for s, v in trainer.progress.quiz]
    if trainer.ranks is not None:
        trainer.ranks.restore(tensors, int(state["updates"]), float(state["start_cost"]))
    if isinstance(trainer.objective, Distiller):
        trainer.objective.restore(tensors, state["distill"], trainer.optimizer)
    for name, layer in trainer.layers.items():
        trainer.emit(RanksChanged(trainer.progress.step, {name: layer.active_rank}, "resumed"))
    if trainer.requantize is not None:
        bits = {name: layer.quantized.scheme.bits for name, layer in trainer.layers.items()}
        trainer.emit(BitsChanged(trainer.progress.step, bits, "resumed"))


def _keep_best(out: Path, config: RunConfig, trainer: Trainer) -> str:
    """Take the best checkpoint if a later one is worse; write the adapter; return its hash."""
    p = trainer.progress
    changes = p.requantized
    if config.train.stop_early and 0 < p.best_step < p.step:
        best = checkpoint.load(out / "checkpoints" / f"step-{p.best_step:06d}")
        if best is not None:
            store.set_triplets(trainer.layers, below("answers.", best[0]) or best[0])
            changes = best[1]["progress"].get("requantized", [])
            trainer.emit(Note(f"The best state, of step {p.best_step}, is kept.", "train.best"))
    facts = {"model": config.model, "method": config.method, "steps": p.step}
    facts |= {"requantized": changes, **store.basis_facts(out)}
    return store.save_adapter(out, trainer.layers, facts)


class _Sampler:
    """Lets the model answer a held-out question now and then, for little time."""

    def __init__(self, lesson: Lesson, emit: Emit) -> None:
        self.lesson, self.emit = lesson, emit
        self.spent = 0.0

    def __call__(self, trainer: Trainer) -> None:
        """Emit an answer, if sample answers have taken less than their share of the time."""
        examples = self.lesson.split.quiz
        if not examples or self.spent > SAMPLE_SHARE * trainer.progress.seconds:
            return
        example = examples[0]
        begun = time.monotonic()
        text = answer(
            trainer.model.model,
            self.lesson.tokenizer,
            self.lesson.chat,
            example.prompt,
            max_new_tokens=SAMPLE_TOKENS,
            temperature=0.0,
        )
        self.spent += time.monotonic() - begun
        self.emit(SampleAnswer(trainer.progress.step, example.question, text, example.answer))


# --- quiz ----------------------------------------------------------------------------------------


def _quiz(
    out: Path, config: RunConfig, lesson: Lesson, emit: Emit, should_stop: ShouldStop
) -> dict[str, Any]:
    """Marks of base and tuned, in a process of their own; kept in ``quiz.json``."""
    kept = out / "quiz.json"
    if not lesson.quiz:
        emit(Note("The class is too small for a quiz: no marks.", "quiz.none"))
        return {}
    emit(PhaseChanged("quiz"))
    if not kept.is_file():
        mark_run(out, emit, should_stop)
    quiz: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    emit(QuizDone(quiz))
    return quiz


# --- small things --------------------------------------------------------------------------------


def _stoppable(emit: Emit, should_stop: ShouldStop) -> Emit:
    """``emit`` for parts that do not ask themselves: what they tell is the moment to stop them."""

    def tell(event: Event) -> None:
        emit(event)
        if isinstance(event, PhaseChanged):
            _go_on(should_stop)

    return tell


def _go_on(should_stop: ShouldStop) -> None:
    if should_stop():
        raise Stopped("The run was stopped; it can be resumed.")


@contextlib.contextmanager
def _clock(seconds: dict[str, float], name: str) -> Any:
    begun = time.monotonic()
    yield
    seconds[name] = time.monotonic() - begun
