"""What is compared, and what one process is told. No torch in here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

OURS = "adaq"
UNLIMITED = "adaq-unlimited"  # ours without a budget: as fast as it can
OWN = (OURS, UNLIMITED)
QLORA = ("qlora-bf16", "qlora-fp32")
RESULT = "result.json"  # what a process writes into its folder


@dataclass(frozen=True)
class Peer:
    """A recipe of other libraries.

    Attributes:
        method: ``lora``, ``qlora`` or ``adalora``, as PEFT implements it.
        dtype: of the dense weights, of activations and, for QLoRA, of the product after
            dequantization: ``bfloat16`` or ``float32``.
        checkpointing: whether activations are recomputed in the backward pass.
        note: one phrase for the table.
    """

    method: str
    dtype: str
    checkpointing: bool
    note: str


PEERS: dict[str, Peer] = {
    "lora-bf16": Peer("lora", "bfloat16", False, "PEFT LoRA, weights in bfloat16"),
    "lora-fp32": Peer("lora", "float32", False, "PEFT LoRA, weights in float32"),
    "qlora-bf16": Peer(
        "qlora", "bfloat16", True, "PEFT on bitsandbytes NF4, as published: bfloat16 compute"
    ),
    "qlora-fp32": Peer(
        "qlora", "float32", True, "PEFT on bitsandbytes NF4, float32 compute and adapter"
    ),
    "adalora-fp32": Peer("adalora", "float32", False, "PEFT AdaLoRA, weights in float32"),
    "adalora-bf16": Peer("adalora", "bfloat16", False, "PEFT AdaLoRA, weights in bfloat16"),
}
VARIANTS = (*OWN, *PEERS)
NOTES = {
    OURS: "Edu-ADAQ-LoRA, this engine, under the budget",
    UNLIMITED: "the same without a budget",
    **{name: peer.note for name, peer in PEERS.items()},
}
# AdaLoRA is given the type that suits a CPU without bfloat16 instructions, unless asked.
DEFAULT_VARIANTS = tuple(v for v in VARIANTS if v != "adalora-bf16")


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
        budget_bytes: of :data:`OURS`; 0 for none.
        questions: quiz questions answered in writing.
        max_new_tokens: longest written answer, in tokens.
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

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), "utf-8")

    @staticmethod
    def load(path: Path) -> Job:
        """Read what :meth:`save` wrote."""
        return Job(**json.loads(path.read_text("utf-8")))
