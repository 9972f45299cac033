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
    "balanced_decay": "on",
    "direction": "anchor",
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


@pytest.mark.parametrize("name", ["eduadapt", slow("schedulefree"), *SLOW])
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


def test_eduadapt_leaves_balanced_decay_out_where_no_factors_train():
    chosen = RunConfig(method="svd", train=TrainConfig(optimizer="eduadapt"))
    assert not composed(chosen).train.uses("balanced_decay")
    assert composed(chosen).train.uses("cautious")
    assert composed(composed(chosen)) == composed(chosen)


@pytest.mark.parametrize(
    "settings",
    [{"direction": "anchor"}, {"balanced_decay": "on"}, {"optimizer": "prodigy"}],
    ids=lambda settings: next(iter(settings)),
)
def test_what_makes_no_sense_with_singular_values_is_refused(settings):
    with pytest.raises(ConfigError) as refused:
        composed(RunConfig(method="svd", train=TrainConfig(**settings)))
    assert refused.value.where.startswith("train.")


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
