"""A plan: bits and rank of every linear layer, and how one step runs. No torch in here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LinearPlan:
    """What is stored for one linear layer.

    Attributes:
        name: the module's dotted name in the model.
        layer: index of its block, -1 outside the blocks.
        module: short name of its place in the block, e.g. ``q_proj``.
        bits: stored bits per weight (2, 3, 4, 8, 16).
        rank: adapter rank at the start.
        target_rank: rank to which the budget falls at the end of training.
        bytes: stored bytes of codes, scales and adapter (without gradients and moments).
        why: one sentence why.
        error: predicted loss (nats per token) that remains after quantization and adapter.
    """

    name: str
    layer: int
    module: str
    bits: int
    rank: int
    target_rank: int
    bytes: int
    why: str
    error: float = 0.0
    out_features: int = 0
    in_features: int = 0
    why_code: str = ""
    why_values: dict[str, str] = field(default_factory=dict)

    @property
    def error_rank(self) -> int:
        """Triplets that cancel the quantization error at the start; the others are for the task."""
        return (3 * self.rank + 3) // 4


@dataclass(frozen=True)
class Plan:
    """The answer to a budget.

    ``parts`` are predicted bytes at the peak: ``process`` (interpreter and libraries; on a GPU an
    allowance for its context and the work space of its libraries), ``weights``, ``embeddings``,
    ``adapters``, ``gradients``, ``optimizer``, ``activations``, ``allocator`` (what the
    system's or the GPU's leaves unused).
    When ``feasible`` is false the plan is the smallest there is, and ``suggestion`` the smallest
    change that fits.
    """

    feasible: bool
    budget_bytes: int
    minimum_budget_bytes: int
    predicted_peak_bytes: int
    parts: dict[str, int]
    linears: list[LinearPlan]
    micro_batch: int  # tokens of one forward pass
    accumulation: int  # forward passes of one optimizer step
    packing: bool
    checkpointing: str  # "on", "off", or "part": the first ``recomputed`` blocks
    embedding_bits: int
    average_bits: float
    average_rank: float
    method: str
    scheme: str
    model: str
    data_sha256: str
    fused: bool = False  # blocks that keep little for the backward pass, or the library's own
    recomputed: int = 0  # blocks whose activations are recomputed in the backward pass
    dual_gap: float = 0.0
    suggestion: str = ""
    suggestion_values: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries."""
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> Plan:
        """Rebuild a plan from :meth:`to_json`."""
        return Plan(**{**tree, "linears": [LinearPlan(**x) for x in tree["linears"]]})
