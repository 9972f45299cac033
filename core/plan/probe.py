"""``python -m core.plan.probe FOLDER``: bytes of a step and of an idle training process.

What an idle process keeps is measured on a real step, of the model's first blocks with zeros for
weights. Where these are too large, a narrow model of the same architecture stands for it; on the
starter that is 6 MB less (436 MB against 442). The step is counted on shapes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core import modelload
from core.assemble import LanguageModel, skeleton
from core.data.chat import ChatFormat
from core.plan.memory import PROBE_TOKENS, measure_step, peaks, probe_model
from core.process import release, resident_bytes
from core.quant.weight import forget_work_space

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
    path = Path(arguments[0])
    process = _process_bytes(path)
    # Only now: what counting on shapes imports, no training process holds.
    step = measure_step(path)
    sys.stdout.write(json.dumps({"process": process, "step": asdict(step)}) + "\n")
    return 0


def _process_bytes(path: Path) -> int:
    """Resident bytes of this process with a tokenizer, after steps of which nothing is left."""
    tokenizer: Any = None
    if (path / "tokenizer.json").is_file():
        tokenizer = ChatFormat.of(modelload.load_tokenizer(path))
    _work(_real_model(path))
    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()
    forget_work_space()  # it is counted as part of the step
    release()
    unknown = modelload.load_config(path).vocab_size * TOKEN_BYTES if tokenizer is None else 0
    return resident_bytes() + unknown


def _work(model: LanguageModel) -> None:
    for on in (True, False):
        model.set_checkpointing(on)
        for tokens in PROBE_TOKENS:
            peaks(model, tokens)


def _real_model(path: Path) -> LanguageModel:
    """The first blocks of the model at ``path``, or of a narrow one like it."""
    model = skeleton(path, 3)
    if 2 * sum(p.numel() for p in model.parameters()) <= LARGEST_REAL:
        return probe_model(model)
    config = modelload.load_config(path)
    for name, value in NARROW.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # beyond the vocabulary
        setattr(config, name, None)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return probe_model(skeleton(Path(folder), 3))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
