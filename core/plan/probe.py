"""``python -m core.plan.probe MODEL_FOLDER DEVICE``: bytes of a step and of an idle process."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from core import modelload, workspace
from core.data.chat import ChatFormat
from core.device import held_bytes, release
from core.plan.memory import measure_step


def main(arguments: list[str]) -> int:
    """Print one JSON document: ``process`` (bytes) and ``step`` (:class:`StepBytes`)."""
    path, device = Path(arguments[0]), torch.device(arguments[1])
    tokenizer = modelload.load_tokenizer(path)
    chat = ChatFormat.of(tokenizer)
    step = measure_step(path, device)
    parameter = torch.nn.Parameter(torch.zeros(64, 64, device=device))
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()
    workspace.forget()  # it is counted as part of the step
    release()
    sys.stdout.write(json.dumps({"process": held_bytes(device), "step": asdict(step)}) + "\n")
    del chat, tokenizer  # a training process holds them, so they live until it has been measured
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
