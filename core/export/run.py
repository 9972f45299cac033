"""A finished run opened for export: its models, its quiz, its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import modelload, models
from core.adapters import peers, store
from core.assemble import LanguageModel
from core.config import RunConfig
from core.data import frozen
from core.data.chat import ChatFormat
from core.data.types import Example, Turn
from core.errors import ModelError
from core.evaluate.quiz import mark
from core.export.check import CHECKED_PROMPTS, reference_answers
from core.plan.types import Plan


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder says, read once.

    Attributes:
        folder: the run.
        config: its settings.
        plan: bits as they are now, and ranks at the start; None where all weights were trained, or
            the adapter is PEFT's own.
        whole: folder of a wholly trained model; None where an adapter was trained.
        library: whether the adapter is PEFT's own.
        result: what ``result.json`` holds.
        base: folder of the model that was trained, of which exports take configuration and
            tokenizer; ``base_info`` the entry of the base model (or teacher) in the model list.
        train_examples: how many examples were learned; ``data_sha256`` of all of them.
        quiz: the held-out examples.
        examples: what the export is checked with (the quiz, or what was learned without one).
    """

    folder: Path
    config: RunConfig
    plan: Plan | None
    whole: Path | None
    library: bool
    result: dict[str, Any]
    base: Path
    base_info: models.ModelInfo
    train_examples: int
    data_sha256: str
    quiz: tuple[Example, ...]
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        """The label that the person gave, or the folder's name."""
        return self.config.name or self.folder.name

    @property
    def prompts(self) -> list[Sequence[Turn]]:
        """Prompts with which exports are checked."""
        return [example.prompt for example in self.examples[:CHECKED_PROMPTS]]

    @property
    def marks(self) -> dict[str, Any]:
        """What the run's quiz found: ``base``, ``tuned``, ``comparison``; empty without a quiz."""
        return dict(self.result.get("quiz") or {})


def open_run(folder: Path) -> FinishedRun:
    """Read a run's folder.

    Raises:
        ModelError: if it is no finished run, or its base model is not there any more.
    """
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"))
        whole = store.whole_model(folder)
        library = peers.is_adapter(folder / store.ADAPTER)
        plan = store.load_plan(folder) if whole is None and not library else None
    except (OSError, ValueError) as error:
        raise ModelError(
            "This run is not finished, so there is nothing to export yet.",
            where=folder.name,
            action="Let it finish, or resume it.",
            code="export.unfinished",
        ) from error
    config = RunConfig.load(folder / "config.json")
    info = models.resolve(config.model if whole else store.base_name(folder, config))
    sides = frozen.load_frozen(folder / "data")
    quiz = tuple(sides.quiz)
    return FinishedRun(
        folder=folder,
        config=config,
        plan=plan,
        whole=whole,
        library=library,
        result=result,
        base=whole or store.base_folder(folder, config),
        base_info=info,
        train_examples=len(sides.train),
        data_sha256=plan.data_sha256 if plan else sides.sha256,
        quiz=quiz,
        examples=quiz or tuple(sides.train),
    )


def base_name(run: FinishedRun) -> str:
    """The base as others know it: a hub id, never a path of this machine."""
    name = run.base_info.id
    return name if not Path(name).is_absolute() else run.base_info.title


@dataclass(frozen=True)
class Tuned:
    """The tuned model in memory, as trained, and the answers that exports must give."""

    model: LanguageModel
    start: dict[str, Tensor]
    tokenizer: Any
    chat: ChatFormat
    answers: list[str]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the studio computes."""
        return self.model.dtype


def load_tuned(run: FinishedRun) -> Tuned:
    """Load the tuned model and let it answer the prompts of the check.

    Raises:
        ModelError: if it cannot be loaded, or all weights were trained.
    """
    if run.whole is not None:
        raise ModelError(
            "All weights of this model were trained, so that there is no adapter to export.",
            where=run.folder.name,
            action="Export it merged: a whole model that others can load.",
            code="export.no_adapter",
        )
    model, base = store.load_run(run.folder)
    tokenizer = modelload.load_tokenizer(base)
    chat = ChatFormat.of(tokenizer)
    expected = reference_answers(model.model, tokenizer, chat, run.prompts)
    return Tuned(model, store.unlearned_triplets(run.folder), tokenizer, chat, expected)


def measured(run: FinishedRun, model: Any, tokenizer: Any, chat: ChatFormat) -> dict[str, Any]:
    """Mark a freshly loaded export on the run's quiz; only the figures, empty without a quiz."""
    if not run.quiz:
        return {}
    config = run.config
    found = mark(
        model,
        tokenizer,
        chat,
        run.quiz,
        questions=config.quiz.questions if config.quiz.generate else 0,
        max_new_tokens=config.quiz.max_new_tokens,
        max_length=config.train.max_length,
    )
    return {key: value for key, value in found.items() if key not in ("answers", "losses")}
