"""Adapters of the library PEFT on a model of ``transformers``: made, kept, and loaded again.

W (o, i) is the weight of a linear layer of a decoder block, dense or in NF4; every such layer gets
an adapter of rank r. A (r, i) and B (o, r) are PEFT's ``lora_A`` and ``lora_B``, and its scale is
``lora_alpha`` / r. There is no dropout, so that a resumed run is the same run.

On disk an adapter is the folder that PEFT itself writes and reads: ``adapter_config.json`` and
``adapter_model.safetensors``. What its base is stored in stands in the folder's manifest.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core import modelload
from core.adapters.finite import check_finite
from core.config import RunConfig
from core.manifest import check_manifest, read_manifest, whole_folder, write_manifest

DENSE, NF4 = "dense", "nf4"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PISSA_START = "pissa-start"  # folder of a run: the factors that PiSSA took out of the weights
# Rounds of the randomised SVD that finds them, as PiSSA's authors advise.
PISSA_INIT = "pissa_niter_16"
# AdaLoRA begins with this multiple of the rank it ends with, and keeps its budget as it is in these
# first and last parts of the steps.
INITIAL_RANK, INITIAL_PHASE, FINAL_PHASE = 1.5, 0.1, 0.25
_NAME = "default"  # of the one adapter


# --- bases ---------------------------------------------------------------------------------------


def load_base(path: Path, stored: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The frozen model that an adapter is trained on.

    Args:
        path: a checked model folder.
        stored: ``dense`` or ``nf4``.
        dtype: of activations, and of what is not in NF4.
        device: where it goes.

    Raises:
        ConfigError: if bitsandbytes is needed and not installed.
        ModelError: if the model cannot be used.
    """
    if stored == NF4:
        return modelload.load_nf4(path, dtype, device)
    model: Any = modelload.load_dense(path, dtype)
    return model.to(device)


def expanded_base(path: Path, stored: str, dtype: torch.dtype) -> Any:
    """The same weights, dense: what is in NF4 is expanded. For answers and exports, on the CPU."""
    model = load_base(path, stored, dtype, torch.device("cpu"))
    return model.dequantize(dtype).eval() if stored == NF4 else model


# --- adapters ------------------------------------------------------------------------------------


def adapter_config(config: RunConfig, model: Any, steps: int) -> Any:
    """PEFT's settings of a run for a model, whose steps AdaLoRA must know beforehand."""
    from peft import AdaLoraConfig, LoraConfig

    rank, variant = config.adapter.rank, config.peer.variant
    targets = modelload.linear_targets(model)
    common: dict[str, Any] = {
        "target_modules": sorted({name.rpartition(".")[2] for name in targets}),
        "lora_alpha": config.peer.alpha_ratio * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "fan_in_fan_out": not all(isinstance(m, nn.Linear) for m in targets.values()),
    }
    if variant == "adalora":
        return AdaLoraConfig(**adalora_schedule(rank, steps), **common)
    return LoraConfig(r=rank, use_dora=variant == "dora", **common)


def adalora_schedule(rank: int, steps: int) -> dict[str, Any]:
    """Arguments of ``AdaLoraConfig`` for a mean rank at the end of so many steps."""
    return {
        "init_r": initial_rank(rank),
        "target_r": rank,
        "total_step": steps,
        "tinit": int(INITIAL_PHASE * steps),
        "tfinal": int(FINAL_PHASE * steps),
    }


def initial_rank(rank: int) -> int:
    """The rank with which AdaLoRA begins in every layer."""
    return math.ceil(INITIAL_RANK * rank)


def wrapped(
    model: Any, config: RunConfig, steps: int, path: Path, out: Path, *, begun: bool = False
) -> Any:
    """Put an adapter at step 0 into every linear layer of the blocks, which are frozen.

    Args:
        model: what :func:`load_base` gave; changed in place.
        config: which adapter, and how large.
        steps: of the whole run.
        path: the folder of the base model.
        out: the run's folder; keeps where PiSSA began, so that a resumed run begins there too.
        begun: the adapter's numbers will be taken from a checkpoint.

    Returns:
        PEFT's model around ``model``.
    """
    from peft import get_peft_model

    settings, start = adapter_config(config, model, steps), out / PISSA_START
    first = config.peer.variant == "pissa" and not start.is_dir()
    if first:
        settings.init_lora_weights = PISSA_INIT
    torch.manual_seed(config.train.seed)
    peft = get_peft_model(model, settings)
    if first:
        with whole_folder(start) as folder:
            save_file(adapter_tensors(peft), folder / WEIGHTS)
            write_manifest(folder)
    elif config.peer.variant == "pissa":
        _start_as_pissa(peft, start)
    if config.peer.variant == "loftq" and not begun:
        start_as_loftq(peft, modelload.Weights(path))
    for module in model.modules():
        # Outside of training, bitsandbytes rearranges weights on some CPUs in their first product,
        # after which nothing can be trained any more.
        if type(module).__name__ == "Linear4bit" and not hasattr(module, "lora_A"):
            module.training = True
    return peft


