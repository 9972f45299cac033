"""``python -m benchmarks.pair_process JOB.json``: what method ``pairs`` is compared with.

The same base model, tokens, pooling, head, class weights, steps and tokens a step as method
``pairs``; but all weights train (``full-head``), or an adapter of PEFT does (``lora-head``,
``adalora-head``), with one rate, alpha twice the rank and no dropout, or the singular values of our
method ``svd`` do (``svd-head``). The threshold is chosen on the same calibration pairs.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel

from benchmarks.adalora import trained_numbers
from benchmarks.child import computing, write_result
from benchmarks.settings import Job
from core import modelload, models
from core.adapters.basis import kept_basis, residual_of
from core.adapters.peers import adalora_schedule, orthogonality
from core.config import RunConfig
from core.data.packing import Row, Schedule
from core.data.pairs import PairSplit, load_pairs
from core.device import device_of, peak_bytes
from core.evaluate.binary import best_threshold, marks
from core.layers.spectral import SpectralLinear
from core.modelcheck import ENCODERS
from core.objectives.classify import class_weights
from core.pairs.model import PairEncoder, PairModel, Shape
from core.pairs.run import ROW_TOKENS
from core.pairs.train import probabilities
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

ALPHA = 2.0  # lora_alpha over rank, the usual choice
WARM_UP, LAST_RATE = 0.06, 0.1


@dataclass
class Peer:
    """A pair model whose parts are other libraries'.

    Attributes:
        model: pools and classifies; its ``inner`` is a model of ``transformers``, or PEFT's.
        encoder: lays pairs out as its tokens.
        trained: what trains, the head included.
        is_adalora: whether ranks move.
    """

    model: PairModel
    encoder: PairEncoder
    trained: list[Tensor]
    is_adalora: bool

    def numbers(self) -> int:
        """How many numbers take part at the end of training."""
        if self.is_adalora:
            return trained_numbers(self.model.inner) + self.model.head.numel()
        return sum(p.numel() for p in self.trained)

    def groups(self) -> list[dict[str, Any]]:
        """What trains for an optimizer; ``share`` is a group's part of the rate."""
        layers = [m for m in self.model.inner.modules() if isinstance(m, SpectralLinear)]
        diagonal: list[Tensor] = [layer.d for layer in layers]
        known = {id(p) for p in diagonal}
        rest = [p for p in self.trained if id(p) not in known]
        defaults = RunConfig().train
        found: list[dict[str, Any]] = [{"params": rest, "share": 1.0}]
        if diagonal:
            found.append({"params": diagonal, "share": defaults.diagonal_lr / defaults.lr})
        return found


def build(job: Job) -> Peer:
    """Load the base model and let train what the job says."""
    path = models.ensure_local(models.resolve(job.model), encoder=True)
    config = modelload.load_config(path)
    more = {"add_pooling_layer": False} if getattr(config, "type_vocab_size", None) else {}
    device = device_of(job.device)
    inner: Any = AutoModel.from_pretrained(
        path,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        **more,
    ).to(device)
    inner.eval()  # the base model drops nothing, as in ours
    is_encoder = config.model_type in ENCODERS
    model = PairModel(inner, encoder=is_encoder, shape=Shape(), device=device)
    tokenizer = modelload.load_tokenizer(path)
    longest = int(getattr(config, "max_position_embeddings", 0) or job.max_length)
    longest -= model.pad + 1 if config.model_type.endswith("roberta") else 0
    encoder = PairEncoder(tokenizer, encoder=is_encoder, max_length=min(job.max_length, longest))
    if is_encoder:
        model.separator = int(tokenizer.sep_token_id)
    if job.method == "svd-head":
        take_singular_values(inner, int(job.changes.get("adapter.directions", 0)))
    elif job.method != "full-head":
        model.inner = get_peft_model(
            inner, adapter_config(job, list(modelload.linear_targets(inner)))
        )
    trained = [p for p in model.inner.parameters() if p.requires_grad] + [model.head]
    return Peer(model, encoder, trained, job.method == "adalora-head")


