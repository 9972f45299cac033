"""A distillation in the run's own loop: what learns, what it learns from, and what is kept of it.

A quantized student goes through the plan and the adapters like any run and only minimises
something else (:func:`attach`). A student of some of the teacher's layers, or a smaller model, is
trained with all of its weights (:func:`whole_trainer`, :func:`keep_student`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core import modelload, models
from core.adapters import store
from core.assemble import LanguageModel, compute_dtype
from core.config import RunConfig
from core.data.chat import ChatFormat, Encoded
from core.data.packing import Row, Schedule, pack_rows
from core.data.types import Example
from core.dense import DenseModel
from core.device import device_of, release
from core.distill.layermap import aligned_map, proportional_map, similarities
from core.distill.objective import Distiller, start_projection
from core.distill.own import OwnAnswers, is_own, writer
from core.distill.students import save_student
from core.distill.taps import Taps, projections
from core.distill.teacher import cached
from core.events import CheckpointSaved, Emit, Note, PhaseChanged
from core.manifest import sha256_of
from core.modelcheck import weight_files
from core.objectives.head import Head, StoredHead
from core.plan.types import Plan
from core.train import checkpoint
from core.train.loop import Progress, Trainer
from core.train.whole import restore_whole, whole_optimizer, whole_tensors
from core.whole import write_whole

LAYER_MAP = "layer_map.json"
MAP_TOKENS = 512  # of the class's text on which layers are compared


class Material(Protocol):
    """The class as the student sees it.

    Attributes:
        path: the folder of the model that the student begins as.
        train: encoded training examples.
        quiz: encoded examples that are held out.
        examples: the examples of ``train``, in its order.
        shared: tokens with which all of ``train`` begin.
    """

    path: Path
    tokenizer: Any
    chat: ChatFormat
    train: Sequence[Encoded]
    quiz: Sequence[Encoded]
    examples: Sequence[Example]
    shared: int


def teacher_folder(config: RunConfig) -> Path:
    """The checked folder of the teacher.

    Raises:
        ModelError: if it cannot be used.
    """
    return models.ensure_local(models.resolve(config.model))


class TeacherOnLoan:
    """The teacher of a run: loaded when it is first asked for, forgotten when it has said all."""

    def __init__(self, config: RunConfig) -> None:
        """Load nothing yet."""
        self._config = config
        self._loaded: DenseModel | None = None

    def __call__(self) -> DenseModel:
        """The teacher, in the dtype in which the studio computes."""
        if self._loaded is None:
            device = device_of(self._config.device)
            path = teacher_folder(self._config)
            self._loaded = DenseModel.load(path, compute_dtype(device), device)
        return self._loaded

    def forget(self) -> None:
        """Give its memory back; asked again, it is loaded again."""
        self._loaded = None
        release()


# --- the objective ------------------------------------------------------------------------------


def distiller(
    out: Path,
    config: RunConfig,
    student: LanguageModel | DenseModel,
    lesson: Material,
    steps: int,
    row_tokens: int,
    emit: Emit,
) -> Distiller:
    """The objective of a run, with the teacher's answers on disk and the layers mapped."""
    d, teacher_path = config.distill, teacher_folder(config)
    teacher_config = modelload.load_config(teacher_path)
    head = head_of(student)
    teacher = TeacherOnLoan(config)
    vocabulary = min(head.vocabulary, int(teacher_config.vocab_size))
    cache = None
    if d.cache_top and d.output_weight:
        emit(PhaseChanged("teacher", 0.0))
        cache = cached(
            teacher,
            teacher_path,
            lesson.train,
            shared=lesson.shared,
            k=d.cache_top,
            temperature=d.soft_temperature,
            vocabulary=vocabulary,
            row_tokens=row_tokens,
            on_done=lambda share: emit(PhaseChanged("teacher", share)),
        )
    found = Distiller(
        student,
        head,
        d,
        steps,
        own=lambda step: is_own(d, config.train.seed, step, steps),
        layer_map=_layer_map(out, config, student, teacher, lesson, row_tokens),
        load_teacher=teacher,
        cache=cache,
        vocabulary=vocabulary,
    )
    if d.feature_weight:
        widths = (hidden_size(student.model.config), hidden_size(teacher_config))
        start = start_projection(*widths, config.train.seed)
        found.projection = nn.Parameter(start.to(student.device))
    if d.attention_weight and not projections(student.blocks[-1], student.model.config):
        text = "This model's attention cannot be compared; that term is left out."
        emit(Note(text, "distill.no_relations"))
    if cache is not None and not (d.feature_weight or d.attention_weight or d.own_share):
        teacher.forget()  # what is kept on disk is all that is asked for
    return found


