"""A whole run on pairs: phases, marks, stop and resume, what is kept, and the pipeline's door."""

import json
import math
from dataclasses import replace

import pytest
import torch

from core import pipeline
from core.config import RunConfig
from core.data.pairs import load_pairs
from core.errors import ConfigError, MemoryBudgetError, ModelError, Stopped
from core.evaluate.binary import best_threshold
from core.pairs.duplicates import find_duplicates, groups
from core.pairs.model import Shape
from core.pairs.store import is_pair_run, load_trained
from core.pairs.train import probabilities

TREE = {
    "method": "pairs",
    "train": {"steps": 8, "tokens_per_step": 256, "max_length": 64, "eval_every": 4, "lr": 3e-3},
    "pairs": {"dropout": 0.1},
    "adapter": {"rank": 4},
}


@pytest.fixture(scope="module")
def config(tiny_encoder, pair_file):
    path = str(tiny_encoder("bert"))
    return RunConfig.from_json({**TREE, "model": path, "data": {"path": str(pair_file)}})


def quiet() -> str:
    return ""


def train(config, out, should_stop=quiet):
    events = []
    return pipeline.run(config, out, events.append, should_stop), events


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    result, events = train(config, out)
    (out / "result.json").write_text(json.dumps(result), "utf-8")
    return out, result, events


def test_every_phase_is_told_with_marks_while_it_trains(done):
    _, result, events = done
    phases = [e.phase for e in events if e.kind == "phase"]
    assert [p for k, p in enumerate(phases) if p not in phases[:k]] == [
        "data",
        "load",
        "train",
        "quiz",
        "done",
    ]
    marked = [(e.step, e.slice) for e in events if e.kind == "pairs"]
    assert marked == [(0, "calibration"), (4, "calibration"), (8, "calibration"), (8, "test")]
    assert [e.step for e in events if e.kind == "step"] == list(range(1, 9))
    for marks in (result["quiz"]["tuned"], result["quiz"]["calibration"]):
        assert all(math.isfinite(marks[k]) for k in ("accuracy", "f1", "mcc", "pr_auc", "ece"))
        assert sum(marks["confusion"].values()) == marks["examples"]


def test_the_threshold_comes_from_the_calibration_pairs_alone(done):
    out, result, _ = done
    sides, trained = load_pairs(out / "data"), load_trained(out)
    found = probabilities(trained.model, trained.encoder, sides.calibration)
    expected = best_threshold([p.same for p in sides.calibration], found)
    assert trained.threshold == pytest.approx(expected)
    assert result["quiz"]["tuned"]["threshold"] == trained.threshold
    assert result["quiz"]["tuned"]["examples"] == len(sides.test)


def test_stopped_and_resumed_gives_the_same_adapter(config, done, tmp_path):
    """Dropout and falling ranks included."""
    asked = iter([""] * 4 + ["stop"] * 99)
    with pytest.raises(Stopped):
        train(config, tmp_path / "b", lambda: next(asked))
    assert not (tmp_path / "b" / "adapter").exists()
    result = pipeline.resume(tmp_path / "b", lambda event: None, quiet)
    assert result["adapter_sha256"] == done[1]["adapter_sha256"]
    assert result["quiz"] == done[1]["quiz"]


def test_directions_are_kept_and_factors_decay_with_magnitudes_too(config, tmp_path):
    tree = config.to_json()
    tree["train"] |= {"steps": 5, "direction": "trajectory", "balanced_decay": "on"}
    tree["pairs"] |= {"magnitude": True}
    chosen = RunConfig.from_json(tree)
    result, events = train(chosen, tmp_path / "a")
    assert any("trajectory" in e.terms for e in events if e.kind == "penalties")
    assert all(e.decay for e in events if e.kind == "optim")
    asked = iter([""] * 3 + ["stop"] * 99)
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "b", lambda: next(asked))
    again = pipeline.resume(tmp_path / "b", lambda event: None, quiet)
    assert again["adapter_sha256"] == result["adapter_sha256"]


def test_a_finished_run_makes_no_further_step(done):
    out, result, _ = done
    events = []
    assert pipeline.resume(out, events.append, quiet) == json.loads(json.dumps(result))
    assert not events


def test_ranks_fall_to_the_wanted_cost(config, tmp_path):
    tree = config.to_json()
    tree["train"] |= {"steps": 14, "stop_early": False}
    _, events = train(RunConfig.from_json(tree), tmp_path / "r")
    ranks = [e.ranks for e in events if e.kind == "ranks"]
    layers = load_trained(tmp_path / "r").model.layers
    assert set(ranks[0].values()) == {6}  # half as much again as wanted
    cost = {n: x.out_features + x.in_features + 1 for n, x in layers.items()}
    assert sum(x.rank * cost[n] for n, x in layers.items()) <= 4 * sum(cost.values())
    assert len({x.rank for x in layers.values()}) > 1  # not the same everywhere


