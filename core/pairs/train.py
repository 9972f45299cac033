"""Training of a pair model on the loop of every method.

LoRA+ (Hayou et al. 2024, arXiv 2402.12354): U learns faster than V. ``train.lr`` is the rate of U
and of the head; V and magnitudes have it divided by ``pairs.rate_ratio``. With the defaults V's is
6e-5, near the 1e-4 that is common for LoRA, and U's 16 times as much (our interpretation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from core.assemble import LanguageModel
from core.config import MB, RunConfig
from core.data.packing import Schedule
from core.data.pairs import Pair
from core.device import peak_bytes
from core.errors import MemoryBudgetError
from core.evaluate.binary import best_threshold, marks
from core.events import CheckpointSaved, Emit, MemoryMeasured, PairsMarked, RanksChanged
from core.layers.lora import AdapterLinear
from core.pairs.directed import layers_of
from core.pairs.model import PairEncoder, PairModel
from core.train import checkpoint
from core.train.loop import Progress, Trainer
from core.train.ranks import RankController

TRAINED = ("U", "V", "magnitude")


@dataclass
class PairTrainer(Trainer):
    """The loop, with marks on the calibration pairs in the place of the quiz.

    Attributes:
        encoder: lays pairs out as tokens.
        calibration: pairs that are not learned.
    """

    encoder: PairEncoder | None = None
    calibration: Sequence[Pair] = field(default_factory=tuple)

    @property
    def pair_model(self) -> PairModel:
        """What is trained."""
        return cast(PairModel, self.model)

    def evaluate(self) -> float:
        """Mean cross-entropy on the calibration pairs, both orders averaged; tells the marks."""
        assert self.encoder is not None
        found = probabilities(self.pair_model, self.encoder, self.calibration)
        truth = [p.same for p in self.calibration]
        said = marks(truth, found, best_threshold(truth, found))
        self.emit(PairsMarked(self.progress.step, "calibration", said))
        return float(said["nll"])

    def _step(self, step: int) -> float:
        # What is dropped depends on seed and step alone: a resumed run drops the same.
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        return super()._step(step)

    def _compare_memory(self) -> None:
        """Keep to the budget by measuring: this method has no plan."""
        peak = peak_bytes(self.model.device)
        self.emit(MemoryMeasured(0, peak, self.budget_bytes))
        if self.budget_bytes and peak > self.budget_bytes:
            needed = -(-peak * 11 // 10 // MB) * MB
            raise MemoryBudgetError(
                f"The run does not fit into {self.budget_bytes / MB:.0f} MB.",
                minimum_budget_bytes=needed,
                action=f"Raise the budget to {needed / MB:.0f} MB.",
            )


def probabilities(
    model: PairModel,
    encoder: PairEncoder,
    pairs: Sequence[Pair],
    on_done: Callable[[int], None] = lambda pairs: None,
) -> list[float]:
    """Probability that both questions mean the same, of every pair."""
    scores = model.scores(encoder, [(p.first, p.second) for p in pairs], on_done)
    found: list[float] = scores.softmax(1)[:, 1].tolist()
    return found


def trainable(model: PairModel) -> dict[str, Tensor]:
    """What is trained, by the name under which it is saved."""
    named: dict[str, Tensor] = {"head": model.head}
    for name, layer in model.layers.items():
        for key in TRAINED:
            value = getattr(layer, key)
            if value is not None and value.numel():
                named[f"{name}.{key}"] = value
    return named


def make_optimizer(model: PairModel, config: RunConfig) -> torch.optim.AdamW:
    """AdamW with a slower group for V and magnitudes; ``share`` is a group's part of the rate."""
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, value in trainable(model).items():
        groups[name.endswith((".V", ".magnitude"))].append(value)
    slow = 1 / config.pairs.rate_ratio
    return torch.optim.AdamW(
        [
            {"params": groups[False], "share": 1.0},
            {"params": groups[True], "share": slow, "lr": config.train.lr * slow},
        ],
        lr=config.train.lr,
        betas=(0.9, 0.99),
        weight_decay=config.train.weight_decay,
        fused=True,
    )


# --- checkpoints ---------------------------------------------------------------------------------


