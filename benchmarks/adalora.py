"""What PEFT leaves to the caller of AdaLoRA: schedule, penalty, and the count at the end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

INITIAL_RANK = 1.5  # AdaLoRA starts with this multiple of the rank it ends with
INITIAL_PHASE, FINAL_PHASE = 0.1, 0.25  # parts of its steps with a constant budget


def schedule(rank: int, steps: int) -> dict[str, Any]:
    """Arguments of ``AdaLoraConfig`` for a mean rank at the end of so many steps."""
    return {
        "init_r": math.ceil(INITIAL_RANK * rank),
        "target_r": rank,
        "total_step": steps,
        "tinit": int(INITIAL_PHASE * steps),
        "tfinal": int(FINAL_PHASE * steps),
    }


def orthogonality(model: Any) -> Tensor:
    """Return weight * mean ``|P P^T - I|`` over both factors (r, n) of all layers, a scalar."""
    distances = []
    for name, factor in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            P = factor if ".lora_A." in name else factor.T
            identity = torch.eye(P.shape[0], dtype=P.dtype, device=P.device)
            distances.append(torch.linalg.matrix_norm(P @ P.T - identity))
    weight: float = model.peft_config["default"].orth_reg_weight
    return weight * torch.stack(distances).mean()


def trained_numbers(model: Any) -> int:
    """Return how many numbers of an adapter of PEFT take part at the end of training."""
    pattern = getattr(model.peft_config["default"], "rank_pattern", None)
    if not pattern:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = {name.partition(".lora_E")[0]: sum(mask) for name, mask in pattern.items()}
    return sum(
        rank * sum(n for n in layer_sizes(model, name)) + rank for name, rank in kept.items()
    )


def layer_sizes(model: Any, name: str) -> tuple[int, int]:
    """Return (in_features, out_features) of an adapted layer."""
    layer = model.get_submodule(f"base_model.model.{name}".replace(".model.base_model", ""))
    return layer.in_features, layer.out_features
