"""The whole job in this process, on a tiny model: identities that hold whatever is learned."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core import modelload, pipeline
from core.adapters import store
from core.config import RunConfig
from core.errors import MemoryBudgetError, Stopped
from core.plan.types import Plan
from core.quant.weight import QuantizedWeight

TREE = {
    "train": {"steps": 6, "tokens_per_step": 96, "max_length": 64, "eval_every": 3},
    "quant": {"calibration_tokens": 96},
    "quiz": {"questions": 2, "max_new_tokens": 4},
}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return path


@pytest.fixture(scope="module")
def config(tiny, lesson):
    return RunConfig.from_json({**TREE, "model": str(tiny("llama")), "data": {"path": str(lesson)}})


def quiet() -> str:
    return ""


def train(config, out, should_stop=quiet):
    events = []
    return pipeline.run(config, out, events.append, should_stop), events


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """A finished run: folder, result, events."""
    out = tmp_path_factory.mktemp("run") / "a"
    return out, *train(config, out)


def test_every_phase_is_told_and_the_quiz_is_marked(done):
    _, result, events = done
    phases = [e.phase for e in events if e.kind == "phase"]
    order = [p for k, p in enumerate(phases) if p not in phases[:k]]
    assert order == ["data", "profile", "plan", "load", "train", "quiz", "done"]
    assert result["steps"] == 6
    assert math.isfinite(result["quiz"]["base"]["nll"])
    assert math.isfinite(result["quiz"]["tuned"]["nll"])
    assert [e.step for e in events if e.kind == "step"] == [1, 2, 3, 4, 5, 6]


def test_planned_bytes_equal_stored_bytes(done):
    out, *_ = done
    plan = Plan.from_json(json.loads((out / "plan.json").read_text("utf-8")))
    model, _ = store.load_stored(out)
    layers = store.adapted(model)
    store.set_triplets(layers, store.start_triplets(out))
    assert set(layers) == {p.name for p in plan.linears}
    stored = sum(x.quantized.stored_bytes() for x in layers.values())
    assert stored == plan.parts["weights"]
    for p in plan.linears:
        assert layers[p.name].quantized.scheme.bits == p.bits
        assert layers[p.name].rank == p.rank
    table = model.model.get_input_embeddings().table
    assert table.stored_bytes() <= plan.parts["embeddings"]


def test_the_model_that_trains_has_the_weights_that_were_rounded(config, tmp_path):
    """At 3 bits, loading must take the codes on disk: rounding again would give others."""
    quant = replace(config.quant, bits=3)
    one_step = replace(config.train, steps=1)
    quiz = replace(config.quiz, generate=False)
    train(replace(config, quant=quant, train=one_step, quiz=quiz), tmp_path / "t")
    codes = load_file(tmp_path / "t" / store.BASE / "codes.safetensors")
    model, path = store.load_stored(tmp_path / "t")
    weights = modelload.Weights(path, modelload.empty_model(path))
    rounded_again = 0
    for name, layer in store.adapted(model).items():
        assert torch.equal(layer.quantized.codes, codes[f"{name}.codes"])
        assert torch.equal(layer.quantized.scale, codes[f"{name}.scale"])
        nearest = QuantizedWeight.from_dense(weights[f"{name}.weight"], layer.quantized.scheme)
        rounded_again += int(torch.equal(nearest.codes, layer.quantized.codes))
    assert rounded_again == 0


def test_merged_equals_adapted(done):
    out, *_ = done
    model, _ = store.load_run(out)
    ids, positions = torch.randint(0, 200, (12,)), torch.arange(12)
    with torch.no_grad():
        adapted = model.hidden(ids, positions)
        store.make_dense(model)
        merged = model.hidden(ids, positions)
    assert torch.allclose(adapted, merged, atol=1e-4)


def test_stopped_and_resumed_gives_the_same_adapter(config, done, tmp_path):
    asked = iter([""] * 4 + ["stop"] * 99)
    with pytest.raises(Stopped):
        train(config, tmp_path / "b", lambda: next(asked))
    assert not (tmp_path / "b" / "adapter").exists()
    result = pipeline.resume(tmp_path / "b", lambda event: None, quiet)
    assert result["adapter_sha256"] == done[1]["adapter_sha256"]


def test_a_wish_to_stop_is_heard_while_the_model_is_measured(config, tmp_path):
    quant = replace(config.quant, calibration_tokens=140)  # not measured by another test
    told = []

    def wish():
        return "stop" if any(e.kind == "phase" and e.phase == "profile" for e in told) else ""

    with pytest.raises(Stopped):
        pipeline.run(replace(config, quant=quant), tmp_path / "s", told.append, wish)
    assert not (tmp_path / "s" / "plan.json").exists()


def test_a_finished_run_makes_no_further_step(done, tmp_path):
    out, result, _ = done
    (out / "result.json").write_text(json.dumps(result), "utf-8")
    events = []
    assert pipeline.resume(out, events.append, quiet) == json.loads(json.dumps(result))
    assert not [e for e in events if e.kind == "step"]


def test_a_budget_below_the_minimum_names_it_and_the_minimum_works(config, done, tmp_path):
    plan = pipeline.plan_run(replace(config, budget_bytes=10**6), lambda event: None)
    assert not plan.feasible
    assert plan.suggestion
    smallest = plan.minimum_budget_bytes
    assert pipeline.plan_run(replace(config, budget_bytes=smallest), lambda e: None).feasible
    with pytest.raises(MemoryBudgetError) as told:
        train(replace(config, budget_bytes=smallest // 2), tmp_path / "c")
    assert told.value.minimum_budget_bytes > smallest // 2


def test_a_budget_too_small_even_to_measure_names_a_minimum_that_works(config):
    quant = replace(config.quant, calibration_tokens=200)  # not measured by another test
    with pytest.raises(MemoryBudgetError) as told:
        pipeline.plan_run(replace(config, quant=quant, budget_bytes=10**6), lambda e: None)
    enough = replace(config, quant=quant, budget_bytes=told.value.minimum_budget_bytes)
    assert pipeline.plan_run(enough, lambda e: None).feasible


def test_a_larger_budget_never_plans_fewer_bits(config, done):
    floor = pipeline.plan_run(replace(config, budget_bytes=10**6), lambda e: None)
    bits = []
    for extra in (0, 50_000, 100_000, 200_000, 10**7):
        budget = floor.minimum_budget_bytes + extra
        plan = pipeline.plan_run(replace(config, budget_bytes=budget), lambda e: None)
        assert plan.predicted_peak_bytes <= budget
        assert sum(plan.parts.values()) <= budget
        bits.append(plan.average_bits)
    assert bits == sorted(bits)


def test_every_linear_says_why(config):
    plan = pipeline.plan_run(replace(config, budget_bytes=0), lambda e: None)
    assert all(p.why.endswith(".") and p.why_code for p in plan.linears)


@pytest.mark.parametrize("method", ["lora", pytest.param("qlora", marks=pytest.mark.slow)])
def test_the_other_methods_run_on_the_same_loop(config, method, tmp_path):
    short = replace(config.train, steps=2)
    quiz = replace(config.quiz, generate=False)
    result, _ = train(replace(config, method=method, train=short, quiz=quiz), tmp_path / method)
    bits = {p["bits"] for p in json.loads((tmp_path / method / "plan.json").read_text())["linears"]}
    assert bits == ({16} if method == "lora" else {4})
    assert result["steps"] == 2


def test_without_error_start_and_ranks_it_is_the_base(config, done, tmp_path):
    """16 bits and fresh triplets: step 0 computes what the base computes."""
    lora = replace(config, method="lora", train=replace(config.train, steps=1))
    train(replace(lora, quiz=replace(config.quiz, generate=False)), tmp_path / "z")
    model, path = store.load_stored(tmp_path / "z")
    layers = store.adapted(model)
    store.set_triplets(layers, store.start_triplets(tmp_path / "z"))
    base = modelload.load_dense(path, torch.float32)
    ids = torch.randint(0, 200, (1, 15))
    with torch.no_grad():
        assert torch.allclose(model.model(ids).logits, base(ids).logits, atol=2e-2, rtol=2e-2)
