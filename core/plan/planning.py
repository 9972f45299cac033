"""From a class and a model to a plan: measure what is not known yet, then solve.

What was measured is kept by model and class, so that moving the budget costs no new measurement.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from core import modelload
from core.config import MB, RunConfig
from core.data.chat import Encoded
from core.data.packing import largest_step, make_row
from core.device import device_of, release, total_bytes
from core.errors import MemoryBudgetError
from core.events import Emit, PhaseChanged
from core.home import cache_folder
from core.plan.memory import PIECES, StepBytes, probe
from core.plan.planner import SHARE, Situation, make_plan, minimum_budget
from core.plan.profile import VERSION, WIDTHS, Profile, measure, unknown_prices
from core.plan.types import Plan
from core.quant.schemes import Scheme

LEAST_TOKENS = 256  # of the class's text; below, the statistics are too poor to plan on
EPOCHS_SEEN = 4  # whose largest step counts; a larger one later takes one more pass
KEPT_PROFILES = 16  # each holds a few vectors of every layer

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Planned:
    """A plan with what it was made from.

    ``row``: ids, positions and labels (T,) of the class's own text. ``tight``: whether tables must
    be held in 8 bits while the model is measured or rounded.
    """

    plan: Plan
    profile: Profile
    row: Rows
    tight: bool


def plan_for(
    config: RunConfig,
    path: Path,
    encoded: Sequence[Encoded],
    shared: int,
    data_sha256: str,
    emit: Emit,
) -> Planned:
    """Plan a run, measuring the model on the class if that has not been done.

    Args:
        config: settings and budget.
        path: local folder of the base model.
        encoded: training examples.
        shared: tokens with which all of them begin, which a row holds once.
        data_sha256: hash of the frozen data.
        emit: receives the progress.

    Raises:
        MemoryBudgetError: if not even the measurement fits into the budget.
    """
    emit(PhaseChanged("profile", 0.0))
    device = device_of(config.device)
    found = probe(path, device)
    step, process = found.step, found.process
    shape = shape_of(path)
    budget = config.budget_bytes * SHARE if config.budget_bytes else float("inf")
    pieces = PIECES if device.type == "cpu" else 0
    room = budget - process - pieces - shape["fixed"] - shape["tables_8"]
    tokens = calibration_tokens(config, step, shape["pricing"], room)
    row = calibration_row(encoded, tokens, shared)
    folder = cache_folder() / "profiles" / _key(config, path, encoded, len(row[0]))
    profile = Profile.load(folder)
    peak = _profile_peak(step, shape, row)
    tight = room < peak + shape["tables_16"] - shape["tables_8"]
    longest = max(len(e.ids) for e in encoded)
    situation = Situation(
        prices=profile.prices if profile else unknown_prices(shape["linears"]),
        step=step,
        process=process,
        fixed=shape["fixed"],
        tables=shape["tables"],
        longest=longest,
        own=largest_step(
            encoded,
            config.train.tokens_per_step,
            config.train.seed,
            EPOCHS_SEEN,
            shared,
        ),
        shared=shared,
        profile_peak=peak,
        least_profile_peak=step.at(max(LEAST_TOKENS, longest), step.layers) + shape["pricing"],
        model=config.model,
        data_sha256=data_sha256,
        limit=total_bytes(device),
        allocator=pieces,
    )
    if profile is None:
        if peak > room:
            minimum = minimum_budget(config, situation)
            action = f"Raise the budget to {minimum / MB:.0f} MB."
            raise does_not_fit(config.budget_bytes, minimum, action)
        _forget_old(folder.parent)
        release()  # a tokenizer with many words takes far more while it is read than it keeps
        profile = measure(
            path,
            row,
            folder,
            emit,
            codebook=config.quant.scheme,
            group=config.quant.group,
            importance=config.quant.importance,
            widths=WIDTHS,
            embedding_bits=8 if tight else 16,
            device=device,
        )
        release()
        situation = replace(situation, prices=profile.prices)
    emit(PhaseChanged("plan"))
    return Planned(make_plan(config, situation), profile, row, tight)


def does_not_fit(budget_bytes: int, minimum_budget_bytes: int, action: str) -> MemoryBudgetError:
    """The error for a budget (bytes) under the smallest that works."""
    return MemoryBudgetError(
        f"The run does not fit into {budget_bytes / MB:.0f} MB.",
        minimum_budget_bytes=minimum_budget_bytes,
        action=action,
    )


def calibration_row(encoded: Sequence[Encoded], tokens: int, shared: int = 0) -> Rows:
    """Ids, positions and labels (T,) of about ``tokens`` tokens of examples from all the class."""
    by_hash = sorted(
        range(len(encoded)),
        key=lambda k: hashlib.blake2b(str(encoded[k].ids).encode(), digest_size=8).digest(),
    )
    members: list[int] = []
    used = shared
    for k in by_hash:
        own = len(encoded[k].ids) - shared
        if members and used + own > tokens:
            continue
        members.append(k)
        used += own
    row = make_row(encoded, members, shared)
    return torch.tensor(row.ids), torch.tensor(row.position_ids), torch.tensor(row.labels)


def calibration_tokens(config: RunConfig, step: StepBytes, pricing: int, room: float) -> int:
    """Tokens to measure on, so that step and ``pricing`` (bytes) stay within ``room`` bytes."""
    tokens = config.quant.calibration_tokens
    while tokens > LEAST_TOKENS and step.at(tokens, step.layers) + pricing > room:
        tokens //= 2
    return max(tokens, min(LEAST_TOKENS, config.quant.calibration_tokens))


def _profile_peak(step: StepBytes, shape: dict[str, Any], row: Sequence[torch.Tensor]) -> int:
    return int(step.at(len(row[0]), step.layers) + shape["pricing"])


def shape_of(path: Path) -> dict[str, Any]:
    """Tables, small parameters and the largest layer of a model, in bytes."""
    model = modelload.empty_model(path)
    targets = modelload.linear_targets(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = modelload.decoder_parts(model).tied
    tables = (
        [(embedding.num_embeddings, embedding.embedding_dim)]
        if tied
        else [
            (embedding.num_embeddings, embedding.embedding_dim),
            (head.out_features, head.in_features),
        ]
    )
    held = {id(embedding.weight), id(head.weight), *(id(m.weight) for m in targets.values())}
    fixed = sum(p.numel() * 4 for p in model.parameters() if id(p) not in held)
    shapes = [modelload.linear_shape(m) for m in targets.values()]
    largest = max(o * i for o, i in shapes)
    widest = max(i for _, i in shapes)
    return {
        "linears": [(name, *linear) for name, linear in zip(targets, shapes, strict=True)],
        "tables": tables,
        "tables_8": sum(Scheme(8).stored_bytes(*t) for t in tables),
        "tables_16": sum(Scheme(16).stored_bytes(*t) for t in tables),
        "fixed": fixed,
        # Pricing or rounding a layer holds about six copies of its weight (read, stacked, codes,
        # error, whitened, work space) and five of its input's second moments, each fp32.
        "pricing": 4 * (6 * largest + 5 * widest * widest),
    }


def _key(config: RunConfig, path: Path, encoded: Sequence[Encoded], tokens: int) -> str:
    """Name of the measurement of this model on this class."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    digest.update((path / "config.json").read_bytes())
    quant = config.quant
    measured = f"{VERSION} {quant.scheme} {quant.group} {quant.importance} {tokens}\n"
    digest.update(measured.encode())
    for e in encoded:
        digest.update(str(e.ids).encode())
    return digest.hexdigest()[:24]


def _forget_old(folder: Path) -> None:
    """Keep the disk from filling with measurements; they can be made again."""
    if folder.is_dir():
        old = sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in old[KEPT_PROFILES - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
