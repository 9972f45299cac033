"""The parts of a step in whole runs on a tiny model: command, checkpoint, resume, what is told."""

import math
from dataclasses import replace

import pytest
import torch

from core import pipeline
from core.adapters import store
from core.config import RunConfig
from core.data import frozen
from core.data.split import split
from core.data.types import Example
from core.errors import ConfigError, Stopped, TrainingError
from core.layers.lora import AdapterLinear
from core.train import checkpoint
from core.train.rules import rate_at

TREE = {
    "train": {"steps": 8, "tokens_per_step": 96, "max_length": 64, "eval_every": 4},
    "quant": {"calibration_tokens": 96},
    "quiz": {"generate": False},
}


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "frozen"
    examples = [
        Example.pair(f"What follows {n}?", f"{n + 1} follows.", f"row {n}") for n in range(16)
    ]
    frozen.freeze(examples, split(examples, share=0.2, largest=40, seed=0), folder)
    return RunConfig.from_json({**TREE, "model": str(tiny("llama")), "data": {"path": str(folder)}})


@pytest.fixture(autouse=True)
def no_marks(monkeypatch):
    """Marks are made in a process of their own and are not what is tested here."""
    monkeypatch.setattr(pipeline, "_quiz", lambda *args: {})


def train(config, out, wishes=(), **settings):
    events, asked = [], iter(wishes)
    config = replace(config, train=replace(config.train, **settings))
    return pipeline.run(config, out, events.append, lambda: next(asked, "")), events


def stopped_and_resumed(config, out, at, **settings):
    calls = []

    def wish():
        done = [e for e in events if e.kind == "step"]
        calls.append(1)
        return "stop" if len(done) == at else ""

    events = []
    changed = replace(config, train=replace(config.train, **settings))
    with pytest.raises(Stopped):
        pipeline.run(changed, out, events.append, wish)
    return pipeline.resume(out, lambda event: None, lambda: "")


@pytest.mark.parametrize("method", ["direction", "trajectory", "eduadapt"])
def test_a_method_runs_to_the_end_and_goes_on_after_a_stop_as_if_nothing_had_been(
    config, method, tmp_path
):
    chosen = replace(config, method=method)
    result, events = train(chosen, tmp_path / "whole")
    again = stopped_and_resumed(chosen, tmp_path / "parts", 5)
    assert again["adapter_sha256"] == result["adapter_sha256"]
    acted = [e for e in events if e.kind == "optim"]
    assert [e.step for e in acted] == list(range(1, 9))
    assert all(0 < e.clip <= 1 and 0 < e.cautious <= 1 for e in acted)
    assert all(0 <= x <= 0.1 for e in acted for x in e.decay.values())
    if method == "eduadapt":
        assert min(e.cautious for e in acted[1:]) < 1
    else:
        terms = [e for e in events if e.kind == "penalties"]
        name = "anchor" if method == "direction" else "trajectory"
        assert terms
        assert all(set(e.terms) == {name} for e in terms)
        assert all(e.terms[name]["share"] <= 0.1 + 1e-9 for e in terms)
    plain, _ = train(config, tmp_path / "plain")
    assert plain["adapter_sha256"] != result["adapter_sha256"]


@pytest.mark.parametrize("name", ["schedulefree", "lion"])
def test_other_optimizers_go_on_after_a_stop_and_are_merged(config, name, tmp_path):
    packages = {"schedulefree": "schedulefree", "prodigy": "prodigyopt", "lion": "bitsandbytes"}
    if name in packages:
        pytest.importorskip(packages[name])
    result, events = train(config, tmp_path / "whole", optimizer=name)
    again = stopped_and_resumed(config, tmp_path / "parts", 5, optimizer=name)
    assert again["adapter_sha256"] == result["adapter_sha256"]
    looks = {e.step: e.nll for e in events if e.kind == "evaluated"}
    model, _ = store.load_run(tmp_path / "whole")
    kept = checkpoint.load(tmp_path / "whole" / "checkpoints" / f"step-{result['best_step']:06d}")
    assert kept is not None
    # What was saved is what was looked at: with Schedule-Free the mean, not where it trains.
    quiz = [e for e in events if e.kind == "evaluated" and e.step == result["best_step"]]
    assert quiz[0].nll == looks[result["best_step"]] == min(v for s, v in looks.items() if s)
    folded = store.folded(store.adapted(model))
    prefix = "answers." if name == "schedulefree" else ""
    for layer in store.adapted(model):
        V, m = kept[0][f"{prefix}{layer}.V"], kept[0][f"{prefix}{layer}.m"]
        assert torch.equal(folded[f"{layer}.V"], V[m > 0])


