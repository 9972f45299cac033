"""Fused blocks compute what the library's blocks compute, and keep less of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from core.assemble import LanguageModel, build
from core.layers.attention import bounds_of
from core.layers.blocks import NORM_BEFORE_MLP, rotary
from core.layers.lora import AdapterLinear, adapter_layers
from core.plan.memory import LiveBytes
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

FUSED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3", "granite")


def adapted(path: Path, bits: int = 16) -> LanguageModel:
    generator = torch.Generator().manual_seed(1)

    def store(name, read, bias, transposed):
        layer = AdapterLinear(
            QuantizedWeight.from_dense(read(), Scheme(bits)), bias, transposed=transposed
        )
        o, i = layer.out_features, layer.in_features
        U = 0.1 * torch.randn(o, 4, generator=generator)
        V = torch.randn(4, i, generator=generator) / i**0.5
        layer.set_triplets(U, torch.ones(4), V, torch.tensor([1.0, 1.0, 0.4, 0.0]))
        return layer

    return build(path, store)


def step(model: LanguageModel, lengths: tuple[int, ...], shared: int = 0) -> tuple[float, Tensor]:
    """Loss and all gradients, also of the gates, of a packed row."""
    layers = adapter_layers(model.model).values()
    for layer in layers:
        layer.gate_gradient = None
    model.model.zero_grad()
    torch.manual_seed(0)
    parts = [torch.arange(shared), *(torch.arange(shared, shared + n) for n in lengths)]
    positions = torch.cat(parts)
    ids = torch.randint(0, 200, (len(positions),))
    labels = ids.clone()
    labels[: shared + 2] = -100
    loss = model.loss(ids, positions, labels)
    loss.backward()
    found = [t.flatten() for x in layers for t in (x.U.grad, x.s.grad, x.V.grad, x.gate_gradient)]
    return float(loss.detach()), torch.cat(found)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("recomputed", [0, 1])
def test_losses_and_gradients_are_those_of_the_library(tiny, architecture, recomputed):
    model = adapted(tiny(architecture))
    assert model.fused == (architecture in FUSED)
    model.recompute(recomputed)
    lengths = (300, 9, 40)  # more than one group of segments
    # With a window the library's mask would be the square one: beginnings are held apart there.
    shared = (0,) if architecture in ("gemma2", "gemma3") else (0, 6)
    found = [step(model, lengths, p) for p in shared]
    model.unfuse()
    for (loss, gradients), p in zip(found, shared, strict=True):
        expected, dense = step(model, lengths, p)
        assert loss == pytest.approx(expected, abs=1e-5)
        # What is kept has 11 bits.
        assert distance(gradients, dense) < 3e-3


def test_rotary_embedding_and_its_gradient_are_those_of_the_library():
    torch.manual_seed(0)
    angles = torch.randn(1, 7, 4)
    cos, sin = (torch.cat([f(angles), f(angles)], -1).double() for f in (torch.cos, torch.sin))
    # As models hand them over: heads in the second place, tokens first in memory.
    q, k = (torch.randn(1, 7, n, 8).double().transpose(1, 2).requires_grad_() for n in (6, 2))
    again = [t.detach().clone().requires_grad_() for t in (q, k)]
    ours, theirs = rotary(q, k, cos, sin), apply_rotary_pos_emb(*again, cos, sin)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
        weight = torch.randn_like(one)
        (one * weight).sum().backward()
        (other * weight).sum().backward()
    assert torch.allclose(q.grad, again[0].grad, atol=1e-12)
    assert torch.allclose(k.grad, again[1].grad, atol=1e-12)


@pytest.mark.parametrize("architecture", FUSED)
def test_the_library_itself_keeps_its_rotary_embedding(architecture, tiny):
    model = adapted(tiny(architecture))
    attention = model.blocks[0].self_attn
    own = type(attention).forward.__globals__["apply_rotary_pos_emb"]
    assert attention.forward.__func__.__globals__["apply_rotary_pos_emb"] is rotary
    assert own is not rotary
    model.unfuse()
    assert "forward" not in vars(attention)


def test_unfused_and_fused_again_computes_the_same(tiny):
    model = adapted(tiny("qwen3"))
    before = step(model, (20, 5))
    model.unfuse()
    assert not model.fused
    step(model, (20, 5))
    model.fuse()
    after = step(model, (20, 5))
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])


def test_weights_below_sixteen_bits_take_the_same_path(tiny):
    model = adapted(tiny("llama"), bits=3)
    fused = step(model, (30, 9), 4)
    model.unfuse()
    plain = step(model, (30, 9), 4)
    assert fused[0] == pytest.approx(plain[0], abs=1e-5)
    assert distance(fused[1], plain[1]) < 3e-3


def test_looking_at_the_quiz_between_steps_changes_no_gradient(tiny):
    model = adapted(tiny("llama"))
    before = step(model, (30, 9))
    ids = torch.randint(0, 200, (25,))
    model.losses(ids, torch.arange(25), ids)
    with torch.no_grad():
        model.model.generate(ids[None], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(step(model, (30, 9))[1], before[1])


def test_a_fused_block_keeps_a_third_of_what_the_library_keeps(tiny: Callable[[str], Path]):
    model = adapted(tiny("llama"))
    kept = []
    for fuse in (True, False):
        if not fuse:
            model.unfuse()
        ids, positions = torch.arange(128) % 200, torch.arange(128)
        with LiveBytes() as live:
            hidden = model.hidden(ids, positions)
            kept.append(live.now)
            del hidden
    assert kept[0] < kept[1] / 2  # the block of memory that frames share is in it


def test_only_blocks_that_apply_each_norm_once_are_fused():
    import transformers
    from transformers.models.auto import modeling_auto  # the table names real classes

    names = set()
    for model_class in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        found = getattr(transformers, str(model_class), None)
        if found is not None:
            names |= set(getattr(found, "_no_split_modules", None) or [])
    assert set(NORM_BEFORE_MLP) <= names


def test_a_row_is_cut_where_positions_start_anew():
    positions = torch.tensor([0, 1, 2, 3, 4, 2, 3, 2, 3, 4])
    assert bounds_of(positions).flatten().tolist() == [2, 5, 7, 10]
    assert bounds_of(torch.arange(4)).flatten().tolist() == [0, 4]
    assert bounds_of(torch.tensor([0, 1, 0, 1, 2])).flatten().tolist() == [0, 2, 5]
