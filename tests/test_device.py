"""A run keeps all its tensors on its device; a device that is not there is refused in words."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from core import device, pipeline
from core.adapters import store
from core.assemble import build
from core.config import GB, RunConfig, TrainConfig
from core.errors import ConfigError, MemoryBudgetError
from core.layers.lora import AdapterLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.train.optimizers import make_optimizer

CHECKOUT = Path(__file__).resolve().parent.parent
TREE = {
    "train": {"steps": 12, "tokens_per_step": 96, "max_length": 64, "eval_every": 4},
    "quant": {"calibration_tokens": 96},
    "quiz": {"generate": False},
}


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return RunConfig.from_json({**TREE, "model": str(tiny("llama")), "data": {"path": str(path)}})


def test_cuda_where_there_is_none_is_refused_before_anything_is_written(config, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    asked = replace(config, device="cuda")
    with pytest.raises(ConfigError, match="no GPU"):
        pipeline.run(asked, tmp_path / "run", lambda event: None, lambda: "")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="no GPU"):
        pipeline.plan_run(asked, lambda event: None)


def test_auto_is_the_processor():
    assert device.device_of("auto") == device.device_of("cpu") == torch.device("cpu")


@pytest.fixture
def cuda(monkeypatch):
    """What torch says of a GPU of 8 GB, of which ``free`` is free; the limits that were set."""
    state = {"free": 8 * GB, "limits": []}
    answers = {
        "get_device_properties": lambda place: SimpleNamespace(total_memory=8 * GB),
        "mem_get_info": lambda place: (state["free"], 8 * GB),
        "memory_reserved": lambda place: GB // 4,
        "max_memory_reserved": lambda place: GB // 2,
        "reset_peak_memory_stats": lambda place: None,
        "set_per_process_memory_fraction": lambda share, place: state["limits"].append(share),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return state


def refuse(budget):
    with device.within_budget(torch.device("cuda", 0), budget):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_the_allocator_is_told_the_budget_less_the_context_and_forgets_it(cuda):
    place = torch.device("cuda", 0)
    with device.within_budget(place, GB + device.CONTEXT_BYTES):
        assert cuda["limits"] == [1 / 8]
    assert cuda["limits"][-1] == 1.0
    assert device.held_bytes(place) == GB // 4 + device.CONTEXT_BYTES
    assert device.peak_bytes(place) == GB // 2 + device.CONTEXT_BYTES


def test_memory_refused_by_the_budget_is_told_apart_from_a_gpu_that_is_full(cuda):
    with pytest.raises(MemoryBudgetError, match=r"not fit into 1000 MB.*Raise the budget") as told:
        refuse(GB)
    assert told.value.minimum_budget_bytes > GB
    assert cuda["limits"][-1] == 1.0
    cuda["free"] = GB // 100
    with pytest.raises(torch.OutOfMemoryError):
        refuse(GB)
    cuda["free"] = 8 * GB
    with pytest.raises(torch.OutOfMemoryError):
        refuse(0)


QUANT = {
    "affine": {"bits": 3},
    "nf4": {"scheme": "nf4"},
}


@pytest.mark.parametrize("scheme", ["affine", pytest.param("nf4", marks=pytest.mark.slow)])
def test_a_run_on_another_device_mixes_no_tensors_and_learns_the_same(
    config, tmp_path, monkeypatch, scheme
):
    one = replace(config, quant=replace(config.quant, **QUANT[scheme]))
    one.save(tmp_path / "config.json")
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "tests" / "pretended_device.py"), "config.json", "there"],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    there = json.loads(done.stdout.splitlines()[-1])
    assert there["operations"] > 1000
    monkeypatch.setattr(pipeline, "_quiz", lambda *others: {})
    here = pipeline.run(one, tmp_path / "here", lambda event: None, lambda: "")
    assert there["steps"] == here["steps"] == 12
    assert same_codes(tmp_path) > 0.999
    for ours, theirs in zip(*(deltas(tmp_path / name) for name in ("here", "there")), strict=True):
        assert float((ours - theirs).norm()) <= 1e-2 * float(ours.norm())


def same_codes(folder):
    """Share of stored bytes that both runs have alike (sums in another order round otherwise)."""
    one, other = (
        load_file(folder / n / store.BASE / "codes.safetensors") for n in ("here", "there")
    )
    assert one.keys() == other.keys()
    same = sum(int((one[k] == other[k]).sum()) for k in one)
    return same / sum(math.prod(t.shape) for t in one.values())


def deltas(run):
    """U diag(s) V of every layer: the signs of singular vectors are anyone's choice."""
    tensors = load_file(run / store.ADAPTER / "adapter.safetensors")
    names = [n.removesuffix(".s") for n in tensors if n.endswith(".s")]
    return [(tensors[f"{n}.U"] * tensors[f"{n}.s"]) @ tensors[f"{n}.V"] for n in names]


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return device.device_of("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", [Scheme(3), Scheme(4, 64, "nf4")], ids=str)
def test_a_training_step_on_a_gpu_equals_one_on_the_processor(gpu, tiny, scheme):
    """One step in fp32 to rounding, and in bf16 to its precision."""
    ids = torch.randint(0, 200, (40,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(25), torch.arange(15)])

    def step(place, dtype):
        def store_linear(name, read, bias, transposed):
            stored = QuantizedWeight.from_dense(read().cpu(), scheme)
            layer = AdapterLinear(stored.to(place))
            o, i = layer.out_features, layer.in_features
            generator = torch.Generator().manual_seed(o + i)
            U, V = (torch.randn(s, generator=generator) / 8 for s in ((o, 3), (3, i)))
            layer.set_triplets(U, torch.ones(3), V)
            return layer

        model = build(tiny("llama"), store_linear, device=place, dtype=dtype)
        model.set_checkpointing(True)
        optimizer = make_optimizer(store.adapted(model), TrainConfig())
        row = [t.to(place) for t in (ids, positions, ids)]
        loss = model.loss(*row)
        loss.backward()
        found = [p.grad.cpu() for x in store.adapted(model).values() for p in (x.U, x.s, x.V)]
        optimizer.step()
        return float(loss), torch.cat([g.flatten() for g in found])

    cpu = torch.device("cpu")
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 1e-1)):
        (loss, gradients), (expected, reference) = step(gpu, dtype), step(cpu, torch.float32)
        assert loss == pytest.approx(expected, rel=tolerance)
        assert float((gradients - reference).norm()) < tolerance * float(reference.norm())


