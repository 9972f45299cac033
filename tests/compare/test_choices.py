"""What can be compared: every row that is offered is another run, and one that can be."""

from dataclasses import replace

import pytest

from core.compare import choices
from core.compare.choices import Choice, ablation, candidates, offered, runs_of
from core.config import DataConfig, RunConfig, TrainConfig
from core.errors import ConfigError
from core.methods import composed

BASE = RunConfig(budget_bytes=900_000_000, data=DataConfig(path="class.csv"))
IDS = [known.id for known in candidates()]


def test_methods_that_learn_a_class_are_offered_and_the_others_are_not():
    assert {"adaq", "lora", "qlora", "svd", "distill"} <= set(IDS)
    assert "pairs" not in IDS


@pytest.mark.parametrize("method_id", IDS)
def test_every_setting_on_offer_makes_another_run_that_is_accepted(method_id):
    plain = runs_of(BASE, [Choice(method_id), other(method_id)], 1)[0][1]
    for path, values in offered(BASE, method_id).items():
        for value in values:
            (_, changed), _ = runs_of(BASE, [Choice(method_id, path, value), other(method_id)], 1)
            assert composed(changed) != composed(plain), (path, value)
            group, _, name = path.partition(".")
            before, after = plain.to_json(), changed.to_json()
            assert after[group][name] == value
            after[group][name] = before[group][name]
            assert after == before, path  # exactly one setting is changed


def other(method_id: str) -> Choice:
    return Choice("adaq" if method_id != "adaq" else "qlora")


@pytest.mark.parametrize("method_id", IDS)
def test_what_a_method_fixes_is_not_offered(method_id):
    fixed = {path for known in candidates() if known.id == method_id for path, _ in known.settings}
    assert not fixed & set(offered(BASE, method_id))


def test_an_ablation_is_the_method_and_the_method_with_one_part_off():
    found = ablation(BASE, "adaq")
    assert found[0] == Choice("adaq")
    assert {c.setting for c in found[1:]} == {
        "adapter.start", "adapter.uniform", "adapter.dynamic", "quant.importance",
    }  # fmt: skip
    runs_of(BASE, found, 1)
    own = [c.setting for c in ablation(BASE, "eduadapt")[1:]]
    assert own[:4] == ["train.cautious", "train.clip", "train.plateau", "train.balanced_decay"]
    assert len(own) == choices.MOST - 1
    assert ablation(BASE, "lora") == [Choice("lora")]  # it has no part that can be off alone


def test_seeds_count_up_and_the_first_seed_of_all_comes_first():
    base = replace(BASE, train=TrainConfig(seed=5))
    runs = runs_of(base, [Choice("adaq"), Choice("qlora")], 3)
    assert [(place, config.train.seed) for place, config in runs] == [
        (0, 5), (1, 5), (0, 6), (1, 6), (0, 7), (1, 7),
    ]  # fmt: skip
    assert {config.budget_bytes for _, config in runs} == {BASE.budget_bytes}


def test_a_distillation_keeps_to_no_limit_and_trains_whole_with_its_own_optimizer():
    base = replace(BASE, train=TrainConfig(optimizer="lion"))
    _, student = runs_of(base, [Choice("adaq"), Choice("distill")], 1)[1]
    assert (student.budget_bytes, student.train.optimizer) == (0, "adamw")


@pytest.mark.parametrize(
    ("wanted", "seeds", "code"),
    [
        ([Choice("adaq")], 1, "compare.number"),
        ([Choice("adaq", "adapter.rank", r) for r in range(1, 8)], 1, "compare.number"),
        ([Choice("adaq"), Choice("qlora")], 0, "compare.seeds"),
        ([Choice("adaq"), Choice("qlora")], 4, "compare.seeds"),
        ([Choice("adaq"), Choice("adaq")], 1, "compare.same"),
        ([Choice("adaq"), Choice("pairs")], 1, "compare.method"),
        ([Choice("adaq"), Choice("nothing")], 1, "config.method"),
        ([Choice("adaq"), Choice("adaq", "adapter.rank", 8)], 1, "compare.setting"),
        ([Choice("adaq"), Choice("lora", "quant.bits", 4)], 1, "compare.setting"),
        ([Choice("adaq"), Choice("svd", "adapter.rank", 4)], 1, "compare.setting"),
        ([Choice("adaq"), Choice("adaq", "data.path", "/etc")], 1, "compare.setting"),
        ([Choice("adaq"), Choice("adaq", "no.such", 1)], 1, "compare.setting"),
        ([Choice("adaq"), Choice("adaq", "adapter.rank", 10_000)], 1, "config.range"),
        ([Choice("adaq"), Choice("adaq", "adapter.rank", "many")], 1, "config.type"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(wanted, seeds, code):
    with pytest.raises(ConfigError) as caught:
        runs_of(BASE, wanted, seeds)
    assert caught.value.code == code