def head_of(student: LanguageModel | DenseModel) -> Head:
    """The output head of a student."""
    if isinstance(student, DenseModel):
        return student.head
    return StoredHead(student.head, student.head_bias, student.scale, student.softcap)


def hidden_size(config: Any) -> int:
    """Width of the hidden states."""
    return int(config.hidden_size)


def _layer_map(
    out: Path,
    config: RunConfig,
    student: LanguageModel | DenseModel,
    teacher: Callable[[], DenseModel],
    lesson: Material,
    row_tokens: int,
) -> list[int]:
    """The layer map of the run, made once and kept in its folder."""
    kept = out / LAYER_MAP
    if kept.is_file():
        found: list[int] = json.loads(kept.read_text("utf-8"))["map"]
        return found
    teacher_layers = int(modelload.load_config(teacher_folder(config)).num_hidden_layers)
    tree: dict[str, Any] = {"kind": config.distill.layer_map}
    if config.distill.layer_map == "cka":
        rows = pack_rows(lesson.train, row_tokens, lesson.shared)
        similarity = _similarity(student, teacher(), rows)
        tree |= {"map": aligned_map(similarity), "similarity": similarity.tolist()}
    else:
        tree["map"] = proportional_map(len(student.blocks), teacher_layers)
    write_whole(kept, json.dumps(tree))
    mapped: list[int] = tree["map"]
    return mapped


@torch.no_grad()
def _similarity(
    student: LanguageModel | DenseModel, teacher: DenseModel, rows: Sequence[Row]
) -> Tensor:
    """CKA (L_S, L_T) on the first rows of the class."""
    told: list[list[list[Tensor]]] = []
    for model in (student, teacher):
        layers = range(len(model.blocks))
        taps = Taps(model.blocks, model.model.config, hidden=layers)
        parts: list[list[Tensor]] = [[] for _ in layers]
        left = MAP_TOKENS
        for row in rows:
            with taps.listen() as heard:
                model.hidden(
                    torch.tensor(row.ids, device=model.device),
                    torch.tensor(row.position_ids, device=model.device),
                )
            for layer in layers:
                parts[layer].append(heard.hidden[layer][:left].cpu())
            left -= len(row.ids)
            if left <= 0:
                break
        taps.remove()
        told.append(parts)
    mine, theirs = ([torch.cat(p) for p in parts] for parts in told)
    return similarities(mine, theirs)


def schedule(
    config: RunConfig,
    lesson: Material,
    student: Any,
    own: Callable[[int], bool],
    row_tokens: int,
    *,
    packing: bool = True,
) -> Schedule:
    """The steps of a run, some with the student's own answers."""
    write = writer(
        student,
        lesson.tokenizer,
        lesson.chat,
        lesson.examples,
        seed=config.train.seed,
        longest=config.distill.own_tokens,
    )
    return OwnAnswers(
        lesson.train,
        own=own,
        write=write,
        tokens_per_step=config.train.tokens_per_step,
        micro_batch_tokens=row_tokens,
        seed=config.train.seed,
        packing=packing,
        shared=lesson.shared,
    )


# --- a student with an adapter ------------------------------------------------------------------


def attach(
    out: Path,
    config: RunConfig,
    trainer: Trainer,
    model: LanguageModel,
    lesson: Material,
    plan: Plan,
    emit: Emit,
) -> Distiller:
    """Let an ordinary trainer of adapters minimise the distance to a teacher."""
    found = distiller(out, config, model, lesson, trainer.steps, plan.micro_batch, emit)
    trainer.schedule = schedule(
        config, lesson, model.model, found.own, plan.micro_batch, packing=plan.packing
    )
    if found.projection is not None:
        trainer.optimizer.add_param_group({"params": [found.projection]})
    trainer.objective = found
    return found


def begin(trainer: Trainer, found: Distiller) -> None:
    """Measure the terms before the first step, if nothing has been learned yet."""
    if trainer.progress.step == 0:
        found.prime(Schedule.rows(trainer.schedule, 0))


# --- a student that trains as a whole -----------------------------------------------------------