@pytest.mark.gpu
def test_a_whole_run_on_a_gpu_keeps_to_its_budget(gpu, config, tmp_path):
    plan = pipeline.plan_run(replace(config, device="cuda", budget_bytes=10**6), lambda event: None)
    assert not plan.feasible
    budget = plan.minimum_budget_bytes + 100 * 10**6
    asked = replace(config, device="cuda", budget_bytes=budget)
    events = []
    result = pipeline.run(asked, tmp_path / "run", events.append, lambda: "")
    assert result["steps"] == 12
    assert result["measured_peak_bytes"] <= budget
    losses = [e.loss for e in events if e.kind == "step"]
    assert losses[-1] < losses[0]
    tuned, _ = store.load_run(tmp_path / "run")  # on the processor again
    assert tuned.device.type == "cpu"


@pytest.mark.gpu
def test_what_would_pass_the_budget_of_a_gpu_is_refused_in_words(gpu):
    budget = device.CONTEXT_BYTES + 64 * 10**6
    large = {"dtype": torch.uint8, "device": gpu}
    with pytest.raises(MemoryBudgetError, match="not fit into"), device.within_budget(gpu, budget):
        torch.empty(256 * 10**6, **large)
    assert torch.empty(256 * 10**6, **large).is_cuda  # no limit is left behind
