import pytest
import torch

from core.objectives import language
from core.objectives.language import answer_loss, answer_losses
from core.quant.embedding import row_blocks
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.5, 3.0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_loss_and_gradient_against_torch(monkeypatch, scale, softcap, bits):
    # Several groups of tokens, several blocks of words, the last of each smaller.
    monkeypatch.setattr(language, "BLOCK_BYTES", 7 * 300 * 4)
    monkeypatch.setattr(language, "row_blocks", lambda table: row_blocks(table, 64))
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


def test_loss_of_logits_too_large_for_exp_is_finite():
    table = QuantizedWeight.from_dense(400 * torch.eye(32), Scheme(16))
    hidden = torch.eye(32)[:4].requires_grad_()
    targets = torch.tensor([0, 1, 5, 6])
    loss = answer_loss(hidden, table, targets)
    loss.backward()
    assert loss.item() == pytest.approx(200, rel=1e-2)  # two are sure and right, two sure and wrong
    assert hidden.grad.isfinite().all()


def test_nothing_to_learn_gives_no_number():
    table = QuantizedWeight.from_dense(torch.randn(30, 32), Scheme(16))
    nothing = torch.full((5,), -100)
    assert answer_loss(torch.randn(5, 32), table, nothing).isnan()
    assert answer_losses(torch.randn(5, 32), table, nothing).shape == (0,)
