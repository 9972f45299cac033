"""Terms of the objective beside the loss of the answers, computed on what is trained alone.

    L = CE + sum over terms of lambda_t R_t

A term gives its value and its gradients for what is trained after the loss's backward pass. How
strong it is follows from the two gradients, so that no weight has to be found by trial:

    lambda(t) = w(t) c |dCE| / |dR|

w(t) rises over the first 5 % of the steps and then falls to 0 by a cosine; c is the largest ratio.
A term that is computed every n steps only counts n times. (Our interpretation; the published
abstract names a penalty and gives no formula.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

RISE = 0.05  # of all steps, in which a term comes in

# Gradients of what a layer trains, in its order, by layer: of U (o, R), s (R) and V (R, i), say.
Gradients = dict[str, tuple[Tensor, ...]]


class LossTerm(ABC):
    """A term of the objective.

    Attributes:
        name: under which its values are told and its tensors are stored.
        every: steps from one computation to the next.
    """

    name: ClassVar[str]
    every: int = 1

    @abstractmethod
    def gradients(self) -> tuple[float, Gradients]:
        """Value of R, and its gradients; no gradients where it has none."""

    def weight(self, share: float) -> float:
        """Its strength, 0 to 1, when ``share`` of the steps is behind us."""
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return min(1.0, share / RISE) * fall

    def after_step(self, done: int) -> None:  # noqa: B027 (most terms remember nothing)
        """Look at the state after ``done`` steps."""

    def renew(self, name: str) -> None:  # noqa: B027
        """The stored weight of a layer has changed: what was remembered of it begins anew."""

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by name: for a checkpoint, and for the ledger."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what :meth:`tensors` gave."""


@dataclass(frozen=True)
class Added:
    """What a term did in a step: R, lambda, and the norm of lambda dR divided by that of dCE."""

    name: str
    value: float
    weight: float
    share: float


@torch.no_grad()
def add_term(
    term: LossTerm, layers: Mapping[str, Any], share: float, largest: float
) -> Added | None:
    """Add a term's gradient to that of the loss, which the layers hold.

    Args:
        term: what is added.
        layers: by name, all that train; of each ``trained`` is asked for.
        share: of the steps that is behind us.
        largest: c, norm of the term's gradient beside that of the loss, as a mean over steps.

    Returns:
        What was added; None if the loss has no finite gradient.
    """
    loss = _norm(p.grad for x in layers.values() for p in x.trained if p.grad is not None)
    if not math.isfinite(loss) or loss == 0.0:
        return None
    value, gradients = term.gradients()
    own = _norm(g for found in gradients.values() for g in found)
    wanted = largest * term.every * term.weight(share)
    if own == 0.0 or wanted == 0.0 or not math.isfinite(own):
        return Added(term.name, value, 0.0, 0.0)
    scale = wanted * loss / own
    for name, found in gradients.items():
        for p, g in zip(layers[name].trained, found, strict=True):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            p.grad.add_(g.to(p.grad), alpha=scale)
    return Added(term.name, value, scale / term.every, wanted)


def _norm(tensors: Iterator[Tensor]) -> float:
    """Euclidean norm of all numbers."""
    norms = [t.norm().cpu() for t in tensors if t.numel()]
    return float(torch.stack(norms).double().norm()) if norms else 0.0
