"""``python -m core.plan.probe MODEL_FOLDER``: bytes of a step and of an idle training process."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from core import modelload, workspace
from core.data.chat import ChatFormat
from core.plan.memory import measure_step
from core.process import release, resident_bytes


def main(arguments: list[str]) -> int:
    """Print one JSON document: ``process`` (bytes) and ``step`` (:class:`StepBytes`)."""
    path = Path(arguments[0])
    tokenizer = modelload.load_tokenizer(path)
    chat = ChatFormat.of(tokenizer)
    step = measure_step(path)
    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()
    workspace.forget()  # it is counted as part of the step
    release()
    sys.stdout.write(json.dumps({"process": resident_bytes(), "step": asdict(step)}) + "\n")
    del chat, tokenizer  # a training process holds them, so they live until it has been measured
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
