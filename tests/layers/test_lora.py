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


def test_outputs_and_gradients_against_autograd(layer):
    x = torch.randn(2, 5, 64, requires_grad=True)
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