def tensors_of(model: PairModel) -> dict[str, Tensor]:
    """Head and triplets (U, s, V, m, magnitude) of all layers by name."""
    found: dict[str, Tensor] = {"head": model.head.detach()}
    for name, layer in model.layers.items():
        for key in ("U", "s", "V", "m", "magnitude"):
            value = getattr(layer, key)
            if value is not None:
                found[f"{name}.{key}"] = value.detach().cpu().contiguous()
    return found


def set_tensors(model: PairModel, tensors: Mapping[str, Tensor]) -> None:
    """Give a model what :func:`tensors_of` took."""
    model.head.data.copy_(tensors["head"])
    for name, layer in model.layers.items():
        layer.set_triplets(*(tensors[f"{name}.{key}"] for key in ("U", "s", "V", "m")))
        if (magnitude := tensors.get(f"{name}.magnitude")) is not None:
            layer.magnitude = torch.nn.Parameter(magnitude.clone().to(model.device))


def save(folder: Path, trainer: PairTrainer) -> None:
    """Checkpoint the trainer; keep the best and the newest two."""
    p, model = trainer.progress, trainer.pair_model
    tensors = tensors_of(model)
    for name, value in trainable(model).items():
        for moment, held in trainer.optimizer.state.get(value, {}).items():
            tensors[f"optim.{name}.{moment}"] = held
    state: dict[str, Any] = {"progress": asdict(p)}
    tensors |= trainer.part_tensors()
    if trainer.decay is not None:
        state["decay"] = trainer.decay.numbers()
    if trainer.ranks is not None:
        tensors |= trainer.ranks.tensors()
        state["updates"], state["start_cost"] = trainer.ranks.updates, trainer.ranks.start_cost
    path = checkpoint.save(folder, p.step, tensors, state)
    checkpoint.rotate(folder, {f"step-{p.best_step:06d}"})
    trainer.emit(CheckpointSaved(p.step, path.name))


def restore(trainer: PairTrainer, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Go on where :func:`save` was called; the model has its tensors already."""
    for name, value in trainable(trainer.pair_model).items():
        prefix = f"optim.{name}."
        held = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        if held:
            trainer.optimizer.state[value] = {k: t.to(value.device) for k, t in held.items()}
    trainer.progress = Progress(**state["progress"])
    trainer.progress.quiz = [(int(s), float(v)) for s, v in trainer.progress.quiz]
    trainer.restore_parts(tensors, state.get("decay", {}))
    if trainer.ranks is not None:
        trainer.ranks.restore(tensors, int(state["updates"]), float(state["start_cost"]))
    for name, layer in trainer.layers.items():
        trainer.emit(RanksChanged(trainer.progress.step, {name: layer.active_rank}, "resumed"))


def make_trainer(
    model: PairModel,
    encoder: PairEncoder,
    config: RunConfig,
    schedule: Schedule,
    steps: int,
    calibration: Sequence[Pair],
    emit: Emit,
    folder: Path,
) -> PairTrainer:
    """The loop for a model that has its triplets.

    Args:
        model: what is trained.
        encoder: lays pairs out as tokens.
        config: the run's settings.
        schedule: which pairs every step sees.
        steps: optimizer steps.
        calibration: pairs that are not learned.
        emit: receives events.
        folder: of the checkpoints.
    """
    layers: dict[str, AdapterLinear] = dict(model.layers)
    trainer = PairTrainer(
        cast(LanguageModel, model),  # of which the loop wants ``loss`` and ``device`` alone
        layers,
        make_optimizer(model, config),
        config.train,
        schedule,
        steps,
        (),
        emit,
        lambda t: save(folder, cast(PairTrainer, t)),
        lambda t: None,
        budget_bytes=config.budget_bytes,
        encoder=encoder,
        calibration=calibration,
        others=layers_of(model.layers),
    )
    trainer.add_parts()
    if config.adapter.dynamic:
        cost = sum(
            min(config.adapter.rank, x.out_features, x.in_features)
            * (x.out_features + x.in_features + 1)
            for x in layers.values()
        )
        trainer.ranks = RankController(layers, trainer.optimizer, steps, cost)
    return trainer
