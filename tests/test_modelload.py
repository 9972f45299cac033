"""Opening models: structure by type, tensors one at a time, hidden states to logits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from core import modelload
from core.errors import ModelError
from core.modelcheck import check_folder

Tiny = Callable[[str], Path]
PER_BLOCK = {"glm4": 6, "glm": 6, "phi3": 4, "gpt2": 4}  # fused projections; the others have 7


def test_every_architecture_passes_the_folder_check(tiny: Tiny, architecture: str) -> None:
    assert check_folder(tiny(architecture))["model_type"].startswith(architecture)


def test_targets_are_the_linear_layers_inside_the_blocks(tiny: Tiny, architecture: str) -> None:
    model = modelload.empty_model(tiny(architecture))
    targets = modelload.linear_targets(model)
    assert len(targets) == 2 * PER_BLOCK.get(architecture, 7)
    assert {modelload.block_of(name) for name in targets} == {0, 1}
    assert all(isinstance(m, (nn.Linear, Conv1D)) for m in targets.values())
    assert modelload.output_head(model) not in targets.values()
    assert all(model.get_submodule(name) is module for name, module in targets.items())


def test_weights_equal_the_loaded_model(tiny: Tiny, architecture: str) -> None:
    model = modelload.load_dense(tiny(architecture), torch.float32)
    weights = modelload.Weights(tiny(architecture))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert set(weights) == set(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(weights[name], parameter)
        assert weights.shape(name) == tuple(parameter.shape)
        assert torch.equal(weights.rows(name, 1, 3), parameter[1:3])


def test_parts_give_the_logits_of_the_model(tiny: Tiny, architecture: str) -> None:
    model = modelload.load_dense(tiny(architecture), torch.float32)
    parts = modelload.decoder_parts(model)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        hidden = parts.inner(input_ids=ids).last_hidden_state
        assert torch.equal(parts.logits(hidden), model(input_ids=ids).logits)
    assert parts.tied == model.config.tie_word_embeddings


def test_an_empty_model_takes_no_memory(tiny: Tiny) -> None:
    model = modelload.empty_model(tiny("llama"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_shape_of_a_transposed_layer_is_out_by_in() -> None:
    assert modelload.linear_shape(Conv1D(12, 4)) == (12, 4)
    assert modelload.linear_shape(nn.Linear(4, 12)) == (12, 4)
    with pytest.raises(TypeError):
        modelload.linear_shape(nn.LayerNorm(4))


def test_a_layer_outside_the_blocks_has_no_block() -> None:
    assert modelload.block_of("lm_head") == -1
    assert modelload.block_of("model.layers.17.mlp.up_proj") == 17


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_shards_are_joined_through_the_index(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny("qwen3"), tmp_path / "sharded")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({n: tensors[n] for n in some}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, some in parts.items() for n in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    weights = modelload.Weights(folder)
    assert all(torch.equal(weights[name], tensors[name]) for name in names)


def test_a_checkpoint_saved_without_the_outer_prefix_is_read(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny("gpt2"), tmp_path / "bare")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    weights = modelload.Weights(folder)
    model = modelload.load_dense(folder, torch.float32)
    assert weights.stored_name("transformer.h.0.mlp.c_fc.weight") == "h.0.mlp.c_fc.weight"
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())


def test_a_missing_tensor_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny("llama"), tmp_path / "holed")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        modelload.Weights(folder)


def test_an_unusable_configuration_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    folder = _copy(tiny("llama"), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}), "utf-8")
    with pytest.raises(ModelError) as caught:
        modelload.empty_model(folder)
    assert str(tmp_path) not in str(caught.value)


def test_the_starter_splits_numbers_into_digits(starter: Path) -> None:
    tokenizer = modelload.load_tokenizer(starter)
    assert tokenizer.tokenize("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]
    text = "一只猫 sat on 3.14 mats — naïve 😀"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_checked_tokenizer_can_pad(tiny: Tiny) -> None:
    assert modelload.load_tokenizer(tiny("llama")).pad_token_id is not None
