"""How many numbers AdaLoRA of PEFT trains in the end."""

from __future__ import annotations

from typing import Any


def trained_numbers(model: Any) -> int:
    """Return how many numbers of the adapter take part at the end of training."""
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
