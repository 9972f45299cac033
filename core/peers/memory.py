"""What a training in other libraries' layers will hold, estimated; and the limit it may not pass.

There is no plan here: weights are stored as the method says, and everything else follows. The
estimate is made before a model is loaded, from shapes alone; the limit is what the process really
held, asked after loading and after every step. Bytes throughout.

T tokens of the longest row, d hidden size, f width of the MLP, o and i of a linear layer, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from core import modelload
from core.adapters.peers import NF4, initial_rank
from core.assemble import compute_dtype
from core.config import MB, RunConfig
from core.device import device_of, held_bytes, peak_bytes, total_bytes
from core.errors import MemoryBudgetError
from core.plan.trained import PENALTY

TRAINED = 16  # bytes of a trained number: itself, its gradient and two moments of AdamW
IMPORTANCE = 16  # more of a number of AdaLoRA: three averages, and one passing by
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a code, its block's scale in 8 bits, theirs in 32
LIBRARIES = 200 * MB  # PEFT and, for NF4, bitsandbytes, imported after the estimate
CHUNK = 64 * MB  # of logits and what is made of them (core/objectives/head.py)


@dataclass(frozen=True)
class Shape:
    """Numbers of a model: all of them, those in linear layers of blocks, and (o, i) of these."""

    parameters: int
    linear: int
    layers: tuple[tuple[int, int], ...]
    hidden: int
    blocks: int

    @staticmethod
    def of(path: Path) -> Shape:
        """Read a checked model folder; nothing is loaded.

        Raises:
            ModelError: if it cannot be used.
        """
        empty = modelload.empty_model(path)
        weights = modelload.Weights(path, empty)
        unique = {weights.stored_name(name): name for name in weights}
        sizes = [torch.Size(weights.shape(name)).numel() for name in unique.values()]
        targets = modelload.linear_targets(empty).values()
        layers = tuple(modelload.linear_shape(module) for module in targets)
        _, blocks = modelload.decoder_blocks(empty)
        linear = sum(o * i for o, i in layers)
        hidden = int(empty.config.hidden_size)
        return Shape(sum(sizes), linear, layers, hidden, len(blocks))


@dataclass(frozen=True)
class Estimate:
    """Parts of the peak, and how the run is then done.

    Attributes:
        process: what is held before.
        weights: frozen ones.
        trained: numbers with gradients, with all that belongs to them.
        activations: of the longest row.
        row_tokens: T.
        recompute: whether blocks are recomputed in the backward pass.
    """

    process: int
    weights: int
    trained: int
    activations: int
    row_tokens: int
    recompute: bool

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.process + self.weights + self.trained + self.activations


def trained_numbers(config: RunConfig, shape: Shape) -> int:
    """Numbers that a method trains at its start."""
    rank, variant = config.adapter.rank, config.peer.variant
    if variant == "full":
        return shape.parameters
    if variant == "adalora":
        return sum(initial_rank(rank) * (o + i + 1) for o, i in shape.layers)
    return sum(rank * (o + i) + (o if variant == "dora" else 0) for o, i in shape.layers)


def estimated(
    config: RunConfig, shape: Shape, row_tokens: int, *, recompute: bool, process: int
) -> Estimate:
    """The peak of a run.

    Args:
        config: the settings.
        shape: of the base model.
        row_tokens: T.
        recompute: whether blocks are recomputed.
        process: bytes held before anything is loaded.
    """
    variant, size = config.peer.variant, compute_dtype(device_of(config.device)).itemsize
    largest = max(o * i for o, i in shape.layers)
    weights = 0 if variant == "full" else shape.parameters * size
    passing = 2 * largest * 4 if variant in ("dora", "pissa") else 0  # W + B A, and its norm
    if config.peer.stored == NF4:
        rest = shape.parameters - shape.linear
        weights = int(rest * size + shape.linear * NF4_BYTES) + 2 * largest * size
    each = TRAINED + (IMPORTANCE if variant == "adalora" else 0) + beside(config)
    trained = trained_numbers(config, shape) * each
    width = 4 if variant == "full" else size
    block = _block_numbers(shape) * (2 if variant == "dora" else 1)
    blocks = shape.hidden * shape.blocks + 2 * block if recompute else block * (shape.blocks + 1)
    activations = int(row_tokens * blocks * width) + CHUNK + passing
    return Estimate(process + LIBRARIES, weights, trained, activations, row_tokens, recompute)


def beside(config: RunConfig) -> int:
    """Bytes of a trained number that a penalty and balanced decay hold, where they are most.

    A penalty keeps the start, and an earlier state; what decays to its start keeps it; and the
    gradient of the one, or the copy that the other is measured from, passes by.
    """
    train, variant = config.train, config.peer.variant
    decays = train.uses("balanced_decay")
    to_start = decays and variant in ("full", "pissa", "loftq")
    passing = train.direction != "off" or decays
    return 4 * (PENALTY[train.direction] + to_start + passing)


def _block_numbers(shape: Shape) -> int:
    """Numbers that a block keeps of a token: what goes into and out of its linear layers.

    Each input once for two layers, each output once, and six times the hidden state for norms,
    residuals and attention.
    """
    per_block = sum(o + i / 2 for o, i in shape.layers) / shape.blocks
    return int(per_block) + 6 * shape.hidden


def chosen(config: RunConfig, path: Path, asked_tokens: int, longest: int) -> Estimate:
    """How a run is done: the first way of these that fits its budget, or the memory there is.

    Rows as long as asked for; recomputed blocks; rows of one example. A setting that says which
    leaves the others out.

    Args:
        config: the settings.
        path: folder of the base model.
        asked_tokens: of a row, if memory allows.
        longest: tokens of the longest example: no row can be shorter.

    Raises:
        MemoryBudgetError: with the sentence why not even the last fits.
    """
    shape, device = Shape.of(path), device_of(config.device)
    process = held_bytes(device)
    room = config.budget_bytes or _available(device)
    asked = config.train.checkpointing
    ways = [
        estimated(config, shape, tokens, recompute=recompute, process=process)
        for tokens in dict.fromkeys((max(asked_tokens, longest), longest))
        for recompute in (False, True)
        if asked == "auto" or recompute == (asked == "on")
    ]
    fitting = next((way for way in ways if way.total <= room), None)
    if fitting is None:
        raise _too_large(config, shape, min(ways, key=lambda way: way.total), room)
    return fitting


def _available(device: torch.device) -> int:
    """Memory that a run without a budget may take: what is free, and what this process has."""
    if device.type == "cuda":
        return total_bytes(device)
    return int(psutil.virtual_memory().available) + held_bytes(device)


def _too_large(config: RunConfig, shape: Shape, least: Estimate, room: int) -> MemoryBudgetError:
    where = "budget" if config.budget_bytes else "memory"
    if config.peer.variant == "full":
        each = least.trained / max(1, shape.parameters)
        most = max(0, int((room - least.process - least.activations) / each))
        return MemoryBudgetError(
            f"Training all {shape.parameters / MB:.0f} million weights of this model takes about"
            f" {least.total / MB:.0f} MB, and {room / MB:.0f} MB are there.",
            minimum_budget_bytes=least.total,
            action=f"Choose a model of at most {most / MB:.0f} million weights, or a method that"
            " trains an adapter.",
            where=where,
        )
    return MemoryBudgetError(
        f"Method {config.method} takes about {least.total / MB:.0f} MB on this model, and"
        f" {room / MB:.0f} MB are there.",
        minimum_budget_bytes=least.total,
        action="Give it more memory, or choose method adaq, which plans for the budget.",
        where=where,
    )


@dataclass(frozen=True)
class HardLimit:
    """A budget that ends a run which passes it. Bytes; 0: none."""

    budget: int
    device: torch.device

    def check(self, step: int) -> None:
        """Ask after loading (step 0), and after every step.

        Raises:
            MemoryBudgetError: says how much the training has held.
        """
        peak = peak_bytes(self.device) if self.budget else 0
        if peak <= self.budget:
            return
        raise MemoryBudgetError(
            f"The training has held {peak / MB:.0f} MB, more than its budget of"
            f" {self.budget / MB:.0f} MB, and was ended.",
            minimum_budget_bytes=peak,
            action=f"Raise the budget to {peak * 1.1 / MB:.0f} MB, or choose method adaq, which"
            " plans for the budget.",
            where=f"step {step}" if step else "loading",
        )
