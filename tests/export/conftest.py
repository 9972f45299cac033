"""A finished run on a tiny model without training: random triplets stand for what it learns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import modelload
from core.adapters import store
from core.adapters.start import scheme_of
from core.assemble import build
from core.config import RunConfig
from core.data.chat import ChatFormat
from core.data.frozen import freeze
from core.data.split import Split
from core.data.types import Example, data_sha256
from core.evaluate import quiz
from core.layers.lora import AdapterLinear
from core.plan.types import LinearPlan, Plan
from core.quant.weight import QuantizedWeight

BITS = (4, 8, 3, 16, 2)
QUIZ = (
    Example.pair("What is the capital of France?", "Paris.", "row 2"),
    Example.pair("你好", "学习进步", "row 3"),
    Example.pair("<b>Which</b> planet | is *largest*?", "Jupiter & nothing else", "row 4"),
)
TRAIN = (Example.pair("What is it?", "the answer", "row 5"),)
MakeRun = Callable[..., Path]


FAST = ("llama", "gemma3", "phi3", "gpt2")  # untied, tied and capped, fused, transposed
SLOW = ("mistral", "qwen2", "qwen3", "glm4", "smollm3", "glm", "gemma", "gemma2", "granite")


@pytest.fixture(params=[*FAST, *(pytest.param(a, marks=pytest.mark.slow) for a in SLOW)])
def architecture(request: pytest.FixtureRequest) -> str:
    """Each tried architecture in turn; four of them stand for the others in a quick run."""
    return str(request.param)


@pytest.fixture
def make_run(tiny: Callable[[str], Path], tmp_path: Path) -> MakeRun:
    """Return a function: architecture -> folder of a finished run."""

    def make(architecture: str, *, learned: float = 0.3, **settings: Any) -> Path:
        folder = tmp_path / f"run-{architecture}"
        folder.mkdir()
        path = tiny(architecture)
        config = RunConfig.from_json(
            {"model": str(path), "quiz": {"max_new_tokens": 8}, "name": "Class <7b>", **settings}
        )
        config.save(folder / "config.json")
        _freeze(folder / "data")
        plan = _plan(path)
        (folder / "plan.json").write_text(json.dumps(plan.to_json()), "utf-8")
        _adapter(folder, path, plan, learned)
        (folder / "result.json").write_text(json.dumps(_result(folder, path)), "utf-8")
        return folder

    return make


def _freeze(folder: Path) -> None:
    examples = (*TRAIN, *QUIZ)
    freeze(examples, Split(train=TRAIN, quiz=QUIZ), folder)


def _plan(path: Path) -> Plan:
    linears = []
    for k, (name, module) in enumerate(
        modelload.linear_targets(modelload.empty_model(path)).items()
    ):
        rank = 0 if k == 1 else 3
        out, wide = modelload.linear_shape(module)
        linears.append(
            LinearPlan(
                name=name,
                layer=modelload.block_of(name),
                module=name.rsplit(".", 1)[-1],
                bits=BITS[k % len(BITS)],
                rank=rank,
                target_rank=rank,
                bytes=0,
                why="",
                out_features=out,
                in_features=wide,
            )
        )
    return Plan(
        feasible=True,
        budget_bytes=900_000_000,
        minimum_budget_bytes=1,
        predicted_peak_bytes=800_000_000,
        parts={},
        linears=linears,
        micro_batch=64,
        accumulation=1,
        packing=True,
        checkpointing="off",
        embedding_bits=8,
        average_bits=4.2,
        average_rank=3.0,
        method="adaq",
        scheme="affine",
        model=str(path),
        data_sha256=data_sha256(TRAIN),
    )


def _adapter(folder: Path, path: Path, plan: Plan, learned: float) -> None:
    torch.manual_seed(7)
    by_name = {linear.name: linear for linear in plan.linears}

    def stored(name: str, read: Any, bias: Any, transposed: bool) -> AdapterLinear:
        weight = QuantizedWeight.from_dense(read(), scheme_of(plan, by_name[name], 64))
        return AdapterLinear(weight, bias, transposed=transposed)

    model = build(path, stored, embedding_bits=plan.embedding_bits)
    layers = store.adapted(model)
    for name, layer in layers.items():
        r, o, i = by_name[name].rank, layer.out_features, layer.in_features
        layer.set_triplets(torch.randn(o, r) * 0.05, torch.ones(r), torch.randn(r, i) * 0.2)
    store.save_base(folder, layers)
    for k, layer in enumerate(layers.values()):
        if layer.rank:
            mask = torch.ones(layer.rank)
            mask[0] = float(k % 2)  # in every other layer a triplet is masked
            layer.set_triplets(
                layer.U.data + learned * torch.randn_like(layer.U),
                layer.s.data * (1 + learned),
                layer.V.data + learned * torch.randn_like(layer.V),
                mask if learned else None,
            )
    store.save_adapter(folder, layers, {})


def _result(folder: Path, path: Path) -> dict[str, Any]:
    tokenizer = modelload.load_tokenizer(path)
    base = modelload.load_dense(path, torch.float32)
    tuned, _, chat = store.load_adapted(folder)
    marks = [
        quiz.mark(m, tokenizer, c, QUIZ, questions=3, max_new_tokens=8)
        for m, c in ((base, ChatFormat.of(tokenizer)), (tuned, chat))
    ]
    return {
        "run": folder.name,
        "status": "done",
        "steps": 12,
        "predicted_peak_bytes": 800_000_000,
        "measured_peak_bytes": 790_000_000,
        "budget_bytes": 900_000_000,
        "tokens_per_second": 100.0,
        "seconds": {"total": 100.0},
        "adapter_sha256": "0" * 64,
        "quiz": {"base": marks[0], "tuned": marks[1], "comparison": quiz.compare(*marks)},
    }
