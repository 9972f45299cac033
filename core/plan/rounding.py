"""Rounds the linear layers to the bits that a plan gave them, on the class's own text.

One forward pass of the base model: every layer below 8 bits is rounded with error feedback on the
inputs it sees, and what rounding leaves is decomposed, whitened by inputs and sensitivity. The
leading triplets, unwhitened, are the adapter that cancels most of it (after CLoQ 2025, with a
diagonal output factor: our interpretation).

Shapes: N tokens, i inputs, o outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.plan.measured import MeasuredLinear, MomentsOfLast, measured_model
from core.plan.profile import Profile
from core.plan.types import LinearPlan, Plan
from core.quant.gptq import round_with_feedback
from core.quant.lowrank import truncated_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

Candidate = Callable[[int], dict[str, Tensor]]


def round_linears(
    path: Path,
    row: tuple[Tensor, Tensor, Tensor],
    plan: Plan,
    profile: Profile,
    folder: Path,
    *,
    group: int = 64,
    embedding_bits: int = 16,
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
        embedding_bits: 8 or 16, of the tables meanwhile.
        device: where it runs.
        on_linear: called after each layer that was rounded.

    Returns:
        A function from the index of a linear layer to its tensors: ``task`` and, where it was
        rounded, ``codes``, ``scale``, ``zero``, ``U`` (o, r), ``V`` (r, i).
    """
    below = {p.name: (k, p) for k, p in enumerate(plan.linears) if p.bits < 8}
    if below:
        rounder = _Rounder(plan, profile, folder, group, below, on_linear)
        model, layers = measured_model(path, embedding_bits, device)
        for name in below:
            layers[name].on_forward = rounder.round
        with torch.no_grad():
            model.hidden(*(t.to(model.device) for t in row[:2]))

    def candidate(index: int) -> dict[str, Tensor]:
        file = folder / f"{index}.safetensors"
        return profile.tensors(index) | (load_file(file) if file.is_file() else {})

    return candidate


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
    ) -> None:
        self.profile, self.folder, self.group = profile, folder, group
        self.below, self.on_linear = below, on_linear
        self.nf4 = plan.scheme == "nf4"
        self.moments = MomentsOfLast()
        self.done = 0

    @torch.no_grad()
    def round(self, layer: MeasuredLinear, weight: Tensor, x: Tensor) -> None:
        """Round ``weight`` (o, i) on its inputs x (N, i)."""
        index, linear = self.below[layer.name]
        moments = self.moments.of(x)
        if self.nf4:
            stored = QuantizedWeight.from_dense(weight, Scheme(4, self.group, "nf4"))
        else:
            rounded = round_with_feedback(
                weight, moments.gram, (linear.bits,), self.group, upper=moments.inverse_upper
            )[linear.bits]
            stored = rounded.stored(Scheme(linear.bits, self.group), weight.shape[1])
        kept = dict(stored.named_buffers())
        if linear.rank:
            sensitivity = self.profile.tensors(index)["sensitivity"].to(weight.device)
            error = (weight - stored.dequantize()).mul_(sensitivity[:, None])
            u, s, v = truncated_svd(error @ moments.lower, linear.rank)
            kept["U"] = u * s / sensitivity[:, None]
            kept["V"] = torch.linalg.solve_triangular(moments.lower, v, upper=False, left=False)
        tensors = {k: t.contiguous().cpu() for k, t in kept.items()}
        save_file(tensors, self.folder / f"{index}.safetensors")
        self.done += 1
        self.on_linear(linear, self.done, len(self.below))
