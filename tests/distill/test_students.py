"""Where students begin, and what is refused in a sentence."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from core import modelload
from core.config import RunConfig
from core.distill.students import (
    completed,
    every_kth,
    kept_layers,
    same_tokenizer,
    stored_dtype,
)
from core.errors import ConfigError, ModelError


@pytest.mark.parametrize("layers", [2, 3, 7, 30])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_the_first_and_the_last_layer_stay(layers, every):
    kept = kept_layers(layers, every)
    assert kept[0] == 0
    assert kept[-1] == layers - 1
    assert all(b - a <= every for a, b in pairwise(kept))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gemma3", "qwen2", "smollm3"])
def test_the_layers_that_stay_are_the_teachers(deep, architecture, tmp_path):
    teacher = deep(architecture)
    kept = every_kth(teacher, 2, tmp_path / "student")
    assert kept == [0, 1, 3]
    student = modelload.load_dense(tmp_path / "student", torch.float32)
    whole = modelload.load_dense(teacher, torch.float32)
    mine, theirs = (modelload.decoder_blocks(m)[1] for m in (student, whole))
    assert len(mine) == 3
    for block, layer in zip(mine, kept, strict=True):
        for a, b in zip(block.parameters(), theirs[layer].parameters(), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(student.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    assert stored_dtype(tmp_path / "student") == stored_dtype(teacher)
    own = modelload.load_tokenizer(tmp_path / "student")
    assert own.chat_template == modelload.load_tokenizer(teacher).chat_template


def test_a_student_that_would_keep_every_layer_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="keep every layer"):
        every_kth(tiny("llama"), 2, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_another_tokenizer_is_refused_with_a_sentence(deep, tmp_path, examples):
    import shutil

    shutil.copytree(deep("llama"), tmp_path / "other")
    text = (tmp_path / "other" / "tokenizer.json").read_text("utf-8")
    swapped = text.replace('"a":', '"\u0001":').replace('"b":', '"a":').replace('"\u0001":', '"b":')
    (tmp_path / "other" / "tokenizer.json").write_text(swapped, "utf-8")
    same_tokenizer(deep("llama"), deep("llama"), examples)
    with pytest.raises(ModelError, match="different tokens") as told:
        same_tokenizer(deep("llama"), tmp_path / "other", examples)
    assert told.value.action
    assert told.value.code == "distill.tokenizer"


def settings(**distill):
    config = RunConfig(method="distill")
    return replace(config, distill=replace(config.distill, **distill))


def test_what_distillation_cannot_do_is_said():
    with pytest.raises(ConfigError, match="no memory budget"):
        completed(replace(settings(), budget_bytes=10**9))
    with pytest.raises(ConfigError, match="keeps its weights frozen"):
        completed(settings(student="quantized", training="full"))
    none = dict.fromkeys(
        ("answer_weight", "output_weight", "feature_weight", "attention_weight"), 0.0
    )
    with pytest.raises(ConfigError, match="nothing to learn"):
        completed(settings(**none))


def test_a_student_of_stored_weights_gets_bits_unless_they_are_given():
    assert completed(settings(student="quantized")).quant.bits == 4
    assert completed(settings(student="layers")).quant.bits == 0
    chosen = settings(student="quantized")
    assert completed(replace(chosen, quant=replace(chosen.quant, bits=3))).quant.bits == 3
