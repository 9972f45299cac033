"""What is compared, and what one process is told. No torch in here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS = "adaq"
UNLIMITED = "adaq-unlimited"  # ours without a budget: as fast as it can
HALF = "adaq-half"  # ours under half of QLoRA's measured peak
LEAST = "adaq-least"  # ours under the smallest budget that works
UNIFORM = {"uniform-3": 3, "uniform-4": 4}  # ours with the same bits and rank in every layer
OWN = (OURS, UNLIMITED, HALF, LEAST, *UNIFORM)
QLORA = ("qlora-bf16", "qlora-fp32")
# What method pairs is compared with, on the same tokens and head: all weights, PEFT's adapters, the
# singular values of method svd.
PAIR_PEERS = ("full-head", "lora-head", "adalora-head", "svd-head")
RESULT = "result.json"  # what a process writes into its folder


@dataclass(frozen=True)
class Peer:
    """A recipe of other libraries.

    Attributes:
        method: ``lora``, ``qlora``, ``loftq`` or ``adalora``, as PEFT implements it.
        dtype: of the dense weights, of activations and, where weights are in NF4, of the product
            after dequantization: ``bfloat16`` or ``float32``.
        checkpointing: whether activations are recomputed in the backward pass.
        note: one phrase for the table.
    """

    method: str
    dtype: str
    checkpointing: bool
    note: str

    @property
    def quantized(self) -> bool:
        """Whether the frozen weights are in NF4."""
        return self.method in ("qlora", "loftq")


PEERS: dict[str, Peer] = {
    "lora-bf16": Peer("lora", "bfloat16", False, "PEFT LoRA, weights in bfloat16"),
    "lora-fp32": Peer("lora", "float32", False, "PEFT LoRA, weights in float32"),
    "qlora-bf16": Peer(
        "qlora", "bfloat16", True, "PEFT on bitsandbytes NF4, as published: bfloat16 compute"
    ),
    "qlora-fp32": Peer(
        "qlora", "float32", True, "PEFT on bitsandbytes NF4, float32 compute and adapter"
    ),
    "loftq-fp32": Peer(
        "loftq", "float32", True, "QLoRA in float32, the adapter started as in LoftQ, one iteration"
    ),
    "adalora-fp32": Peer("adalora", "float32", False, "PEFT AdaLoRA, weights in float32"),
    "adalora-bf16": Peer("adalora", "bfloat16", False, "PEFT AdaLoRA, weights in bfloat16"),
}
VARIANTS = (*OWN, *PEERS)
NOTES = {
    OURS: "Edu-ADAQ-LoRA, this engine, under the budget",
    UNLIMITED: "this engine without a budget",
    HALF: "this engine under half of QLoRA's measured peak, or the least that works",
    LEAST: "this engine under the smallest budget that works",
    **{
        name: f"this engine with {bits} bits everywhere and one rank, the largest that its plan "
        f"fits into the memory of `{OURS}`"
        for name, bits in UNIFORM.items()
    },
    **{name: peer.note for name, peer in PEERS.items()},
}
# AdaLoRA is given the type that suits a CPU without bfloat16 instructions, unless asked.
ON_REQUEST = ("adalora-bf16", LEAST)
DEFAULT_VARIANTS = tuple(v for v in VARIANTS if v not in ON_REQUEST)


@dataclass(frozen=True)
class Job:
    """One variant with one seed.

    Attributes:
        variant: one of :data:`VARIANTS`.
        seed: of the order of the data and of the adapter's start.
        model: id or folder of the base model.
        data: folder of frozen data, the same for all.
        out: folder that the process may write to.
        steps: optimizer steps.
        rank: mean rank at the end of training.
        lr: peak learning rate; warm-up over 6 % of the steps, then a cosine to a tenth, for all.
        tokens_per_step: tokens of one optimizer step of ours, on average; from it follows the
            batch of the peers, in examples.
        max_length: longest example in tokens; longer answers are cut.
        budget_bytes: of ours; 0 for none.
        questions: quiz questions answered in writing.
        max_new_tokens: longest written answer, in tokens.
        or_least: whether ours takes the smallest budget that works where this one is too small.
        bits: the same for every layer of ours, with one rank; 0: planned layer by layer.
        checkpointing: of ours: ``auto``, ``on`` or ``off``.
        micro_batch_tokens: of one forward pass of ours; 0: as the plan says.
        method: id of a method family, ``before`` (nothing is trained) or one of
            :data:`PAIR_PEERS`, for ``benchmarks.methods``; empty: as ``variant`` says.
        suite: the evaluation suite of the data; empty: a class.
        items: file of the suite's items that are marked; empty: the held-out loss alone is wanted.
        device: ``auto``, ``cpu`` or ``cuda``.
        look_every: steps between looks at the held-out loss; 0: at the start and at the end.
        changes: other settings of ours, by dotted name (``adapter.start``).
    """

    variant: str
    seed: int
    model: str
    data: str
    out: str
    steps: int
    rank: int
    lr: float
    tokens_per_step: int
    max_length: int
    budget_bytes: int
    questions: int
    max_new_tokens: int
    or_least: bool = False
    bits: int = 0
    checkpointing: str = "auto"
    micro_batch_tokens: int = 0
    method: str = ""
    suite: str = ""
    items: str = ""
    device: str = "auto"
    look_every: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), "utf-8")

    @staticmethod
    def load(path: Path) -> Job:
        """Read what :meth:`save` wrote."""
        return Job(**json.loads(path.read_text("utf-8")))
