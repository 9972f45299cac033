"""The tuned model as PEFT adapters that plain ``peft`` loads.

An adapter that also cancels quantization error is right only on the quantized base it was trained
on. So there are two:

*learned*: what training changed, ``U_t diag(s_t) V_t - U_0 diag(s_0) V_0``, for the ORIGINAL base.
Its rank is up to the sum of both. Answers differ a little, because the original base has no
quantization error that the rest of the adapter would cancel; the card says by how much.

*exact*: the whole adapter with its own base, the quantized weights written out dense: answers are
the studio's.

PEFT computes ``x + (alpha / r) B A``; ranks differ from layer to layer and ``alpha = r``
everywhere, so that the scale is 1. Shapes: B (out, r), A (r, in), also for GPT-2's ``Conv1D``.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from core import modelload
from core.adapters import peers
from core.data.chat import ChatFormat
from core.errors import ModelError
from core.events import Emit, PhaseChanged
from core.export.card import write_card
from core.export.check import Checked, compared, must_be_equal
from core.export.run import FinishedRun, Tuned, base_name, load_tuned, measured
from core.export.tensors import DenseReader, copy_tokenizer, write_model
from core.layers.lora import AdapterLinear, adapter_layers
from core.manifest import whole_folder, write_manifest

Factors = dict[str, tuple[Tensor, Tensor]]  # layer -> (B, A)
NEGLIGIBLE = 1e-6  # singular values below this share of the largest are rounding


def exact_factors(layers: Mapping[str, AdapterLinear]) -> Factors:
    """B and A of the adapters as they are; layers whose adapter does nothing are left out."""
    found: Factors = {}
    for name, layer in layers.items():
        left, right = layer.factors()
        if left.shape[1]:
            found[name] = left.float().cpu(), right.cpu()
    return found


def learned_factors(layers: Mapping[str, AdapterLinear], start: Mapping[str, Tensor]) -> Factors:
    """B and A of the difference between the adapter now and at step 0, at the least rank.

    Args:
        layers: adapted layers.
        start: state of every layer at step 0, as ``NAME.KEY``.
    """
    found: Factors = {}
    for name, layer in layers.items():
        begun = {key: start[f"{name}.{key}"] for key in layer.STATE}
        B, A = compressed(*layer.learned_factors(begun))
        if B.shape[1]:
            found[name] = B, A
    return found


def compressed(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return B (o, r), A (r, i) with B A = left @ right and the least r.

    left (o, k) and right (k, i) are reduced to a (k, k) core by QR, whose singular values tell the
    rank; both factors get the square root of each.
    """
    if not left.shape[1]:
        return left.float(), right.float()
    Q, R = torch.linalg.qr(left.double())
    P, S = torch.linalg.qr(right.double().t())
    u, values, v = torch.linalg.svd(R @ S.t())
    scale = left.double().norm() * right.double().norm()  # what the difference was taken of
    r = int((values > NEGLIGIBLE * max(float(values[0]), 1e-3 * float(scale))).sum())
    root = values[:r].sqrt()
    B = Q @ (u[:, :r] * root)
    A = (P @ (v[:r].t() * root)).t()
    return B.float().contiguous(), A.float().contiguous()