def poison(monkeypatch, steps):
    """Gradients that are no numbers at the given calls of the optimizer's loop."""
    from core.train.loop import Trainer

    plain, calls = Trainer._finite, []

    def broken(self, loss):
        calls.append(self.progress.step)
        if len(calls) in steps:
            for layer in self.layers.values():
                if isinstance(layer, AdapterLinear) and layer.V.grad is not None:
                    layer.V.grad.fill_(math.nan)
        return plain(self, loss)

    monkeypatch.setattr(Trainer, "_finite", broken)
    return calls


def test_after_three_steps_without_finite_gradients_the_last_checkpoint_is_back(
    config, tmp_path, monkeypatch
):
    calls = poison(monkeypatch, {5, 6, 7})
    result, events = train(config, tmp_path / "r", recover="on", checkpoint_every=2)
    assert result["steps"] == 8
    # The third bad step is the seventh; the checkpoint after the sixth is whole.
    assert calls == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert [e.to_step for e in events if e.kind == "rollback"] == [6]
    last = [e.lr for e in events if e.kind == "step"][-1]
    assert last == rate_at(7, 8, config.train.lr, config.train.warmup, "cosine") / 2


def test_going_back_without_a_checkpoint_begins_anew(config, tmp_path, monkeypatch):
    calls = poison(monkeypatch, {1, 2, 3})
    result, events = train(config, tmp_path / "r", recover="on", checkpoint_every=100)
    assert calls[3] == 0
    assert result["steps"] == 8
    assert [e.to_step for e in events if e.kind == "rollback"] == [0]
    assert [e.step for e in events if e.kind == "evaluated"] == [0, 4, 8]


def test_a_run_that_goes_back_in_vain_ends_with_a_sentence(config, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(1, 100)))
    with pytest.raises(TrainingError) as told:
        train(config, tmp_path / "r", recover="on")
    assert told.value.code == "train.unstable"


def test_without_recovery_three_steps_end_the_run_as_before(config, tmp_path, monkeypatch):
    poison(monkeypatch, {2, 3, 4})
    with pytest.raises(TrainingError) as told:
        train(config, tmp_path / "r")
    assert "step 4" in str(told.value)


def test_a_plateau_halves_the_rate(config, tmp_path, monkeypatch):
    from core.train.loop import Trainer

    monkeypatch.setattr(Trainer, "evaluate", lambda self: 2.0)
    _, events = train(config, tmp_path / "r", plateau="on", eval_every=1, schedule="constant")
    rates = [e.lr for e in events if e.kind == "step"]
    assert rates[4:] != [rates[3]] * len(rates[4:])
    assert rates[5] == pytest.approx(rates[3] / 2)
    assert any(e.kind == "note" and e.code == "train.plateau" for e in events)


def test_settings_that_cannot_work_are_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ConfigError):
        train(config, tmp_path / "r", optimizer="sgd", cautious="on")
    assert not (tmp_path / "r").exists()
    with pytest.raises(ConfigError):
        pipeline.plan_run(
            replace(config, train=replace(config.train, optimizer="sgd", cautious="on")),
            lambda event: None,
        )


def test_plans_count_what_optimizer_and_penalty_keep(config):
    def trained(**settings):
        changed = replace(config, method="lora", train=replace(config.train, **settings))
        parts = pipeline.plan_run(changed, lambda event: None).parts
        return parts["optimizer"] / parts["adapters"]

    # Beside two moments: start and passing gradient, then an earlier state, then a copy.
    slack = 0.1  # masks and scores are counted with the optimizer
    assert trained() == pytest.approx(2, abs=slack)
    assert trained(optimizer="sgd") == pytest.approx(0, abs=slack)
    assert trained(optimizer="momentum") == pytest.approx(1, abs=slack)
    assert trained(direction="anchor") == pytest.approx(4, abs=slack)
    assert trained(direction="trajectory") == pytest.approx(5, abs=slack)
    assert trained(balanced_decay="on") == pytest.approx(3, abs=slack)
