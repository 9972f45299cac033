"""Training parameters of a model as they are: optimizer, checkpoints, and back.

All weights of a small model, or what another library has put into a frozen one: whatever has a
gradient. Number, gradient and two moments take 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

WEIGHT, MOMENT = "weight.", "optim."
_MATRIX = 2  # dimensions; norms and biases have fewer and are not decayed


def whole_optimizer(
    model: nn.Module, extra: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over what trains of ``model``, and ``extra``; only matrices are decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.dim() >= _MATRIX]
    rest = [p for p in parameters if p.dim() < _MATRIX]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [*rest, *extra], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99), fused=True
    )


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def whole_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What trains and its moments by name, for a checkpoint."""
    found: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        found[f"{WEIGHT}{name}"] = parameter.data
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{MOMENT}{name}.{key}"] = value
    return found


def restore_whole(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Take what trains, and moments where an optimizer is given, back from a checkpoint."""
    for name, parameter in _trained(model):
        parameter.data.copy_(tensors[f"{WEIGHT}{name}"])
        prefix = f"{MOMENT}{name}."
        if optimizer is not None and f"{prefix}exp_avg" in tensors:
            optimizer.state[parameter] = {
                key: tensors[prefix + key].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