def adapter_tensors(peft: Any) -> dict[str, Tensor]:
    """What PEFT writes of an adapter, by name; of AdaLoRA only the ranks that are left."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(peft, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


@torch.no_grad()
def _start_as_pissa(peft: Any, start: Path) -> None:
    """Take the factors of ``start`` out of the weights again, and begin with them."""
    check_manifest(start, contents=True)
    tensors = load_file(start / WEIGHTS)
    for name, layer in adapted(peft).items():
        A, B = (tensors[f"{name}.{key}.weight"] for key in ("lora_A", "lora_B"))
        layer.lora_A[_NAME].weight.copy_(A)
        layer.lora_B[_NAME].weight.copy_(B)
        weight = layer.get_base_layer().weight
        product = layer.get_delta_weight(_NAME)  # (o, i), or as the weight lies
        weight.copy_((weight.float() - product.float()).to(weight.dtype))


def adapted(peft: Any) -> dict[str, Any]:
    """Layers with an adapter, by the names of PEFT's files."""
    return {
        name: module
        for name, module in peft.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer")
    }


@torch.no_grad()
def start_as_loftq(peft: Any, dense: Mapping[str, Tensor]) -> None:
    """Let each adapter start as the best approximation of its layer's quantization error.

    As ``peft.replace_lora_weights_loftq``, one iteration; that function and PEFT's
    ``init_lora_weights="loftq"`` (0.21) compute on a CUDA or XPU device only. Unlike it the factors
    are divided by the adapter's scale, so that what they add is the error itself.

    Args:
        peft: PEFT's model on bitsandbytes layers.
        dense: weights (o, i) by the names of the base model.
    """
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in adapted(peft).items():
        weight = layer.get_base_layer().weight
        rounded = dequantize_4bit(weight.data, weight.quant_state).float()
        original = dense[f"{name.removeprefix('base_model.model.')}.weight"].float()
        U, S, V = torch.linalg.svd(original.to(rounded.device) - rounded, full_matrices=False)
        rank = layer.r[_NAME]
        half = (S[:rank] / layer.scaling[_NAME]).sqrt()
        # Row by row, as a checkpoint gives them back: the order in memory decides the last bits.
        layer.lora_B[_NAME].weight.data = (U[:, :rank] * half).contiguous()
        layer.lora_A[_NAME].weight.data = (half[:, None] * V[:rank]).contiguous()


def orthogonality(peft: Any) -> Tensor:
    """AdaLoRA's regularisation: weight * mean ``|P P^T - I|`` over both factors of all layers.

    PEFT adds it to ``outputs.loss``, which a loss computed from hidden states never sees.
    """
    distances = []
    for name, factor in peft.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            P = factor if ".lora_A." in name else factor.T
            identity = torch.eye(P.shape[0], dtype=P.dtype, device=P.device)
            distances.append(torch.linalg.matrix_norm(P @ P.T - identity))
    weight: float = peft.peft_config[_NAME].orth_reg_weight
    return weight * torch.stack(distances).mean()


# --- on disk -------------------------------------------------------------------------------------


def save_adapter(target: Path, peft: Any, base: str, facts: dict[str, Any], start: Path) -> None:
    """Write an adapter as PEFT does, whole or not at all.

    An adapter that began as PiSSA is written for the model as it was before: B A - B0 A0 as an
    ordinary LoRA of twice the rank, after ``peft.LoraModel.subtract_mutated_init``.

    Args:
        target: the folder to make.
        peft: PEFT's model.
        base: what ``base_model_name_or_path`` says.
        facts: kept in the manifest, ``base_storage`` among them.
        start: where PiSSA began; no folder for the others.

    Raises:
        ModelError: if a number is not finite.
    """
    tensors = adapter_tensors(peft)
    settings = copy.deepcopy(peft.peft_config[_NAME])
    settings.base_model_name_or_path, settings.inference_mode = base, True
    if start.is_dir():
        begun = load_file(start / WEIGHTS)
        tensors = {name: _beside(name, t, begun[name]) for name, t in tensors.items()}
        settings.r, settings.lora_alpha = 2 * settings.r, 2 * settings.lora_alpha
        settings.init_lora_weights = True
    check_finite(tensors)
    with whole_folder(target) as folder:
        settings.save_pretrained(str(folder))
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        write_manifest(folder, **facts)


def _beside(name: str, now: Tensor, begun: Tensor) -> Tensor:
    """[A; A0] (2r, i) or [B, -B0] (o, 2r)."""
    if ".lora_A." in name:
        return torch.cat([now, begun], 0)
    return torch.cat([now, -begun], 1)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in PEFT's own form."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def load_adapter(base: Path, folder: Path, dtype: torch.dtype, *, merged: bool) -> Any:
    """The base, dense, with an adapter that PEFT wrote: a ``transformers`` model on the CPU.

    Args:
        base: the checked folder of its base model.
        folder: the adapter's, whose manifest says in what the base is stored (default: dense).
        dtype: of weights and activations.
        merged: add the adapter to the weights, else leave its layers in place.
    """
    from peft import PeftModel

    stored = str(read_manifest(folder).get("base_storage", DENSE))
    loaded: Any = PeftModel.from_pretrained(expanded_base(base, stored, dtype), str(folder))
    if merged:
        return loaded.merge_and_unload(safe_merge=True).eval()
    return loaded.eval().get_base_model()
