"""Adapters of PEFT and full fine-tuning, through whole runs on tiny models of the real classes."""

import json
from dataclasses import replace

import pytest
import torch

from core import modelload, pipeline
from core.adapters import peers, store
from core.errors import ConfigError, ModelError, Stopped
from core.export import export
from core.export.load import load_exported
from core.runs.residents import Residents

NF4 = ["peft-qlora", "loftq"]
ADAPTERS = ["peft-lora", "dora", "pissa", "adalora", *NF4]


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_a_run_trains_marks_and_says_what_others_say(done, method):
    out, result, events = done(method)
    losses = [e.loss for e in events if e.kind == "step"]
    assert len(losses) == 6 == result["steps"]
    assert losses[-1] < losses[0]
    assert {"predicted_peak_bytes", "measured_peak_bytes", "adapter_sha256"} <= result.keys()
    assert result["trained_numbers"] > 0 and result["predicted_peak_bytes"] > 0
    assert result["quiz"]["tuned"]["nll"] < result["quiz"]["base"]["nll"]
    assert any(e.kind == "memory" for e in events)
    files = [path.suffix for path in out.rglob("*") if path.is_file()]
    assert not {".bin", ".pt", ".pth", ".pkl"} & set(files)


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_what_is_saved_is_what_trained(done, method):
    """The loaded model's loss on the quiz is that of the best look, but for rounding."""
    _, result, events = done(method)
    best = min(e.nll for e in events if e.kind == "evaluated" and e.which == "tuned")
    assert result["quiz"]["tuned"]["nll"] == pytest.approx(
        best, rel=2e-3 if method == "full" else 1e-4
    )


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_a_stopped_run_resumes_to_the_same_numbers(done, config, method, tmp_path):
    _, whole, _ = done(method)
    steps = []

    def wish():
        return "stop" if len(steps) == 4 else ""

    chosen, out = replace(config, method=method), tmp_path / "run"
    with pytest.raises(Stopped):
        pipeline.run(chosen, out, lambda e: steps.append(e) if e.kind == "step" else None, wish)
    again = pipeline.resume(out, lambda event: None, lambda: "")
    assert again["adapter_sha256"] == whole["adapter_sha256"]


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        ("dora", "trajectory"),
        pytest.param("pissa", "anchor", marks=pytest.mark.slow),
        pytest.param("adalora", "anchor", marks=pytest.mark.slow),
        pytest.param("full", "trajectory", marks=pytest.mark.slow),
    ],
)
def test_penalty_and_balanced_decay_are_told_and_resume_to_the_same_numbers(
    done, config, method, direction, tmp_path, trained
):
    train = replace(config.train, direction=direction, balanced_decay="on", steps=4)
    chosen = replace(config, method=method, train=train)
    _, whole, events = trained(chosen, tmp_path / "whole")
    assert any(direction in e.terms for e in events if e.kind == "penalties")
    assert all(e.decay for e in events if e.kind == "optim")
    steps = []

    def wish():
        return "stop" if len(steps) == 3 else ""

    with pytest.raises(Stopped):
        pipeline.run(
            chosen,
            tmp_path / "parts",
            lambda e: steps.append(e) if e.kind == "step" else None,
            wish,
        )
    again = pipeline.resume(tmp_path / "parts", lambda event: None, lambda: "")
    assert again["adapter_sha256"] == whole["adapter_sha256"]


@pytest.mark.parametrize("method", ADAPTERS)
def test_merged_exports_have_the_logits_of_peft(done, method, tmp_path, logits, model_path):
    """The reference is PEFT's own loading on the base that the adapter was trained on."""
    from peft import PeftModel

    out, _, _ = done(method)
    found = export(out, "merged", tmp_path / "merged")
    assert found["checked"]["equal"] == found["checked"]["prompts"] > 0
    cpu = torch.device("cpu")
    stored = peers.NF4 if method in NF4 else peers.DENSE
    base = peers.load_base(model_path, stored, torch.float32, cpu)
    expected = logits(PeftModel.from_pretrained(base, out / store.ADAPTER).eval(), model_path)
    merged = logits(modelload.load_dense(tmp_path / "merged", torch.float32), model_path)
    assert torch.allclose(merged, expected, atol=2e-3)
    plain = logits(modelload.load_dense(model_path, torch.float32), model_path)
    assert (merged - plain).abs().max() > 0.01


@pytest.mark.parametrize("method", ["peft-lora", "dora", "adalora", "loftq"])
def test_the_adapter_is_exported_as_it_is_and_opened_again(
    done, config, method, tmp_path, logits, model_path
):
    out, _, _ = done(method)
    found = export(out, "peft", tmp_path / "peft")
    assert found["checked"]["equal"] == found["checked"]["prompts"] > 0
    text = (tmp_path / "peft" / "adapter_config.json").read_text("utf-8")
    assert config.model not in text
    tree = {**json.loads(text), "base_model_name_or_path": config.model}
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(tree), "utf-8")
    model, _, _ = load_exported(tmp_path / "peft", config.model)
    mine, _, _ = store.load_adapted(out, merged=False)
    assert torch.allclose(logits(model, model_path), logits(mine, model_path), atol=1e-5)
    with pytest.raises(ConfigError, match="one adapter"):
        export(out, "peft-exact", tmp_path / "exact")


def test_a_wholly_trained_model_is_a_model_like_any_other(done, tmp_path, logits, model_path):
    out, result, _ = done("full")
    assert not (out / "checkpoints").exists()
    export(out, "merged", tmp_path / "merged")
    mine, _, _ = store.load_adapted(out)
    theirs = modelload.load_dense(tmp_path / "merged", torch.float32)
    assert torch.equal(logits(mine, model_path), logits(theirs, model_path))
    assert "trained on the class" in (tmp_path / "merged" / "README.md").read_text("utf-8")
    assert result["trained_numbers"] == sum(p.numel() for p in theirs.parameters())
    with pytest.raises(ModelError, match="no adapter"):
        export(out, "peft", tmp_path / "peft")


def test_the_chat_has_the_base_and_the_tuned_model_side_by_side(done, config, logits, model_path):
    out, _, _ = done("dora")
    residents = Residents()
    tuned = residents.tuned(out, "", lambda share, text: None)
    mine, _, _ = store.load_adapted(out)
    assert torch.equal(logits(tuned.model, model_path), logits(mine, model_path))
    plain = residents.base(config.model, lambda share, text: None)
    assert torch.equal(
        logits(plain.model, model_path),
        logits(modelload.load_dense(model_path, torch.float32), model_path),
    )
