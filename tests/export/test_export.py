"""Exports answer as the studio does, in plain transformers and plain peft."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core import modelload, models
from core.adapters import store
from core.errors import ConfigError, ModelError
from core.events import Event, PhaseChanged
from core.export import export
from core.export.peft import compressed, learned_factors
from core.export.tensors import write_safetensors
from core.layers.lora import adapter_layers
from core.manifest import check_manifest

MakeRun = Callable[..., Path]
QUESTIONS = ("Hi", "What is the answer?", "学习")


def _greedy(model: Any, tokenizer: Any, questions: Sequence[str] = QUESTIONS) -> list[list[int]]:
    """What plain ``generate`` writes to each question."""
    written = []
    for question in questions:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        done = model.generate(**ids, do_sample=False, max_new_tokens=16, pad_token_id=0)
        written.append(done[0, ids["input_ids"].shape[1] :].tolist())
    return written


def _studio(run: Path) -> list[list[int]]:
    model, tokenizer, _ = store.load_adapted(run)
    return _greedy(model, tokenizer)


def test_the_merged_model_answers_as_the_studio(
    make_run: MakeRun, architecture: str, tmp_path: Path
) -> None:
    run, out = make_run(architecture), tmp_path / "merged"
    result = export(run, "merged", out)
    assert result["checked"]["equal"] == result["checked"]["prompts"] == 3
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert _greedy(plain, tokenizer) == _studio(run)
    assert {"model.safetensors", "config.json", "README.md", "MANIFEST.json"} <= set(
        result["files"]
    )
    check_manifest(out, contents=True)


def test_merging_changes_what_the_base_answers(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("llama")
    base = Path(models.resolve(json.loads((run / "config.json").read_text("utf-8"))["model"]).path)
    dense, tokenizer = modelload.load_dense(base, torch.float32), modelload.load_tokenizer(base)
    assert _greedy(dense, tokenizer) != _studio(run)


def test_the_exact_adapter_answers_as_the_studio(
    make_run: MakeRun, architecture: str, tmp_path: Path
) -> None:
    run, out = make_run(architecture), tmp_path / "exact"
    result = export(run, "peft-exact", out)
    assert result["checked"]["equal"] == result["checked"]["prompts"]
    tuned = json.loads((run / "result.json").read_text("utf-8"))["quiz"]["tuned"]
    assert result["marks"]["nll"] == pytest.approx(tuned["nll"], rel=1e-3)
    base = AutoModelForCausalLM.from_pretrained(out / "base")
    plain = PeftModel.from_pretrained(base, out).eval()
    assert _greedy(plain, AutoTokenizer.from_pretrained(out / "base")) == _studio(run)


def test_the_learned_adapter_is_the_difference_to_the_start(
    make_run: MakeRun, architecture: str, tmp_path: Path
) -> None:
    run, out = make_run(architecture), tmp_path / "learned"
    result = export(run, "peft-learned", out)
    assert result["marks"]["nll"] > 0 and "exact" not in "".join(result["files"])
    model, base = store.load_run(run)
    start = store.start_triplets(run)
    original = modelload.load_dense(base, torch.float32)
    weights = {n: p.clone() for n, p in original.named_parameters()}
    merged = PeftModel.from_pretrained(original, out).merge_and_unload()
    changed = dict(merged.named_parameters())
    for name, layer in adapter_layers(model.model).items():
        before = start[f"{name}.U"] * start[f"{name}.s"] @ start[f"{name}.V"]
        difference = changed[f"{name}.weight"] - weights[f"{name}.weight"]
        difference = difference.t() if layer.transposed else difference
        torch.testing.assert_close(difference, layer.delta() - before, atol=2e-5, rtol=1e-4)


def test_ranks_differ_by_layer_and_never_exceed_the_sum(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("llama"), tmp_path / "learned"
    export(run, "peft-learned", out)
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(out / "adapter_model.safetensors")
    ranks = [t.shape[0] for n, t in tensors.items() if n.endswith("lora_A.weight")]
    assert len(set(ranks)) > 1 and max(ranks) <= 6
    assert set(config["rank_pattern"].values()) | {config["r"]} == set(ranks)
    assert config["rank_pattern"] == config["alpha_pattern"] and config["lora_alpha"] == config["r"]
    assert len(config["target_modules"]) == 13  # one of 14 layers has rank 0
    assert str(tmp_path) not in (out / "adapter_config.json").read_text("utf-8")


def test_both_adapters_come_in_one_folder(make_run: MakeRun, tmp_path: Path) -> None:
    events: list[Event] = []
    result = export(make_run("qwen2"), "peft", tmp_path / "both", emit=events.append)
    files = set(result["files"])
    assert {"adapter_config.json", "exact/adapter_config.json"} <= files
    assert "exact/base/model.safetensors" in files
    assert result["checked"]["equal"] == 3 and result["learned"]["marks"]["nll"] > 0
    shares = [e.share for e in events if isinstance(e, PhaseChanged)]
    assert shares[-1] == 1.0


def test_nothing_learned_gives_no_adapter(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("llama", learned=0.0)
    model, _ = store.load_run(run)
    assert learned_factors(adapter_layers(model.model), store.start_triplets(run)) == {}
    with pytest.raises(ModelError, match="changed nothing"):
        export(run, "peft-learned", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_answers_otherwise_is_not_kept(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = make_run("llama"), tmp_path / "merged"
    export(run, "merged", out)
    before = (out / "MANIFEST.json").read_bytes()
    load = modelload.load_dense

    def spoiled(path: Path, dtype: Any = None) -> Any:
        model = load(path, dtype)
        with torch.no_grad():
            next(iter(modelload.linear_targets(model).values())).weight.mul_(-3)
        return model

    monkeypatch.setattr(modelload, "load_dense", spoiled)
    with pytest.raises(ModelError, match="otherwise than the studio"):
        export(run, "merged", out)
    assert (out / "MANIFEST.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if "merged" in p.name) == ["merged"]


def test_factors_are_compressed_to_their_rank() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(20, 3), torch.randn(3, 30)
    twice, half = torch.cat([left, left], 1), torch.cat([right, -0.5 * right], 0)
    B, A = compressed(twice, half)
    assert B.shape == (20, 3) and A.shape == (3, 30)
    torch.testing.assert_close(B @ A, 0.5 * left @ right, atol=1e-5, rtol=1e-5)
    same, away = torch.cat([left, left], 1), torch.cat([right, -right], 0)
    assert compressed(same, away)[0].shape == (20, 0)


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite"):
        write_safetensors(
            tmp_path / "w", {"a": (2,)}, torch.float32, lambda name: torch.tensor([1.0, torch.nan])
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_written_tensors_are_read_by_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.randn(3, 5), "b.weight": torch.randn(7)}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    write_safetensors(tmp_path / "w.safetensors", shapes, dtype, tensors.__getitem__)
    found = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], t.to(dtype)) for name, t in tensors.items())


def test_a_folder_of_something_else_is_not_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("llama")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine", "utf-8")
    (tmp_path / "mine" / "thesis.txt").write_text("mine", "utf-8")
    for form in ("merged", "card"):
        with pytest.raises(ConfigError, match="not empty"):
            export(run, form, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text("utf-8") == "mine"


def test_an_unfinished_run_has_nothing_to_export(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("llama")
    (run / "result.json").unlink()
    with pytest.raises(ModelError, match="not finished"):
        export(run, "merged", tmp_path / "out")
    with pytest.raises(ConfigError, match="no export format"):
        export(run, "exe", tmp_path / "out")
