"""The reference of ``benchmarks/quantization.py``: a base model off its old grid, and two texts.

Small models that can be had here come from files that are 4-bit already. On their old grid new
4-bit codes would cost nothing, so every weight of a linear layer gets noise as large as a cell of
that grid: the result is as good as any model that rounds to the published file.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import modelload
from core.data.chat import ChatFormat, Encoded
from core.data.packing import Row, pack_rows
from core.data.types import Example

BLOCK = 32  # weights that share a scale in the files of 4 bits (Q4_1, Q4_K)
LEVELS = 15  # steps of such a block
ROW_TOKENS = 512


def off_the_grid(source: Path, folder: Path, seed: int = 0) -> Path:
    """Write ``source`` with noise in its linear layers into ``folder``; returns it.

    The noise is uniform within half a step to each side, the step of every block of 32 weights
    estimated as (largest - smallest) / 15.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors" and file.name != "MANIFEST.json":
            shutil.copy(file, folder / file.name)
    model = modelload.empty_model(source)
    weights = modelload.Weights(source, model)
    moved = {weights.stored_name(f"{name}.weight") for name in modelload.linear_targets(model)}
    generator = torch.Generator().manual_seed(seed)
    for file in sorted(source.glob("*.safetensors")):
        tensors = load_file(file)
        for name in sorted(moved & set(tensors)):
            tensors[name] = noised(tensors[name], generator)
        save_file(tensors, folder / file.name, metadata={"format": "pt"})
    return folder


def noised(weight: Tensor, generator: torch.Generator) -> Tensor:
    """``weight`` (o, i) moved within the cells of its old grid; i is a multiple of 32."""
    blocks = weight.float().reshape(-1, BLOCK)
    step = (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)) / LEVELS
    noise = torch.rand(blocks.shape, generator=generator).sub_(0.5).mul_(step)
    return (blocks + noise).view_as(weight).to(weight.dtype)


def texts(
    model: Path, calibration: Path, evaluation: Path, tokens: tuple[int, int], seed: int = 0
) -> tuple[list[Row], list[Row]]:
    """Rows of about ``tokens`` tokens of two JSON Lines files, or of two parts of the same file.

    Where both are one file, no example is in both parts.
    """
    chat = ChatFormat.of(modelload.load_tokenizer(model))
    first = _shuffled(calibration, seed)
    second = first[len(first) // 2 :] if evaluation == calibration else _shuffled(evaluation, seed)
    if evaluation == calibration:
        first = first[: len(first) // 2]
    return _rows(chat, first, tokens[0]), _rows(chat, second, tokens[1])


def _shuffled(path: Path, seed: int) -> list[Example]:
    examples = [_example(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    random.Random(seed).shuffle(examples)
    return examples


def _example(record: dict[str, str]) -> Example:
    if "question" in record:
        return Example.pair(record["question"], record["answer"])
    asked = "\n".join(filter(None, (record["instruction"], record.get("input", ""))))
    return Example.pair(asked, record["output"])


def _rows(chat: ChatFormat, examples: list[Example], tokens: int) -> list[Row]:
    return pack_rows(list(_some(chat, examples, tokens)), ROW_TOKENS)


def _some(chat: ChatFormat, examples: list[Example], tokens: int) -> Iterator[Encoded]:
    used = 0
    for example in examples:
        if used >= tokens or not example.question.strip() or not example.answer.strip():
            continue
        encoded = chat.encode(example, ROW_TOKENS)
        used += len(encoded.ids)
        yield encoded
