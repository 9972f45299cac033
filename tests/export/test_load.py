"""Exports opened again by us: adapters on the right base, nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core import models
from core.adapters import store
from core.data.types import Turn
from core.errors import ModelError
from core.evaluate.generate import answer
from core.export import export
from core.export.load import is_exported, load_exported

MakeRun = Callable[..., Path]
HELLO = [Turn("user", "Hi there")]


@pytest.mark.parametrize("form", ["merged", "peft-exact"])
def test_an_opened_export_answers_as_the_run(make_run: MakeRun, tmp_path: Path, form: str) -> None:
    run, out = make_run("llama"), tmp_path / "out"
    export(run, form, out)
    assert is_exported(out) and not is_exported(run)
    expected = answer(*store.load_adapted(run), HELLO, max_new_tokens=16)
    assert answer(*load_exported(out), HELLO, max_new_tokens=16) == expected


def test_the_learned_adapter_needs_its_base(
    make_run: MakeRun, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    run, out = make_run("llama"), tmp_path / "out"
    export(run, "peft-learned", out)
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    with pytest.raises(ModelError, match=config["base_model_name_or_path"]):
        load_exported(out)
    config["base_model_name_or_path"] = str(tiny("llama"))
    (out / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    model, _, _ = load_exported(out, str(tiny("llama")))
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_an_adapter_of_another_shape_says_which_base_it_needs(
    make_run: MakeRun, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(make_run("gpt2"), "peft-learned", out)
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = str(tiny("llama"))
    (out / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match="was made for"):
        load_exported(out, str(tiny("llama")))


def test_an_adapter_with_numbers_that_are_none_is_refused(
    make_run: MakeRun, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    export(make_run("llama"), "peft-exact", out)
    tensors = load_file(out / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.inf
    save_file(tensors, out / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="NaN"):
        load_exported(out)


def test_a_listed_base_is_found_by_the_adapter(
    make_run: MakeRun,
    tiny: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    models.add_folder(tiny("qwen3"))
    out = tmp_path / "out"
    export(make_run("qwen3"), "peft-learned", out)
    model, tokenizer, chat = load_exported(out)
    assert answer(model, tokenizer, chat, HELLO, max_new_tokens=4)
