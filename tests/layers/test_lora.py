import pytest
import torch

from core.layers.lora import AdapterLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


@pytest.fixture
def layer() -> AdapterLinear:
    torch.manual_seed(0)
    stored = QuantizedWeight.from_dense(torch.randn(12, 64), Scheme(4))
    layer = AdapterLinear(stored, torch.randn(12))
    mask = torch.tensor([1.0, 0.0, 0.4])
    layer.set_triplets(torch.randn(12, 3), torch.randn(3), torch.randn(3, 64), mask)
    return layer


@pytest.mark.parametrize("tokens", [3, 40])
def test_outputs_and_gradients_against_autograd(layer, tokens):
    x = torch.randn(2, tokens, 64, requires_grad=True)
    # Long rows multiply by weight and adapter at once, short ones one after the other.
    assert layer.merges(2 * tokens, x.dtype) == (tokens == 40)
    y = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    U, s, V, again = (
        t.detach().clone().requires_grad_(True) for t in (layer.U, layer.s, layer.V, x)
    )
    dense = layer.quantized.dequantize()
    reference = again @ dense.t() + ((again @ V.t()) * (s * layer.m)) @ U.t() + layer.bias
    reference.backward(dy)
    assert torch.allclose(y, reference, atol=1e-5)
    for ours, theirs in ((layer.U, U), (layer.s, s), (layer.V, V), (x, again)):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 16])
def test_many_products_leave_the_stored_weight_as_it_was(bits):
    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(12, 64), Scheme(bits)))
    layer.set_triplets(torch.randn(12, 3), torch.ones(3), torch.randn(3, 64))
    before = layer.quantized.dequantize().clone()
    for _ in range(2):
        layer(torch.randn(100, 64, requires_grad=True)).sum().backward()
    assert torch.equal(layer.quantized.dequantize(), before)
    dense = AdapterLinear(QuantizedWeight.from_dense(torch.randn(12, 64), Scheme(16)))
    dense.set_triplets(torch.randn(12, 3), torch.ones(3), torch.randn(3, 64))
    # What is stored in the dtype of the products is not copied, so nothing may be added to it.
    assert not dense.merges(100, dense.quantized.dense.dtype)


def test_a_masked_triplet_gets_a_score_but_no_gradient(layer):
    layer(torch.randn(3, 64)).square().sum().backward()
    assert layer.s.grad[1] == 0
    assert layer.U.grad[:, 1].abs().max() == 0
    assert layer.V.grad[1].abs().max() == 0
    assert layer.gate_gradient[1] != 0


def test_the_backward_pass_keeps_no_dense_weight(layer):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(3, 64, requires_grad=True))
    assert (12, 64) not in kept


def test_effective_weight_maps_as_the_layer_does(layer):
    x = torch.randn(4, 64)
    merged = x @ layer.effective_weight().t() + layer.bias
    assert torch.allclose(layer(x), merged, atol=1e-5)


def test_without_triplets_it_is_the_stored_layer():
    stored = QuantizedWeight.from_dense(torch.randn(6, 32), Scheme(16))
    x = torch.randn(2, 32, requires_grad=True)
    y = AdapterLinear(stored)(x)
    y.sum().backward()
    assert torch.allclose(y, x @ stored.dequantize().t())
    assert torch.allclose(x.grad, stored.dequantize().sum(0).expand(2, -1), atol=1e-5)
