"""The adapted model at step 0: codes as planned, triplets that cancel the quantization error.

With weights below 8 bits the first triplets are the error block, the truncated decomposition that
priced the layer: adapted layer and original layer then agree on the class's text as well as this
rank allows. What rank is left over is the task block: V holds the leading right singular vectors of
the task gradient, U is zero, so that the function is unchanged and the first step of U goes where
the loss falls fastest (after LoRA-GA, Wang et al. 2024; our interpretation).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from core.adapters.basis import Bases, residual_of
from core.assemble import LanguageModel, build
from core.layers.lora import AdapterLinear
from core.layers.spectral import SpectralLinear
from core.plan.types import LinearPlan, Plan
from core.quant.lowrank import product_svd
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

Candidate = Callable[[int], dict[str, Tensor]]


def scheme_of(plan: Plan, linear: LinearPlan, group: int) -> Scheme:
    """The storage format that a plan gives a layer."""
    nf4 = linear.bits == 4 and plan.scheme == "nf4"
    return Scheme(linear.bits, group, "nf4" if nf4 else "affine")


def start_model(
    path: Path,
    plan: Plan,
    group: int,
    candidate: Candidate,
    *,
    gate: float = 1.0,
    bases: Bases | None = None,
    device: torch.device | None = None,
    on_linear: Callable[[LinearPlan, int, int], None] = lambda linear, done, total: None,
) -> LanguageModel:
    """Build the model of ``plan`` with its adapters at their start.

    Args:
        path: local folder of the base model.
        plan: bits and ranks.
        group: weights that share a scale.
        candidate: codes and triplets of the linear layer with this index.
        gate: s of the task block, see :func:`core.plan.rounding.task_gate`.
        bases: singular directions, where their values are what trains; None: triplets train.
        device: where it runs.
        on_linear: called after each layer.
    """
    by_name = {p.name: (k, p) for k, p in enumerate(plan.linears)}

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> AdapterLinear:
        index, linear = by_name[name]
        found = candidate(index)
        scheme = scheme_of(plan, linear, group)
        layer = adapted_linear(name, found, scheme, read, bias, transposed, bases)
        if bases is None:
            layer.set_triplets(*_triplets(found, linear, gate))
        on_linear(linear, index + 1, len(plan.linears))
        return layer

    return build(path, store, embedding_bits=plan.embedding_bits, device=device)


def adapted_linear(
    name: str,
    found: dict[str, Tensor],
    scheme: Scheme,
    read: Callable[[], Tensor],
    bias: Tensor | None,
    transposed: bool,
    bases: Bases | None,
) -> AdapterLinear:
    """One layer with its adapter empty, or at its start where singular values train.

    Args:
        name: of the layer.
        found: its codes, if it was rounded.
        scheme: how it is stored.
        read: gives the weight (o, i) of the base.
        bias: (o,).
        transposed: the base keeps the weight as (i, o).
        bases: see :func:`start_model`.
    """
    if bases is None:
        return AdapterLinear(stored_weight(found, scheme, read), bias, transposed=transposed)
    weight = read()
    basis = bases.of(name, weight)
    return SpectralLinear(
        stored_weight(found, scheme, lambda: residual_of(weight, basis, scheme)),
        basis.triplets,
        bias,
        transposed=transposed,
        additive=bases.additive,
    )


def stored_weight(
    found: dict[str, Tensor], scheme: Scheme, read: Callable[[], Tensor]
) -> QuantizedWeight:
    """Codes rounded on the class's text; rounded to nearest at 8 bits, kept at 16."""
    weight = read()
    if "codes" not in found:
        return QuantizedWeight.from_dense(weight, scheme)
    stored = QuantizedWeight(scheme, *weight.shape)
    for key in ("codes", "scale", "zero"):
        if key in found:
            stored.register_buffer(key, found[key].to(weight.device))
    return stored


def _triplets(
    found: dict[str, Tensor], linear: LinearPlan, gate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """U (o, r), s (r), V (r, i) with rows of length 1; without U and V all is task block."""
    r, o, i = linear.rank, linear.out_features, linear.in_features
    error = linear.error_rank if "U" in found else 0
    U, V = torch.zeros(o, r), torch.zeros(r, i)
    if error:
        left, values, right = product_svd(found["U"], found["V"])
        k = len(values)
        U[:, :k], V[:k] = left * values, right
    task = found["task"].float()[: r - error]
    V[error : error + len(task)] = task / task.norm(dim=1, keepdim=True).clamp_min(1e-12)
    s = torch.ones(r)
    s[error:] = gate
    return U, s, V