def write_adapter(folder: Path, factors: Factors, base: str, *, transposed: bool) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: where.
        factors: B and A by layer.
        base: what ``base_model_name_or_path`` says.
        transposed: the base's linear layers are ``Conv1D``.

    Raises:
        ModelError: if nothing was learned, so that there is no adapter.
    """
    from peft import LoraConfig

    if not factors:
        raise ModelError(
            "Training changed nothing, so there is no adapter to export.",
            where=folder.name,
            action="Train for more steps, or with a larger learning rate.",
            code="export.empty",
        )
    ranks = {name: B.shape[1] for name, (B, _) in factors.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        r=usual,
        lora_alpha=usual,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=transposed,
        target_modules=sorted(ranks),
        rank_pattern={n: r for n, r in ranks.items() if r != usual},
        alpha_pattern={n: r for n, r in ranks.items() if r != usual},
    )
    config.save_pretrained(str(folder))
    tensors = {}
    for name, (B, A) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_peft(base: Path, adapter: Path, dtype: torch.dtype) -> Any:
    """Load an adapter with plain ``peft`` and return the model with its layers in place."""
    return peers.load_adapter(base, adapter, dtype, merged=False)


def export_learned(run: FinishedRun, out: Path, emit: Emit) -> dict[str, Any]:
    """Write what was learned, for the original base; load it back and mark it.

    Returns:
        ``files[]``, ``checked{prompts, equal}`` (answers need not all be equal) and ``marks``.

    Raises:
        ModelError: if nothing was learned.
    """
    emit(PhaseChanged("export", 0.0, "answers"))
    tuned = load_tuned(run)
    with whole_folder(out) as folder:
        checked, marks = _learned(run, tuned, folder, emit)
        write_manifest(folder, kind="peft-learned", checked=checked.to_json())
    emit(PhaseChanged("export", 1.0, "done"))
    return _outcome(out, checked, marks)


def export_exact(run: FinishedRun, out: Path, emit: Emit) -> dict[str, Any]:
    """Write the whole adapter and its own base; load both back and compare.

    Returns:
        ``files[]``, ``checked{prompts, equal}`` and ``marks``.

    Raises:
        ModelError: if it answers otherwise than the studio; ``out`` is then as it was before.
    """
    emit(PhaseChanged("export", 0.0, "answers"))
    tuned = load_tuned(run)
    with whole_folder(out) as folder:
        checked, marks = _exact(run, tuned, folder, emit)
        write_manifest(folder, kind="peft-exact", checked=checked.to_json())
    emit(PhaseChanged("export", 1.0, "done"))
    return _outcome(out, checked, marks)


def export_both(run: FinishedRun, out: Path, emit: Emit) -> dict[str, Any]:
    """Write the learned adapter into ``out`` and the exact one into ``out/exact``.

    Returns:
        As :func:`export_exact`, with ``learned`` (``checked`` and ``marks`` of the other one).

    Raises:
        ModelError: as the two.
    """
    emit(PhaseChanged("export", 0.0, "answers"))
    tuned = load_tuned(run)
    with whole_folder(out) as folder:
        learned, learned_marks = _learned(run, tuned, folder, emit)
        (folder / "exact").mkdir()
        checked, marks = _exact(run, tuned, folder / "exact", emit)
        write_manifest(folder, kind="peft", checked=checked.to_json())
    emit(PhaseChanged("export", 1.0, "done"))
    both = {"checked": learned.to_json(), "marks": learned_marks}
    return {**_outcome(out, checked, marks), "learned": both}


def _learned(
    run: FinishedRun, tuned: Tuned, folder: Path, emit: Emit
) -> tuple[Checked, dict[str, Any]]:
    layers = adapter_layers(tuned.model.model)
    factors = learned_factors(layers, tuned.start)
    transposed = any(layer.transposed for layer in layers.values())
    write_adapter(folder, factors, base_name(run), transposed=transposed)
    copy_tokenizer(run.base, folder, tuned.chat.template)
    emit(PhaseChanged("export", 0.2, "check"))
    checked, marks = _loaded_back(run, tuned, run.base, folder)
    write_card(folder / "README.md", run, "peft-learned", checked, marks)
    return checked, marks


def _exact(
    run: FinishedRun, tuned: Tuned, folder: Path, emit: Emit
) -> tuple[Checked, dict[str, Any]]:
    layers = adapter_layers(tuned.model.model)
    base = folder / "base"
    base.mkdir()
    reader = DenseReader(tuned.model, run.base, adapter=False)
    write_model(base, reader, run.base, tuned.chat.template, tuned.dtype)
    transposed = any(layer.transposed for layer in layers.values())
    write_adapter(folder, exact_factors(layers), "base", transposed=transposed)
    copy_tokenizer(run.base, folder, tuned.chat.template)
    emit(PhaseChanged("export", 0.6, "check"))
    checked, marks = _loaded_back(run, tuned, base, folder)
    write_card(folder / "README.md", run, "peft-exact", must_be_equal(checked), marks)
    return checked, marks


def _loaded_back(
    run: FinishedRun, tuned: Tuned, base: Path, folder: Path
) -> tuple[Checked, dict[str, Any]]:
    tokenizer = modelload.load_tokenizer(base)
    chat = ChatFormat.of(tokenizer, tuned.chat.template)
    fresh = load_peft(base, folder, tuned.dtype)
    checked = compared(tuned.answers, fresh, tokenizer, chat, run.prompts)
    marks = measured(run, fresh, tokenizer, chat)
    del fresh
    gc.collect()
    return checked, marks


def _outcome(out: Path, checked: Checked, marks: dict[str, Any]) -> dict[str, Any]:
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"files": files, "checked": checked.to_json(), "marks": marks}