def whole_trainer(
    out: Path,
    config: RunConfig,
    lesson: Material,
    least_steps: int,
    emit: Emit,
    sample: Callable[[Trainer], None],
) -> tuple[Trainer, Distiller]:
    """The loop over all weights of a student, at the newest whole checkpoint or at step 0."""
    train, device = config.train, device_of(config.device)
    student = DenseModel.load(lesson.path, torch.float32, device, trained=True)
    longest = max(len(e.ids) for e in lesson.train)
    row_tokens = max(train.micro_batch_tokens or train.tokens_per_step, longest)
    plain = Schedule(
        lesson.train,
        tokens_per_step=train.tokens_per_step,
        micro_batch_tokens=row_tokens,
        seed=train.seed,
        shared=lesson.shared,
    )
    steps = train.steps or max(least_steps, math.ceil(train.epochs * plain.steps_per_epoch))
    found = distiller(out, config, student, lesson, steps, row_tokens, emit)
    extra = [] if found.projection is None else [found.projection]
    optimizer = whole_optimizer(student.model, extra, config.distill.student_lr, train.weight_decay)
    trainer = Trainer(
        student,
        {},
        optimizer,
        replace(train, lr=config.distill.student_lr),
        schedule(config, lesson, student.model, found.own, row_tokens),
        steps,
        pack_rows(lesson.quiz, row_tokens),
        emit,
        lambda t: _save(out, t, found),
        sample,
        objective=found,
        others=student.directed(),
    )
    trainer.add_parts()
    newest = checkpoint.newest(out / "checkpoints")
    if newest:
        _, tensors, state = newest
        restore_whole(student.model, tensors, optimizer)
        trainer.progress = Progress(**state["progress"])
        trainer.progress.quiz = [(int(s), float(v)) for s, v in trainer.progress.quiz]
        found.restore(tensors, state["distill"], optimizer)
        trainer.restore_parts(tensors, state.get("decay", {}))
    return trainer, found


def _save(out: Path, trainer: Trainer, found: Distiller) -> None:
    """Checkpoint the student, keep the best and the newest two."""
    p = trainer.progress
    tensors = whole_tensors(trainer.model.model, trainer.optimizer)
    tensors |= found.tensors(trainer.optimizer) | trainer.part_tensors()
    state = {"progress": asdict(p), "distill": found.state(trainer.optimizer)}
    if trainer.decay is not None:
        state["decay"] = trainer.decay.numbers()
    path = checkpoint.save(out / "checkpoints", p.step, tensors, state)
    checkpoint.rotate(out / "checkpoints", {f"step-{p.best_step:06d}"})
    trainer.emit(CheckpointSaved(p.step, path.name))


def keep_student(out: Path, config: RunConfig, trainer: Trainer, start: Path) -> str:
    """Write the best state of a wholly trained student as ``model/``; return its weights' SHA-256.

    The projection is not part of it: it only served to compare.

    Raises:
        ModelError: if a weight is not finite.
    """
    teacher = models.resolve(config.model)
    facts = {
        "kind": "student",
        "title": f"{config.name or out.name} (smaller)",
        "licence": teacher.licence,
        "note": f"Learned from {teacher.title} in {trainer.progress.step} steps.",
    }
    return keep_whole(out, config, trainer, start, facts)


def keep_whole(
    out: Path, config: RunConfig, trainer: Trainer, start: Path, facts: dict[str, Any]
) -> str:
    """Write the best state of a model of which all weights were trained as ``model/``.

    Args:
        out: the run's folder.
        config: its settings.
        trainer: at the end of the training.
        start: the folder that the model began as.
        facts: kept in the manifest (title, licence, note ...).

    Returns:
        SHA-256 of its weights.

    Raises:
        ModelError: if a weight is not finite.
    """
    p = trainer.progress
    if config.train.stop_early and 0 < p.best_step < p.step:
        best = checkpoint.load(out / "checkpoints" / f"step-{p.best_step:06d}")
        if best is not None:
            restore_whole(trainer.model.model, best[0])
            trainer.emit(Note(f"The best state, of step {p.best_step}, is kept.", "train.best"))
    save_student(trainer.model.model, start, out / store.WHOLE, facts)
    return sha256_of(out / store.WHOLE / "model.safetensors")


def forget_checkpoints(out: Path) -> None:
    """Remove the checkpoints of a finished student: each is several times as large as it is."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


# --- before and after ---------------------------------------------------------------------------


def sizes(out: Path, config: RunConfig, student_parameters: int) -> dict[str, dict[str, int]]:
    """Bytes and parameters of teacher and student.

    The teacher's bytes are those of its weight files. Those of a student with an adapter are what
    the plan stores: codes, scales, tables and the adapter.
    """
    teacher = teacher_folder(config)
    before = {
        "bytes": sum(file.stat().st_size for file in weight_files(teacher)),
        "parameters": models.resolve(config.model).parameters,
    }
    whole = store.whole_model(out)
    if whole is not None:
        held = (whole / "model.safetensors").stat().st_size
        return {"teacher": before, "student": {"bytes": held, "parameters": student_parameters}}
    plan = store.load_plan(out)
    adapter = (out / store.ADAPTER / "adapter.safetensors").stat().st_size
    held = plan.parts["weights"] + plan.parts["embeddings"] + adapter
    return {"teacher": before, "student": {"bytes": held, "parameters": before["parameters"]}}
