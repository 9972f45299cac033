"""Runs of method ``svd`` from class file to export, on a tiny model."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core import pipeline
from core.adapters import store
from core.config import RunConfig
from core.errors import ConfigError, Stopped
from core.export import export
from core.methods import composed
from core.plan.shapes import plan_shape
from core.plan.types import Plan
from core.train.ledger import held
from core.train.optimizers import make_optimizer

TREE = {
    "method": "svd",
    "train": {"steps": 6, "tokens_per_step": 96, "max_length": 64, "eval_every": 3},
    "quant": {"calibration_tokens": 96},
    "adapter": {"directions": 12},
    "quiz": {"max_new_tokens": 4},
}
KINDS = {"full": {}, "four-bits": {"bits": 4, "calibration_tokens": 96}}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return path


def settings(tiny, lesson, kind):
    tree = {**TREE, "model": str(tiny("llama")), "data": {"path": str(lesson), "quiz_share": 0.0}}
    return RunConfig.from_json({**tree, "quant": {**TREE["quant"], **KINDS[kind]}})


def quiet() -> str:
    return ""


def train(config, out, should_stop=quiet):
    events = []
    return pipeline.run(config, out, events.append, should_stop), events


@pytest.fixture(scope="module", params=KINDS)
def done(request, tiny, lesson, tmp_path_factory):
    """A finished run over full and over quantized weights: settings, folder, result."""
    config = settings(tiny, lesson, request.param)
    out = tmp_path_factory.mktemp("run") / request.param
    result, _ = train(config, out)
    (out / "result.json").write_text(json.dumps({"run": "a", **result}), "utf-8")
    return config, out, result


def plan_of(out):
    return Plan.from_json(json.loads((out / "plan.json").read_text("utf-8")))


def at_start(out):
    model, _ = store.load_stored(out)
    layers = store.adapted(model)
    store.set_triplets(layers, store.start_triplets(out))
    return layers


def test_what_trains_is_r_and_o_numbers_of_each_layer(done):
    _, out, result = done
    linears = plan_of(out).linears
    expected = sum(min(12, p.out_features, p.in_features) + p.out_features for p in linears)
    assert result["trained_numbers"] == expected
    tensors = load_file(out / store.ADAPTER / "adapter.safetensors")
    assert sum(t.numel() for t in tensors.values()) == expected
    assert (out / store.ADAPTER / "adapter.safetensors").stat().st_size < 4 * expected + 4000
    assert any(t.abs().max() > 0 for t in tensors.values())


def test_planned_bytes_are_those_of_the_tensors(done):
    config, out, _ = done
    plan, layers = plan_of(out), at_start(out)
    found = held(layers, make_optimizer(layers, config.train))
    assert found.frozen == plan.parts["weights"]
    assert found.factors == sum(4 * x.trained_numbers for x in layers.values())
    assert found.trained <= sum(plan.parts[k] for k in ("adapters", "gradients", "optimizer"))
    for p in plan.linears:
        assert layers[p.name].rank == p.rank
        assert layers[p.name].quantized.scheme.bits == p.bits


def test_a_stopped_run_goes_on_to_the_same_adapter(done, tmp_path):
    config, _, result = done
    asked = iter([""] * 4 + ["stop"] * 99)
    with pytest.raises(Stopped):
        train(config, tmp_path / "b", lambda: next(asked))
    again = pipeline.resume(tmp_path / "b", lambda event: None, quiet)
    assert again["adapter_sha256"] == result["adapter_sha256"]


def test_chat_answers_with_the_merged_weights(done):
    _, out, _ = done
    model, _ = store.load_run(out)
    ids, positions = torch.randint(0, 200, (12,)), torch.arange(12)
    with torch.no_grad():
        adapted = model.hidden(ids, positions)
        store.make_dense(model)
        merged = model.hidden(ids, positions)
    assert torch.allclose(adapted, merged, atol=1e-4)


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_exports_answer_as_the_studio_does(done, tmp_path, form):
    _, out, _ = done
    outcome = export(out, form, tmp_path / form)
    assert outcome["checked"]["equal"] == outcome["checked"]["prompts"] > 0


def test_the_file_names_the_weights_it_belongs_to_and_others_are_refused(done, tmp_path):
    _, out, _ = done
    facts = json.loads((out / store.ADAPTER / "adapter.json").read_text("utf-8"))
    assert len(facts["base_sha256"]) == 64
    assert facts["base_sha256"] == store.basis_facts(out)["base_sha256"]


def test_the_two_rates_are_those_of_the_settings(tiny, lesson, done):
    config, out, _ = done
    layers = at_start(out)
    optimizer = make_optimizer(layers, replace(config.train, lr=2e-3, diagonal_lr=1e-2))
    rates = {id(p): g["share"] for g in optimizer.param_groups for p in g["params"]}
    for layer in layers.values():
        assert rates[id(layer.d)] == pytest.approx(5.0)
        assert rates[id(layer.c)] == 1.0


def test_under_a_budget_the_residual_gets_fewer_bits():
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000}
    shape = {"model_type": "llama", **sizes, **heads}
    config = composed(RunConfig.from_json({"method": "svd", "adapter": {"directions": 64}}))
    free = plan_shape(shape, config)
    tight = replace(config, budget_bytes=int(0.97 * free.predicted_peak_bytes))
    plan = plan_shape(shape, tight)
    assert plan.feasible
    assert plan.predicted_peak_bytes <= tight.budget_bytes
    assert plan.average_bits < free.average_bits == 16
    assert {p.rank for p in plan.linears} == {64}


def test_the_additive_form_trains_too(tiny, lesson, tmp_path):
    config = settings(tiny, lesson, "full")
    adapter = replace(config.adapter, diagonal="additive")
    short = replace(config.train, steps=2)
    train(replace(config, adapter=adapter, train=short), tmp_path / "a")
    model, _ = store.load_run(tmp_path / "a")
    assert all(layer.additive for layer in store.adapted(model).values())


def test_another_method_does_not_train_singular_values():
    config = RunConfig.from_json({"adapter": {"parametrisation": "svd"}})
    with pytest.raises(ConfigError, match="not singular values"):
        composed(config)
