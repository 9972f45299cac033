"""A layer with dropout and magnitude: identities, and DoRA as PEFT computes it."""

import pytest
import torch

from core.layers.lora import AdapterLinear
from core.layers.magnitude import MagnitudeLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def filled(*, dropout=0.0, bits=16):
    torch.manual_seed(0)
    stored = QuantizedWeight.from_dense(torch.randn(12, 64).bfloat16().float(), Scheme(bits))
    layer = MagnitudeLinear(stored, torch.randn(12), dropout=dropout)
    layer.set_triplets(torch.randn(12, 3), torch.full((3,), 0.7), torch.randn(3, 64))
    return layer.eval()


@pytest.mark.parametrize("bits", [4, 16])
def test_without_either_it_is_the_plain_layer(bits):
    layer, x = filled(bits=bits), torch.randn(5, 64)
    plain = AdapterLinear(layer.quantized, layer.bias)
    plain.set_triplets(layer.U, layer.s, layer.V)
    assert torch.equal(layer(x), plain(x))


def test_magnitude_changes_nothing_at_its_start_and_dropout_nothing_outside_training():
    layer, x = filled(dropout=0.5), torch.randn(5, 64)
    before = layer(x)
    layer.add_magnitude()
    assert torch.allclose(layer(x), before, atol=1e-5)
    assert not torch.allclose(layer.train()(x), before, atol=1e-2)


def test_row_norms_equal_those_of_the_dense_weight():
    layer = filled(bits=4)
    dense = layer.quantized.dequantize() + layer.delta()
    assert torch.allclose(layer.row_norms(), dense.norm(dim=1), atol=1e-4)


def test_the_dropped_path_has_the_gradients_of_autograd_and_gathers_the_gate():
    layer, x = filled(dropout=0.3), torch.randn(6, 64, requires_grad=True)
    layer.train()
    torch.manual_seed(3)
    y = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    U, V, again = (t.detach().clone().requires_grad_() for t in (layer.U, layer.V, x))
    gate = (layer.s * layer.m).clone().requires_grad_()
    torch.manual_seed(3)
    seen = torch.nn.functional.dropout(again, 0.3)
    dense = layer.quantized.dequantize()
    reference = again @ dense.t() + ((seen @ V.t()) * gate) @ U.t() + layer.bias
    reference.backward(dy)
    assert torch.allclose(y, reference, atol=1e-5)
    for ours, theirs in ((layer.U.grad, U.grad), (layer.V.grad, V.grad), (x.grad, again.grad)):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(layer.gate_gradient, gate.grad, atol=1e-4)
    assert layer.s.grad is None


def test_merged_equals_adapted():
    layer, x = filled(), torch.randn(5, 64)
    layer.add_magnitude()
    layer.magnitude.data *= torch.rand(12) + 0.5
    assert torch.allclose(layer(x), x @ layer.effective_weight().t() + layer.bias, atol=1e-4)


def test_magnitude_trains_as_dora_of_peft():
    """Same weights, same start, 20 steps of SGD: outputs within 1e-5."""
    peft = pytest.importorskip("peft")
    layer = filled()
    U, V = torch.randn(12, 3) * 0.1, torch.randn(3, 64) * 0.1
    layer.set_triplets(U, torch.full((3,), 2.0), V)
    layer.add_magnitude()
    base = torch.nn.Sequential(torch.nn.Linear(64, 12))
    base[0].weight.data = layer.quantized.dequantize()
    base[0].bias.data = layer.bias.clone()
    config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["0"])
    theirs = peft.get_peft_model(base, config)
    named = dict(theirs.named_parameters())
    a, b, g = (
        next(p for n, p in named.items() if key in n)
        for key in ("lora_A", "lora_B", "lora_magnitude_vector")
    )
    a.data, b.data, g.data = V.clone(), U.clone(), layer.magnitude.data.clone()
    ours = torch.optim.SGD([layer.V, layer.U, layer.magnitude], lr=0.02)
    reference = torch.optim.SGD([a, b, g], lr=0.02)
    x, target = torch.randn(16, 64), torch.randn(16, 12)
    for _ in range(20):
        for model, optimizer in ((layer, ours), (theirs, reference)):
            optimizer.zero_grad()
            (model(x) - target).square().mean().backward()
            optimizer.step()
    assert torch.allclose(layer(x), theirs(x), atol=1e-5)
    assert torch.allclose(layer.magnitude, g, atol=1e-5)