@pytest.mark.parametrize(
    "changed",
    [
        {"pairs": {"magnitude": True, "dropout": 0.0}, "adapter": {"rank": 2, "dynamic": False}},
        {"pairs": {"gradient_start": False, "r_drop": 0.0}, "quant": {"bits": 4}},
    ],
)
def test_variants_train_and_come_back_as_they_were(config, changed, tmp_path):
    tree = config.to_json()
    for group, values in changed.items():
        tree[group] |= values
    tree["train"]["steps"] = 2
    result, _ = train(RunConfig.from_json(tree), tmp_path / "v")
    trained, sides = load_trained(tmp_path / "v"), load_pairs(tmp_path / "v" / "data")
    again = probabilities(trained.model, trained.encoder, sides.test)
    correct = [
        int(p >= trained.threshold) == q.same for p, q in zip(again, sides.test, strict=True)
    ]
    assert sum(correct) / len(correct) == pytest.approx(result["quiz"]["tuned"]["accuracy"])
    assert trained.model.shape == Shape(**json.loads(_facts(tmp_path / "v"))["shape"])


def _facts(run):
    return (run / "adapter" / "adapter.json").read_text("utf-8")


def test_a_decoder_learns_to_tell_pairs_apart(tiny, tmp_path):
    rows = [
        (f"what is {n}?", f"{'same' if n % 2 else 'other'} {n + 100}", n % 2) for n in range(60)
    ]
    lines = ["question1,question2,label", *(f"{a},{b},{y}" for a, b, y in rows)]
    (tmp_path / "p.csv").write_text("\n".join(lines), "utf-8")
    tree = {**TREE, "model": str(tiny("llama")), "data": {"path": str(tmp_path / "p.csv")}}
    tree["train"] = {**TREE["train"], "steps": 40, "eval_every": 20}
    result, events = train(RunConfig.from_json(tree), tmp_path / "d")
    losses = [e.loss for e in events if e.kind == "step"]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])
    assert result["quiz"]["tuned"]["mcc"] > 0.8  # on pairs it has not seen
    assert is_pair_run(tmp_path / "d")


def test_a_budget_that_is_passed_ends_the_run_with_one_that_works(config, tmp_path):
    with pytest.raises(MemoryBudgetError) as told:
        train(replace(config, budget_bytes=10**6), tmp_path / "m")
    enough = replace(config, budget_bytes=told.value.minimum_budget_bytes * 2)
    train(replace(enough, train=replace(config.train, steps=1)), tmp_path / "n")


def test_pairs_are_not_planned_and_encoders_do_not_answer(config, tmp_path):
    with pytest.raises(ConfigError, match="not planned"):
        pipeline.plan_run(config, lambda event: None)
    with pytest.raises(ModelError, match="writes none"):
        train(replace(config, method="lora"), tmp_path / "x")
    with pytest.raises(ModelError, match="no trained pair model"):
        load_trained(tmp_path)


def test_equal_questions_are_found_and_linked(done):
    trained = load_trained(done[0])
    questions = ["what is a cat", "say dog 1", "What is a CAT?", "the sun is bright", "sea"]
    found = find_duplicates(replace(trained, threshold=0.999999), questions)
    assert (found[0].first, found[0].second, found[0].probability) == (0, 2, 1.0)
    assert all(f.probability >= 0.999999 for f in found)
    everything = find_duplicates(replace(trained, threshold=0.0), questions)
    assert {(f.first, f.second) for f in everything} == {
        (i, j) for i in range(5) for j in range(i + 1, 5)
    }  # so few that every question is everyone's neighbour
    assert groups(everything, 5) == [[0, 1, 2, 3, 4]]
    assert groups([f for f in everything if f.second == 2 and f.first == 0], 5) == [[0, 2]]
    for pair in everything[1:3]:
        texts = questions[pair.first], questions[pair.second]
        assert trained.same(*texts) == pytest.approx(pair.probability, abs=1e-5)


def test_duplicates_of_one_and_of_no_question(done):
    trained = load_trained(done[0])
    assert find_duplicates(trained, []) == []
    assert find_duplicates(trained, ["alone"]) == []


def test_no_tensor_of_the_adapter_is_a_masked_triplet(done):
    from safetensors.torch import load_file

    tensors = load_file(done[0] / "adapter" / "adapter.safetensors")
    assert all(t.abs().min() > 0 for n, t in tensors.items() if n.endswith(".s") and len(t))
    assert all(torch.isfinite(t).all() for t in tensors.values())
