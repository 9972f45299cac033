"""AdaLoRA in our loop: its regularisation, and the ranks that PEFT's allocator moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.adapters.peers import orthogonality
from core.data.packing import Row
from core.dense import DenseModel
from core.events import Emit, RanksChanged

_KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of PEFT's allocator, each by parameter name


class Regularised:
    """The answer loss and, once a step, the distance of both factors from orthonormal ones."""

    def __init__(self, model: DenseModel, peft: Any) -> None:
        """Take the model, and PEFT's model around it."""
        self._model, self._peft = model, peft

    def loss(self, row: Row, step: int, share: float) -> tuple[Tensor, float]:
        """Both for a row, whose part of the step is ``share``; and the answer loss alone."""
        device = self._model.device
        parts = (row.ids, row.position_ids, row.labels)
        answers = self._model.loss(*(torch.tensor(part, device=device) for part in parts))
        return answers + orthogonality(self._peft), float(answers.detach())

    def step_done(self, step: int, emit: Emit) -> None:
        """Nothing to do."""


class Allocation:
    """Lets PEFT's allocator count importance and mask triplets after every step."""

    def __init__(self, peft: Any, emit: Emit) -> None:
        """Take PEFT's model; ``emit`` hears of ranks that change."""
        self._peft, self._emit = peft, emit
        self._settings = peft.peft_config["default"]
        self._told: dict[str, int] = {}

    def after_move(self, step: int, finite: bool) -> None:
        """Count from 1, since the last step is the one that fixes the ranks.

        A step that was skipped says nothing about importance: its gradients count as none.
        """
        if not finite:
            for parameter in self._peft.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        self._peft.base_model.update_and_allocate(step + 1)
        pattern = self._settings.rank_pattern or {}
        ranks = {_layer(name): int(sum(kept)) for name, kept in pattern.items()}
        changed = {name: r for name, r in ranks.items() if self._told.get(name) != r}
        if changed:
            self._told |= changed
            self._emit(RanksChanged(step + 1, changed, "budget"))

    def tensors(self) -> dict[str, Tensor]:
        """Importance of all trained numbers, for a checkpoint."""
        allocator = self._peft.base_model.rankallocator
        return {
            f"adalora.{kind}.{name}": tensor
            for kind in _KINDS
            for name, tensor in getattr(allocator, kind).items()
        }

    def state(self) -> dict[str, Any]:
        """Which triplets are left, for a checkpoint."""
        return {"rank_pattern": self._settings.rank_pattern}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take both back."""
        allocator = self._peft.base_model.rankallocator
        for kind in _KINDS:
            prefix = f"adalora.{kind}."
            found = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            setattr(allocator, kind, found)
        self._settings.rank_pattern = state["rank_pattern"]


def _layer(name: str) -> str:
    """``model.layers.0.mlp.up_proj`` of ``...up_proj.lora_E.default``."""
    return name.partition(".lora_")[0].removeprefix("base_model.model.")
