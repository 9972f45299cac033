"""Make it smaller: what is queued, and what is shown of it before and after."""

import uuid
from dataclasses import replace

import pytest

from core.config import DataConfig, RunConfig
from core.errors import DataError, StudioError
from studio.pages import smaller
from studio.text import LANGUAGES, Words

RESULT = {
    "sizes": {
        "teacher": {"bytes": 269_000_000, "parameters": 134_500_000},
        "student": {"bytes": 91_000_000, "parameters": 134_500_000},
    },
    "quiz": {
        which: {
            "examples": 17,
            "perplexity": p,
            "rouge_l": 0.5,
            "bleu": 20.0,
            "cer": 0.4,
            "tokens_per_second": 12.0,
        }
        for which, p in (("base", 2.12), ("tuned", 2.31))
    },
}


def words(language="en"):
    return Words(language)


def chosen(**changes):
    base = RunConfig(name="Class 8b", budget_bytes=900_000_000, data=DataConfig(path="class.csv"))
    return replace(base, **changes)


def config_of(kind, base=None, *, bits=3, every=4, model=""):
    return smaller.student_config(base or chosen(), kind, bits, every, model, 5, words())


def test_the_draft_gives_model_and_class_but_no_memory_limit():
    config = config_of("quantized")
    assert (config.method, config.budget_bytes, config.data.path) == ("distill", 0, "class.csv")
    assert (config.distill.student, config.quant.bits) == ("quantized", 3)
    assert (config.train.epochs, config.train.steps) == (5.0, 0)
    assert config.name.startswith("Class 8b")
    RunConfig.from_json(config.to_json())  # every value is one that a run accepts


def test_some_layers_are_no_matter_of_bits():
    config = config_of("layers")
    assert (config.distill.student, config.distill.every, config.quant.bits) == ("layers", 4, 0)


def test_only_a_quantized_student_takes_the_optimizer_that_was_chosen_for_adapters():
    base = chosen()
    base = replace(base, train=replace(base.train, optimizer="lion", direction="anchor", seed=7))
    whole, stored = config_of("layers", base=base), config_of("quantized", base=base)
    assert (whole.train.optimizer, whole.train.direction) == ("adamw", "anchor")
    assert (stored.train.optimizer, stored.train.direction) == ("lion", "anchor")
    assert whole.train.seed == stored.train.seed == 7


def test_a_smaller_model_must_be_there():
    with pytest.raises(StudioError):
        config_of("model", model="")
    with pytest.raises(StudioError):
        config_of("model", model="no-such-model")


def test_what_is_queued_is_a_run_like_any_other(backend):
    run = backend.run(backend.start(config_of("quantized"), key=uuid.uuid4().hex))
    assert run.status == "queued"
    assert run.config["method"] == "distill"
    with pytest.raises(DataError):
        backend.start(config_of("quantized", chosen(data=DataConfig())))


@pytest.fixture
def finished(backend):
    run_id = backend.start(config_of("quantized"), key=uuid.uuid4().hex)
    backend.store.update(run_id, status="done", result=RESULT)
    return run_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_before_and_after_stand_side_by_side(backend, finished, language):
    shown = smaller._result(backend, finished, words(language))
    for figure in ("269 MB", "91 MB", "2.12", "2.31", "17"):
        assert figure in shown
    assert "data-press" not in shown  # it holds no model of its own to choose


def test_other_runs_show_nothing_of_it(backend, run_id):
    assert not smaller._result(backend, "", words())
    assert not smaller._result(backend, run_id, words())
    assert not smaller._result(backend, "no-such-run", words())


def test_a_whole_student_can_become_the_base_model(backend, finished, tiny):
    import shutil

    folder = backend.run(finished).folder / "model"
    shutil.copytree(tiny("llama"), folder)
    assert "data-press" in smaller._result(backend, finished, words())
    said = smaller._use(backend, finished, words())
    from studio import draft

    assert draft.load().model == str(folder)
    assert "is the base model now" in said


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", smaller.KINDS)
def test_the_memory_that_is_needed_is_said(backend, kind, language):
    from studio import draft

    draft.save(chosen())
    assert smaller._about(kind, words(language))
    assert smaller._need(backend, kind, 2, "starter", words(language))
