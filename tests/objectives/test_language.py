import pytest
import torch

from core.objectives import language
from core.objectives.language import answer_loss, answer_losses
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.5, 3.0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_loss_and_gradient_against_torch(monkeypatch, scale, softcap, bits):
    monkeypatch.setattr(language, "CHUNK_BYTES", 7 * 300 * 4)  # several chunks
    torch.manual_seed(0)
    table = QuantizedWeight.from_dense(torch.randn(300, 64), Scheme(bits))
    hidden = torch.randn(40, 64, requires_grad=True)
    targets = torch.randint(0, 300, (40,))
    targets[::3] = -100
    loss = answer_loss(hidden, table, targets, scale=scale, softcap=softcap)
    (3 * loss).backward()
    ours, hidden.grad = hidden.grad, None
    logits = hidden @ table.dequantize().t() * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    reference = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100)
    (3 * reference).backward()
    assert torch.allclose(loss, reference, atol=1e-5)
    assert torch.allclose(ours, hidden.grad, atol=1e-5)
    each = answer_losses(hidden, table, targets, scale=scale, softcap=softcap)
    assert torch.allclose(each.mean(), reference, atol=1e-5)


def test_bias_of_the_head_counts():
    table = QuantizedWeight.from_dense(torch.randn(30, 32), Scheme(16))
    hidden, bias = torch.randn(5, 32), torch.randn(30)
    targets = torch.randint(0, 30, (5,))
    reference = torch.nn.functional.cross_entropy(hidden @ table.dequantize().t() + bias, targets)
    assert torch.allclose(answer_loss(hidden, table, targets, bias=bias), reference, atol=1e-5)
