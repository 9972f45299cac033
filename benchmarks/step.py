"""``python -m benchmarks.step``: one training step of ours beside one of the QLoRA recipe.

Four chats of 512, 400, 288 and 176 tokens, answers in the last 40 % of each, rank 16 in every
linear layer, weights in 4 bits: the setting of the published recipe on a small model. Each variant
is a process of its own; see ``benchmarks/README.md`` for the columns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.child import computing
from benchmarks.table import write_results
from core import modelload, models, workspace
from core.assemble import build
from core.home import CHECKOUT
from core.layers.lora import AdapterLinear, adapter_layers
from core.plan.memory import LiveBytes
from core.process import peak_bytes, release, resident_bytes
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

LENGTHS, RANK, ANSWERS, SEED = (512, 400, 288, 176), 16, 0.4, 1
MIB = 2**20
VARIANTS = {
    "ours-lean": "ours, every block recomputed",
    "ours-fast": "ours, activations kept",
    "qlora-fp32": "the recipe in float32",
    "qlora-bf16": "the recipe in bfloat16, as published",
}


@dataclass
class Prepared:
    """A variant ready to run: a step that leaves gradients, and what is trained."""

    step: Callable[[], Tensor]
    trained: list[torch.nn.Parameter]


def chats() -> list[tuple[Tensor, Tensor]]:
    """Ids and labels (T,) of the four chats."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for n in LENGTHS:
        ids = torch.randint(100, 40000, (n,), generator=generator)
        labels = torch.full_like(ids, -100)
        labels[int(n * (1 - ANSWERS)) :] = ids[int(n * (1 - ANSWERS)) :]
        found.append((ids, labels))
    return found


def ours(path: Path, *, recompute: bool) -> Prepared:
    """Our model with our own 4 bits, the chats in one row."""

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> AdapterLinear:
        layer = AdapterLinear(
            QuantizedWeight.from_dense(read(), Scheme(4)),
            bias,
            transposed=transposed,
        )
        o, i = layer.out_features, layer.in_features
        layer.set_triplets(torch.zeros(o, RANK), torch.ones(RANK), torch.randn(RANK, i) / i**0.5)
        return layer

    model = build(path, store)
    model.set_checkpointing(recompute)
    rows = chats()
    ids = torch.cat([r[0] for r in rows])
    labels = torch.cat([torch.cat([r[1][:1] * 0 - 100, r[1][1:]]) for r in rows])
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    trained = [p for x in adapter_layers(model.model).values() for p in x.trained]

    def step() -> Tensor:
        loss = model.loss(ids, positions, labels)
        loss.backward()
        return loss.detach()

    return Prepared(step, [p for p in trained if isinstance(p, torch.nn.Parameter)])


def qlora(path: Path, dtype: torch.dtype) -> Prepared:
    """The recipe: NF4 with double quantization, upcast, dropout, checkpointing, padded chats."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    base = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, quantization_config=quantization, device_map={"": "cpu"}
    )
    prepare: Any = prepare_model_for_kbit_training
    base = prepare(base, gradient_checkpointing_kwargs={"use_reentrant": False})
    adapter = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=0.05,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, adapter)
    model.train()
    rows, longest = chats(), max(LENGTHS)
    pad = torch.nn.functional.pad
    ids = torch.stack([pad(x, (0, longest - len(x))) for x, _ in rows])
    labels = torch.stack([pad(y, (0, longest - len(y)), value=-100) for _, y in rows])
    mask = torch.stack([(torch.arange(longest) < n).long() for n in LENGTHS])

    def step() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        detached: Tensor = loss.detach()
        return detached

    return Prepared(step, [p for p in model.parameters() if p.requires_grad])


def measure(variant: str, path: Path, steps: int) -> dict[str, Any]:
    """Bytes and seconds of a step, optimizer included."""
    torch.manual_seed(SEED)
    libraries = resident_bytes()
    if variant.startswith("ours"):
        prepared = ours(path, recompute=variant == "ours-lean")
    else:
        prepared = qlora(path, torch.bfloat16 if variant == "qlora-bf16" else torch.float32)
    optimizer = torch.optim.AdamW(prepared.trained, lr=1e-4)

    def whole() -> float:
        loss = prepared.step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    loss = whole()  # makes the moments and the work space, which count as fixed from here on
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        whole()
        seconds.append(time.perf_counter() - begun)
    peak = peak_bytes()
    gc.collect()
    release()
    held = workspace.stack_bytes() + workspace.kept_bytes()  # lives between steps, but is no weight
    with LiveBytes() as live:
        prepared.step()
    return {
        "variant": variant,
        "live_bytes": live.peak + held,
        "process_bytes": peak - libraries,
        "seconds": statistics.median(seconds),
        "loss": loss,
        **computing(),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Ratios against both recipes, as Markdown."""
    reference = {r["variant"]: r for r in results if r["variant"].startswith("qlora")}
    head = ["variant", "live, MiB", "process, MiB", "s a step"]
    for name in reference:
        head += [f"live / {name}", f"process / {name}", f"time / {name}"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in results:
        cells = [
            VARIANTS[r["variant"]],
            f"{r['live_bytes'] / MIB:.0f}",
            f"{r['process_bytes'] / MIB:.0f}",
            f"{r['seconds']:.2f}",
        ]
        for other in reference.values():
            keys = ("live_bytes", "process_bytes", "seconds")
            cells += [f"{r[key] / other[key]:.3f}" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Measure all variants, each in a process, and write ``step.md`` and ``step.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--steps", type=int, default=3, help="timed steps; the median counts")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        path = models.ensure_local(models.resolve(options.model))
        modelload.load_config(path)
        sys.stdout.write(json.dumps(measure(options.only, path, options.steps)) + "\n")
        return 0
    results = []
    for variant in options.variants:
        command = [sys.executable, "-m", "benchmarks.step", "--only", variant]
        command += ["--model", options.model, "--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        sys.stdout.write(f"{variant}: {results[-1]}\n")
    document = {"steps": options.steps, "results": results}
    write_results(options.results, "step", document, table(results))
    sys.stdout.write(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
