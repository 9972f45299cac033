"""A whole distillation in this process, on tiny models: what stays the same whatever is learned."""

import json
import math
from dataclasses import replace

import pytest
import torch

from core import cli, modelload, models, pipeline
from core.adapters import store
from core.config import RunConfig
from core.dense import DenseModel
from core.errors import ConfigError, ModelError, Stopped
from core.evaluate.marks import marks
from core.export import export
from core.runs.attached import prepare_folder
from core.whole import write_whole

TREE = {
    "method": "distill",
    "train": {"steps": 6, "tokens_per_step": 96, "max_length": 64, "eval_every": 3, "lr": 1e-3},
    "distill": {"own_tokens": 6, "own_share": 0.6, "own_from": 0.3, "layer_map": "cka"},
    "quant": {"calibration_tokens": 96},
    "quiz": {"questions": 2, "max_new_tokens": 4},
}


def quiet() -> str:
    return ""


@pytest.fixture(scope="module", autouse=True)
def marked_here():
    """The quiz in this process: starting another costs more than marking a tiny model."""

    def mark_run(out, emit, should_stop):
        write_whole(out / "quiz.json", json.dumps(marks(out, lambda share: None)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "mark_run", mark_run)
        yield


def run(config, out, should_stop=quiet):
    events = []
    result = pipeline.run(config, out, events.append, should_stop)
    # As the worker leaves it.
    (out / "result.json").write_text(json.dumps(result), "utf-8")
    return out, result, events


@pytest.fixture(scope="module")
def config(deep, lesson_file):
    tree = {**TREE, "model": str(deep("llama")), "data": {"path": str(lesson_file)}}
    return RunConfig.from_json(tree)


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """A finished run whose student has three of four layers."""
    return run(config, tmp_path_factory.mktemp("run") / "a")


def test_every_step_tells_its_terms_and_some_judge_own_answers(done):
    _, result, events = done
    terms = [e for e in events if e.kind == "terms"]
    assert [e.step for e in terms] == [1, 2, 3, 4, 5, 6]
    assert set(terms[0].values) == {"answers", "output", "features", "relations"}
    own = [e for e in terms if "answers" not in e.values]
    assert own
    assert all(e.step > 2 for e in own)
    assert terms[0].values == terms[0].scales  # the first step is divided by itself
    assert next(e.loss for e in events if e.kind == "step") == pytest.approx(
        terms[0].values["answers"], rel=1e-5
    )
    assert result["steps"] == 6


def test_before_and_after_are_marked_and_weighed(done):
    out, result, _ = done
    for which in ("base", "tuned"):
        marks = result["quiz"][which]
        assert all(math.isfinite(marks[k]) for k in ("perplexity", "rouge_l", "bleu", "cer"))
        assert marks["tokens_per_second"] > 0
    student, teacher = result["sizes"]["student"], result["sizes"]["teacher"]
    assert student["bytes"] == (out / store.WHOLE / "model.safetensors").stat().st_size
    assert 0.6 < student["parameters"] / teacher["parameters"] < 0.9
    assert student["bytes"] < teacher["bytes"]


def test_the_student_is_a_model_like_any_other(done):
    out, result, _ = done
    folder = out / store.WHOLE
    assert not (out / "checkpoints").exists()
    info = models.resolve(str(folder))
    assert info.ready
    assert info.parameters == result["sizes"]["student"]["parameters"]
    assert models.ensure_local(info) == folder
    names = set(modelload.Weights(folder))
    assert not any("projection" in name for name in names)
    model, _, chat = store.load_adapted(out)
    assert len(modelload.decoder_blocks(model)[1]) == 3
    assert chat.template


@pytest.mark.slow
def test_it_can_be_tuned_in_turn(done, config, tmp_path):
    out, *_ = done
    short = replace(config.train, steps=1)
    quiz = replace(config.quiz, generate=False)
    base = replace(config, model=str(out / store.WHOLE), method="lora", train=short, quiz=quiz)
    _, result, _ = run(base, tmp_path / "again")
    assert result["status"] == "done"


def test_what_is_saved_is_what_trained(done):
    """The quiz loss of the model on disk is that of the last look, but for its stored dtype."""
    _, result, events = done
    last = [e.nll for e in events if e.kind == "evaluated"]
    assert result["quiz"]["tuned"]["nll"] == pytest.approx(min(last[1:]), rel=1e-3)


def test_stopped_and_resumed_gives_the_same_student(config, done, tmp_path):
    asked = iter([""] * 3 + ["stop"] * 99)
    plain = replace(config, quiz=replace(config.quiz, generate=False))

    def wish():
        # Progress of phases asks too; only steps are counted here.
        return next(asked) if (tmp_path / "b" / "layer_map.json").exists() else ""

    with pytest.raises(Stopped):
        run(plain, tmp_path / "b", wish)
    assert store.whole_model(tmp_path / "b") is None
    result = pipeline.resume(tmp_path / "b", lambda event: None, quiet)
    assert result["adapter_sha256"] == done[1]["adapter_sha256"]


def test_a_run_that_ended_in_the_quiz_trains_no_second_time(done):
    out, result, _ = done
    (out / "result.json").unlink()
    events = []
    again = pipeline.resume(out, events.append, quiet)
    (out / "result.json").write_text(json.dumps(again), "utf-8")
    assert again["adapter_sha256"] == result["adapter_sha256"]
    assert not [e for e in events if e.kind == "step"]


def test_the_merged_export_answers_alike_and_an_adapter_there_is_none(done, tmp_path):
    out, *_ = done
    made = export(out, "merged", tmp_path / "merged")
    assert made["checked"]["equal"] == made["checked"]["prompts"] > 0
    model = modelload.load_dense(tmp_path / "merged", torch.float32)
    assert len(modelload.decoder_blocks(model)[1]) == 3
    card = (tmp_path / "merged" / "README.md").read_text("utf-8")
    assert "Size of the student" in card
    with pytest.raises(ModelError, match="no adapter to export"):
        export(out, "peft", tmp_path / "peft")
    report = export(out, "report", tmp_path / "report")
    assert report["files"] == ["report.html"]


def test_the_layer_map_is_kept_and_monotone(done):
    out, *_ = done
    tree = json.loads((out / "layer_map.json").read_text("utf-8"))
    assert tree["map"] == sorted(set(tree["map"]))
    assert len(tree["map"]) == 3
    assert len(tree["similarity"]) == 3


@pytest.mark.slow
def test_a_quantized_student_is_an_ordinary_run(config, tmp_path):
    distill = replace(config.distill, student="quantized", layer_map="rounding")
    plain = replace(config, distill=distill, quiz=replace(config.quiz, generate=False))
    out, result, events = run(plain, tmp_path / "q")
    assert result["sizes"]["student"]["bytes"] < result["sizes"]["teacher"]["bytes"]
    plan = json.loads((out / "plan.json").read_text("utf-8"))
    assert {x["bits"] for x in plan["linears"]} == {4}
    assert (out / "adapter").is_dir()
    first = next(e for e in events if e.kind == "terms")
    assert set(first.values) == {"answers", "output", "features", "relations"}
    asked = iter([""] * 4 + ["stop"] * 99)

    def wish():
        return next(asked) if (tmp_path / "r" / "layer_map.json").exists() else ""

    with pytest.raises(Stopped):
        run(plain, tmp_path / "r", wish)
    again = pipeline.resume(tmp_path / "r", lambda event: None, quiet)
    assert again["adapter_sha256"] == result["adapter_sha256"]
    made = export(out, "merged", tmp_path / "merged")
    assert made["checked"]["equal"] == made["checked"]["prompts"]


@pytest.mark.slow
def test_some_layers_can_be_trained_by_an_adapter(config, tmp_path):
    distill = replace(config.distill, training="adapter")
    quiz = replace(config.quiz, generate=False)
    out, _, _ = run(replace(config, distill=distill, quiz=quiz), tmp_path / "l")
    model, _, _ = store.load_adapted(out)
    assert len(modelload.decoder_blocks(model)[1]) == 3
    made = export(out, "merged", tmp_path / "merged")
    assert made["checked"]["equal"] == made["checked"]["prompts"]


@pytest.mark.slow
def test_a_smaller_model_of_the_family_learns_from_a_wider_one(config, tiny, tmp_path):
    smaller = str(tiny("llama"))
    narrow = replace(config, distill=replace(config.distill, student=smaller))
    out, result, _ = run(narrow, tmp_path / "s")
    student = DenseModel.load(out / store.WHOLE, torch.float32, torch.device("cpu"))
    assert len(student.blocks) == 2
    assert result["sizes"]["student"]["parameters"] < result["sizes"]["teacher"]["parameters"]


def test_a_budget_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ConfigError, match="no memory budget"):
        run(replace(config, budget_bytes=10**9), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_plan_is_made_for_stored_weights_only(config):
    with pytest.raises(ConfigError, match="has no plan"):
        pipeline.plan_run(config, lambda event: None)


def test_the_verb_is_the_method_under_its_own_name(config, tmp_path, monkeypatch, capsys, done):
    asked = {}

    def work(folder, screen):
        asked["config"] = RunConfig.load(folder / "config.json")
        return 0, done[1]

    monkeypatch.setattr(cli, "_work", work)
    data, out = config.data.path, str(tmp_path / "cli")
    code = cli.main(
        [
            *("distill", "--model", config.model, "--data", data, "--out", out),
            *("--student", "quantized", "--bits", "3"),
        ]
    )
    assert code == 0
    assert asked["config"].method == "distill"
    assert asked["config"].distill.student == "quantized"
    assert asked["config"].quant.bits == 3
    said = capsys.readouterr().err
    assert "teacher:" in said
    assert "student:" in said


def test_the_folder_of_a_smaller_model_becomes_absolute(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    given = ["distill", "--data", config.data.path, "--out", "x", "--student", "models/mine"]
    found = cli.configure(cli.build_parser().parse_args(given))
    assert found.distill.student == str(tmp_path / "models" / "mine")
    given[-1] = "layers"
    found = cli.configure(cli.build_parser().parse_args(given))
    assert found.distill.student == "layers"


def test_a_folder_that_failed_early_is_begun_anew(config, tmp_path):
    folder = tmp_path / "failed"
    prepare_folder(folder, config)
    (folder / "events.jsonl").write_text("", "utf-8")
    (folder / store.STUDENT_START).mkdir()
    (folder / "layer_map.json").write_text("{}", "utf-8")
    prepare_folder(folder, config)
    assert not (folder / store.STUDENT_START).exists()
    assert not (folder / "layer_map.json").exists()
