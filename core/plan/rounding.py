"""Rounds the linear layers to the bits that a plan gave them, on the class's own text.

One forward pass of the base model: every layer below 8 bits is rounded with error feedback on the
inputs it sees, and what rounding leaves is decomposed, whitened by inputs and sensitivity. The
leading triplets, unwhitened, are the adapter that cancels most of it (after CLoQ 2025, with a
diagonal output factor: our interpretation). The pass goes on with the rounded layer and its
adapter, so that every layer is rounded for the inputs that it will have (after GPTQ).

Shapes: N tokens, i inputs, o outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.adapters.basis import Bases
from core.plan.measured import InputMoments, MeasuredLinear, MomentsOfLast, measured_model
from core.plan.profile import Profile
from core.plan.types import LinearPlan, Plan
from core.quant.gptq import round_with_feedback
from core.quant.lowrank import weighted_fit
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

Candidate = Callable[[int], dict[str, Tensor]]
# What the first step at the default rate may take off the loss by its linear prediction, in nats
# per answer token; measured on two models (docs/log.md).
FIRST_STEP, REFERENCE_RATE = 1.5, 1e-3


def round_linears(
    path: Path,
    row: tuple[Tensor, Tensor, Tensor],
    plan: Plan,
    profile: Profile,
    folder: Path,
    *,
    group: int = 64,
    error_start: bool = True,
    embedding_bits: int = 16,
    bases: Bases | None = None,
    device: torch.device | None = None,
    on_linear: Callable[[LinearPlan, int, int], None] = lambda linear, done, total: None,
) -> Candidate:
    """Round what the plan stores below 8 bits; write the results into ``folder``.

    Args:
        path: local model folder.
        row: the class's own text: ids, positions, labels (T,).
        plan: bits and ranks.
        profile: what the plan was made from.
        folder: exists; one file a layer.
        group: weights that share a scale.
        error_start: whether adapters start by cancelling the error.
        embedding_bits: 8 or 16, of the tables meanwhile.
        bases: singular directions that are kept as they are, so that only the rest is rounded.
        device: where it runs.
        on_linear: called after each layer that was rounded.

    Returns:
        A function from the index of a linear layer to its tensors: ``task`` and, where it was
        rounded, ``codes``, ``scale``, ``zero`` and, for r = ``error_rank``, ``U`` (o, r) and
        ``V`` (r, i).
    """
    below = {p.name: (k, p) for k, p in enumerate(plan.linears) if p.bits < 8}
    if below:
        rounder = _Rounder(plan, profile, folder, group, below, on_linear, error_start=error_start)
        rounder.bases = bases
        model, layers = measured_model(path, embedding_bits, device)
        for name in below:
            layers[name].on_forward = rounder.round
        with torch.no_grad():
            model.hidden(*(t.to(model.device) for t in row[:2]))

    def candidate(index: int) -> dict[str, Tensor]:
        file = folder / f"{index}.safetensors"
        return profile.tensors(index) | (load_file(file) if file.is_file() else {})

    return candidate


def task_gate(plan: Plan, profile: Profile, *, error_start: bool = True) -> float:
    """Return s at which the task block starts, at most 1: one first step for every model.

    An optimizer that moves every number of U by the learning rate changes the loss the more, the
    steeper it is along the rows of V, and these are the steepest there are. So the loss that a
    first step at ``REFERENCE_RATE`` would take off, were it linear, is limited to ``FIRST_STEP``
    nats per answer token. The gate changes no step of U, only its effect.
    """
    slope = 0.0
    for index, linear in enumerate(plan.linears):
        cancels = error_start and linear.bits < 8
        rank = linear.rank - (linear.error_rank if cancels else 0)
        slope += float(profile.tensors(index)["slope"][:rank].sum())
    return min(1.0, FIRST_STEP / max(1e-12, REFERENCE_RATE * slope))


class _Rounder:
    """Rounds one layer at a time and writes it down."""

    def __init__(
        self,
        plan: Plan,
        profile: Profile,
        folder: Path,
        group: int,
        below: dict[str, tuple[int, LinearPlan]],
        on_linear: Callable[[LinearPlan, int, int], None],
        *,
        error_start: bool,
    ) -> None:
        self.error_start = error_start
        self.profile, self.folder, self.group = profile, folder, group
        self.below, self.on_linear = below, on_linear
        self.codebook = plan.scheme
        self.moments = MomentsOfLast()
        self.done = 0
        self.bases: Bases | None = None

    @torch.no_grad()
    def round(self, layer: MeasuredLinear, weight: Tensor, x: Tensor) -> Tensor:
        """Round ``weight`` (o, i) on inputs x (N, i); returns what stands for it at the start."""
        index, linear = self.below[layer.name]
        rank = linear.error_rank if self.error_start else 0
        sensitivity = self.profile.tensors(index)["sensitivity"].to(weight.device)
        scheme = Scheme(linear.bits, self.group, self.codebook)
        part = self._kept_part(layer.name, weight)
        kept, effective = rounded_layer(
            weight if part is None else weight - part,
            self.moments.of(x),
            sensitivity,
            scheme,
            rank,
        )
        tensors = {k: t.contiguous().cpu() for k, t in kept.items()}
        save_file(tensors, self.folder / f"{index}.safetensors")
        self.done += 1
        self.on_linear(linear, self.done, len(self.below))
        return effective if part is None else effective.add_(part)

    def _kept_part(self, name: str, weight: Tensor) -> Tensor | None:
        """What of ``weight`` (o, i) is kept as it is; None: nothing."""
        if self.bases is None:
            return None
        return self.bases.of(name, weight).part().to(weight.device)


def rounded_layer(
    weight: Tensor, moments: InputMoments, sensitivity: Tensor, scheme: Scheme, rank: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Round one layer and fit its adapter.

    Args:
        weight: W (o, i).
        moments: of its inputs.
        sensitivity: D^1/2 (o,).
        scheme: below 8 bits; with feedback where it is affine, to nearest where it is NF4.
        rank: triplets that cancel the error.

    Returns:
        ``codes``, ``scale``, ``zero`` (affine) and ``U`` (o, r), ``V`` (r, i) if r > 0, and what
        then stands for the weight (o, i).
    """
    if scheme.codebook == "nf4":
        stored = QuantizedWeight.from_dense(weight, scheme)
    else:
        rounded = round_with_feedback(
            weight, moments.gram, (scheme.bits,), scheme.group, upper=moments.inverse_upper
        )[scheme.bits]
        stored = rounded.stored(scheme, weight.shape[1])
    kept, effective = dict(stored.named_buffers()), stored.dequantize()
    if rank:
        kept["U"], kept["V"] = weighted_fit(weight - effective, sensitivity, moments.lower, rank)
        effective.addmm_(kept["U"], kept["V"])
    return kept, effective