def take_singular_values(inner: Any, directions: int) -> None:
    """Let only singular values and row scales of the linear layers train, as method ``svd`` does.

    Args:
        inner: a model of ``transformers``; changed in place.
        directions: of each weight; 0: the studio's default.
    """
    inner.requires_grad_(False)
    for name, module in modelload.linear_targets(inner).items():
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{name} keeps its weight in another order than nn.Linear does.")
        weight = module.weight.detach()
        basis = kept_basis(weight, directions or RunConfig().adapter.directions)
        scheme = Scheme(16)
        residual = QuantizedWeight.from_dense(residual_of(weight, basis, scheme), scheme)
        bias = None if module.bias is None else module.bias.detach()
        inner.set_submodule(name, SpectralLinear(residual, basis.triplets, bias).to(weight.device))


def adapter_config(job: Job, targets: list[str]) -> LoraConfig:
    """PEFT's settings: the layers that ours adapts, the same mean rank."""
    rank = int(job.changes.get("adapter.rank", job.rank))
    common: dict[str, Any] = {
        "target_modules": targets,
        "lora_alpha": ALPHA * rank,
        "lora_dropout": 0.0,
    }
    if job.method == "lora-head":
        return LoraConfig(r=rank, **common)
    return AdaLoraConfig(**adalora_schedule(rank, job.steps), **common)


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step (0, 1, ...): warm-up, then a cosine to a tenth."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2)


def fit(peer: Peer, sides: PairSplit, job: Job) -> float:
    """Train for the job's steps; returns seconds."""
    encoded = peer.encoder.examples(sides.train)
    peer.model.weights = class_weights(torch.tensor([p.same for p in sides.train])).to(
        peer.model.device
    )
    schedule = Schedule(
        encoded,
        tokens_per_step=job.tokens_per_step,
        micro_batch_tokens=max(ROW_TOKENS, *(len(e.ids) for e in encoded)),
        seed=job.seed,
    )
    optimizer = torch.optim.AdamW(peer.groups(), lr=job.lr, weight_decay=0.0)
    begun = time.monotonic()
    for step in range(job.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, job.steps, job.lr) * group["share"]
        one_step(peer, schedule.rows(step), optimizer, step)
    return time.monotonic() - begun


def one_step(peer: Peer, rows: Sequence[Row], optimizer: torch.optim.Optimizer, step: int) -> None:
    """One optimizer step over all its rows, each counted by its pairs."""
    total = sum(row.answer_tokens for row in rows)
    for row in rows:
        ids, positions, labels = map(torch.tensor, (row.ids, row.position_ids, row.labels))
        loss = peer.model.loss(ids, positions, labels) * (row.answer_tokens / total)
        loss.backward()
    if peer.is_adalora:
        orthogonality(peer.model.inner).backward()
    nn.utils.clip_grad_norm_(peer.trained, 1.0)
    optimizer.step()
    if peer.is_adalora:  # while there are gradients; counted from 1, the last step fixes the ranks
        peer.model.inner.base_model.update_and_allocate(step + 1)
    optimizer.zero_grad(set_to_none=True)


def train_and_mark(job: Job) -> dict[str, Any]:
    """Do the job; the fields of the result are those of ``method_process``."""
    torch.manual_seed(job.seed)
    sides = load_pairs(Path(job.data))
    peer = build(job)
    seconds = fit(peer, sides, job)
    peak = peak_bytes(peer.model.device)
    file = Path(job.out) / "trained.safetensors"
    save_file({str(k): p.detach().cpu().contiguous() for k, p in enumerate(peer.trained)}, file)
    found = {
        name: probabilities(peer.model, peer.encoder, pairs)
        for name, pairs in (("calibration", sides.calibration), ("test", sides.test))
    }
    threshold = best_threshold([p.same for p in sides.calibration], found["calibration"])
    tuned = marks([p.same for p in sides.test], found["test"], threshold)
    kept = ("nll", "accuracy", "f1", "mcc", "confusion") if job.items else ("nll",)
    size = file.stat().st_size
    file.unlink()
    return {
        "peak_bytes": peak,
        "seconds": seconds,
        "step_seconds": seconds / job.steps,
        "steps": job.steps,
        "trained_numbers": peer.numbers(),
        "file_bytes": size,
        **{name: tuned[name] for name in kept},
        **computing(),
    }


def main(arguments: list[str]) -> int:
    """Entry: reads the job, writes ``result.json`` into its folder ``out``."""
    job = Job.load(Path(arguments[0]))
    write_result(Path(job.out), train_and_mark(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
