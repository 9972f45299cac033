"""``python -m core.plan.probe FOLDER DEVICE``: bytes of a step and of an idle training process.

What an idle process keeps is measured on a real step, of the model's first blocks with zeros for
weights. Where these are too large, a narrow model of the same architecture stands for it (on the
starter 436 MB against 442), and the step is counted on shapes.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core import modelload, workspace
from core.assemble import skeleton
from core.data.chat import ChatFormat
from core.device import held_bytes, release
from core.plan.memory import StepBytes, measure_step

LARGEST_REAL = 10**9  # bytes of the zeros of a few blocks and the tables
# Of a fast tokenizer that is not there: resident bytes of each token, measured on the starter's.
TOKEN_BYTES = 350
NARROW = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 2048,
}


def main(arguments: list[str]) -> int:
    """Print one JSON document: ``process`` (bytes) and ``step`` (:class:`StepBytes`)."""
    path, device = Path(arguments[0]), torch.device(arguments[1])
    tokenizer: Any = None
    if (path / "tokenizer.json").is_file():
        tokenizer = ChatFormat.of(modelload.load_tokenizer(path))
    step: StepBytes | None = None
    if 2 * sum(p.numel() for p in skeleton(path, 3).parameters()) <= LARGEST_REAL:
        step = measure_step(path, device, tensors=contextlib.nullcontext())
    else:
        _narrow_step(path, device)
    parameter = torch.nn.Parameter(torch.zeros(64, 64, device=device))
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()
    workspace.forget()  # it is counted as part of the step
    release()
    process = held_bytes(device)
    if tokenizer is None:
        process += modelload.load_config(path).vocab_size * TOKEN_BYTES
    # Only now: what counting on shapes imports, no training process holds.
    step = step or measure_step(path, device)
    sys.stdout.write(json.dumps({"process": process, "step": asdict(step)}) + "\n")
    return 0


def _narrow_step(path: Path, device: torch.device) -> None:
    """Run steps of a narrow model of the architecture of the one at ``path``."""
    config = modelload.load_config(path)
    for name, value in NARROW.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # beyond the vocabulary
        setattr(config, name, None)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        measure_step(Path(folder), device, tensors=contextlib.nullcontext())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
