"""Methods and optimizers not made for each other: together, or refused with a sentence."""

from dataclasses import replace

import pytest

from core import pipeline
from core.adapters import store
from core.config import RunConfig, TrainConfig
from core.distill.students import completed
from core.errors import ConfigError, Stopped
from core.methods import composed
from core.plan.trained import moments
from core.plan.types import Plan
from core.train.ledger import held
from core.train.optimizers import RULES, make_optimizer, must_be_plain

TREE = {
    "train": {"steps": 4, "tokens_per_step": 96, "max_length": 64, "eval_every": 2},
    "quant": {"calibration_tokens": 96},
    "adapter": {"directions": 12},
    "quiz": {"generate": False},
}
PARTS = {
    "optimizer": "sgd",
    "clip": "adaptive",
    "cautious": "on",
    "recover": "on",
}


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(16)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    tree = {**TREE, "model": str(tiny("llama")), "data": {"path": str(path)}}
    return RunConfig.from_json(tree)


@pytest.fixture(autouse=True)
def no_marks(monkeypatch):
    """Marks are made in a process of their own and are not what is tested here."""
    monkeypatch.setattr(pipeline, "_quiz", lambda *args: {})


def trained(config, out):
    return pipeline.run(config, out, lambda event: None, lambda: "")


def stopped_and_resumed(config, out, at):
    steps = []

    def wish():
        return "stop" if len(steps) == at else ""

    with pytest.raises(Stopped):
        pipeline.run(config, out, lambda e: steps.append(e) if e.kind == "step" else None, wish)
    return pipeline.resume(out, lambda event: None, lambda: "")


def installed(name):
    if RULES[name].package:
        pytest.importorskip(RULES[name].package)


def with_train(config, **settings):
    return replace(config, train=replace(config.train, **settings))


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


SLOW = [slow("lion"), slow("prodigy")]


@pytest.mark.parametrize("name", [slow("eduadapt"), slow("schedulefree"), *SLOW])
def test_singular_values_train_with_another_optimizer_and_resume_exactly(config, name, tmp_path):
    installed(name)
    chosen = replace(with_train(config, optimizer=name, diagonal_lr=config.train.lr), method="svd")
    result = trained(chosen, tmp_path / "whole")
    again = stopped_and_resumed(chosen, tmp_path / "parts", 2)
    assert again["adapter_sha256"] == result["adapter_sha256"]
    plan = store.load_plan(tmp_path / "whole")
    assert isinstance(plan, Plan)
    model, _ = store.load_stored(tmp_path / "whole")
    layers = store.adapted(model)
    settings = RunConfig.load(tmp_path / "whole" / "config.json").train
    found = held(layers, make_optimizer(layers, settings), (), moments(settings))
    assert found.trained <= sum(plan.parts[k] for k in ("adapters", "gradients", "optimizer"))


@pytest.mark.parametrize("name", ["eduadapt", *SLOW])
def test_a_quantized_student_learns_with_another_optimizer_and_resumes_exactly(
    config, name, tmp_path
):
    installed(name)
    student = replace(config.distill, student="quantized", own_share=0.0)
    chosen = replace(with_train(config, optimizer=name), method="distill", distill=student)
    result = trained(chosen, tmp_path / "whole")
    again = stopped_and_resumed(chosen, tmp_path / "parts", 2)
    assert again["adapter_sha256"] == result["adapter_sha256"]


@pytest.mark.parametrize("method", ["svd", "full", "dora", "pairs", "distill"])
def test_one_decay_at_a_time_in_every_method(config, method, tmp_path):
    chosen = with_train(config, balanced_decay="on", weight_decay=0.1)
    with pytest.raises(ConfigError, match="fixed weight decay"):
        pipeline.run(replace(chosen, method=method), tmp_path, lambda e: None, lambda: "")
    assert not list(tmp_path.iterdir())


def test_singular_values_keep_directions_decay_and_resume_exactly(config, tmp_path):
    chosen = replace(with_train(config, direction="trajectory", balanced_decay="on"), method="svd")
    told = []
    result = pipeline.run(chosen, tmp_path / "whole", told.append, lambda: "")
    assert any("trajectory" in e.terms for e in told if e.kind == "penalties")
    assert all(e.decay for e in told if e.kind == "optim")
    again = stopped_and_resumed(chosen, tmp_path / "parts", 3)
    assert again["adapter_sha256"] == result["adapter_sha256"]


def test_a_student_trained_in_full_decays_to_where_it_began_and_resumes_exactly(config, tmp_path):
    few = replace(config.distill, student=config.model, own_share=0.0)
    chosen = with_train(config, direction="trajectory", balanced_decay="on")
    chosen = replace(chosen, method="distill", distill=few)
    result = trained(chosen, tmp_path / "whole")
    again = stopped_and_resumed(chosen, tmp_path / "parts", 2)
    assert again["adapter_sha256"] == result["adapter_sha256"]


def test_two_rates_and_an_optimizer_that_finds_one_are_refused():
    with pytest.raises(ConfigError) as refused:
        composed(RunConfig(method="svd", train=TrainConfig(optimizer="prodigy")))
    assert refused.value.where == "train.diagonal_lr"


@pytest.mark.parametrize("part", PARTS)
def test_pairs_and_whole_students_refuse_what_they_do_not_follow(config, part, tmp_path):
    chosen = with_train(config, **{part: PARTS[part]})
    with pytest.raises(ConfigError, match="Method pairs trains with AdamW"):
        pipeline.run(replace(chosen, method="pairs"), tmp_path, lambda e: None, lambda: "")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="in full trains with AdamW"):
        completed(replace(chosen, method="distill"))


def test_their_own_settings_are_accepted():
    must_be_plain(TrainConfig(), "Method pairs")
    must_be_plain(TrainConfig(clip="fixed", cautious="off", recover="off"), "Method pairs")
