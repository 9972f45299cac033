"""What the tensors of a training hold, byte by byte, beside what the plan gave them.

Bits, ranks and masks move while training; this ledger is what they may not move past. It adds up
``nbytes`` of the real tensors, so a controller that frees less than it says, or a layer stored in
more bits than planned, shows at once and not first in the memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.config import MB
from core.errors import TrainingError
from core.layers.lora import AdapterLinear
from core.plan.trained import MOMENTS
from core.plan.types import Plan

OWN = ("weights", "adapters", "gradients", "optimizer")  # parts of a plan that lie in tensors here


class LedgerError(TrainingError):
    """The tensors of a training have grown past what the plan gave them."""


@dataclass(frozen=True)
class Held:
    """Bytes of all adapted layers and their optimizer.

    Attributes:
        weights: packed codes, or the weights themselves at 16 bits; and frozen directions.
        scales: scales and zero points.
        factors: what is trained: U, s, V, or singular values and row scales.
        gradients: of the factors; where there is none now, what the next step will make.
        moments: of the optimizer, its counters included; likewise.
        masks: masks, gradients of the gates, scores of the rank controller; and what terms of the
            objective and decay remember.
    """

    weights: int
    scales: int
    factors: int
    gradients: int
    moments: int
    masks: int

    @property
    def frozen(self) -> int:
        """Bytes that are stored and never trained."""
        return self.weights + self.scales

    @property
    def trained(self) -> int:
        """Bytes that grow and shrink with the ranks."""
        return self.factors + self.gradients + self.moments + self.masks

    @property
    def total(self) -> int:
        """All of it, as in the middle of a step."""
        return self.frozen + self.trained


def held(
    layers: Mapping[str, AdapterLinear],
    optimizer: torch.optim.Optimizer,
    scores: Iterable[Tensor] = (),
    moments_each: int = MOMENTS["adamw"],
) -> Held:
    """Add up the tensors of ``layers``, of their ``optimizer`` and of the rank controller.

    Args:
        layers: adapted layers by name.
        optimizer: what trains them.
        scores: tensors of the rank controller, of terms and of decay.
        moments_each: numbers that the optimizer will keep for each trained one.
    """
    weights = scales = factors = gradients = moments = 0
    masks = sum(t.nbytes for t in scores)
    for layer in layers.values():
        for key, buffer in layer.quantized.named_buffers():
            if key in ("codes", "dense"):
                weights += buffer.nbytes
            else:
                scales += buffer.nbytes
        weights += layer.basis_bytes
        masks += 2 * layer.m.nbytes  # the gate's gradient is as large
        for p in layer.trained:
            if not p.numel():
                continue
            factors += p.nbytes
            gradients += p.nbytes if p.grad is None else p.grad.nbytes
            state = [v for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
            moments += sum(v.nbytes for v in state) or moments_each * p.nbytes
    return Held(weights, scales, factors, gradients, moments, masks)


@dataclass(frozen=True)
class Ledger:
    """The limits of one run. Bytes.

    Attributes:
        allotted: what the plan gives stored weights and all that is trained.
        other: the plan's other parts: process, tables, activations, what the allocator keeps.
        budget: the person's; 0: none.
    """

    allotted: int
    other: int
    budget: int

    @staticmethod
    def of(plan: Plan) -> Ledger:
        """The limits that ``plan`` sets."""
        own = sum(plan.parts[part] for part in OWN)
        return Ledger(own, sum(plan.parts.values()) - own, plan.budget_bytes)

    def room(self, held: Held) -> int:
        """Bytes by which stored weights may still grow; negative if they have grown too far."""
        limit = self.allotted
        if self.budget:
            limit = min(limit, self.budget - self.other)
        return limit - held.total

    def check(self, held: Held, step: int, spare: int = 0) -> None:
        """Compare what is held with both limits.

        Args:
            held: what :func:`held` counted.
            step: optimizer steps done, for the message.
            spare: bytes held besides, such as what a change would be taken back to.

        Raises:
            LedgerError: if it is more than the plan allotted, or does not fit the budget.
        """
        over = spare - self.room(held)
        if over <= 0:
            return
        raise LedgerError(
            f"The tensors of the training hold {over / MB:.3f} MB more than the plan gave them.",
            where=f"step {step}",
            action="Resume the run from its last checkpoint; "
            "if this happens again, start it anew with fixed ranks and bits.",
            code="train.ledger",
        )
