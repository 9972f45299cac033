"""Training all weights of a model: optimizer, checkpoints, and back.

For small models only: weights, gradients and two moments take 16 bytes a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

WEIGHT, MOMENT = "weight.", "optim."
_MATRIX = 2  # dimensions; norms and biases have fewer and are not decayed


def whole_optimizer(
    model: nn.Module, extra: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over all weights of ``model`` and ``extra``; only matrices are decayed."""
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.dim() >= _MATRIX]
    rest = [p for p in parameters if p.dim() < _MATRIX]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [*rest, *extra], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), fused=True
    )


def whole_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and moments by name, for a checkpoint."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        found[f"{WEIGHT}{name}"] = parameter.data
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{MOMENT}{name}.{key}"] = value
    return found


def restore_whole(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Take weights, and moments where an optimizer is given, back from a checkpoint."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"{WEIGHT}{name}"])
        prefix = f"{MOMENT}{name}."
        if optimizer is not None and f"{prefix}exp_avg" in tensors:
            optimizer.state[parameter] = {
                key: tensors[prefix + key].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
