"""A loss taken chunk by chunk is the loss of the whole, gradients included."""

import pytest
import torch
from torch import nn

from core.objectives.head import DenseHead, StoredHead, each_chunk, head_loss
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight


def losses(logits, targets):
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.5, 0.0), (1.0, 3.0)])
def test_chunks_give_the_whole_loss_and_its_gradients(scale, softcap):
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(50, 8)), nn.Parameter(torch.randn(50))
    hidden, targets = torch.randn(11, 8, requires_grad=True), torch.randint(0, 50, (11,))
    head = DenseHead(weight, bias, scale, softcap)
    chunked = head_loss(hidden, head, lambda z, part: losses(z, targets[part]), chunk=4)
    (3 * chunked).backward()
    found = [t.grad.clone() for t in (hidden, weight, bias)]
    for t in (hidden, weight, bias):
        t.grad = None
    whole = losses(head.finished(hidden @ weight.t() + bias), targets)
    (3 * whole).backward()
    assert torch.allclose(chunked, whole, atol=1e-4)
    for mine, t in zip(found, (hidden, weight, bias), strict=True):
        assert torch.allclose(mine, t.grad, atol=1e-4)


def test_a_stored_head_gives_what_its_expanded_weight_gives():
    torch.manual_seed(0)
    table = QuantizedWeight.from_dense(torch.randn(64, 32), Scheme(8))
    dense = DenseHead(table.dequantize(torch.float32))
    targets, gradients = torch.randint(0, 64, (5,)), []
    for head in (StoredHead(table), dense):
        hidden = torch.linspace(-1, 1, 160).view(5, 32).requires_grad_()
        head_loss(hidden, head, lambda z, part: losses(z, targets[part]), chunk=2).backward()
        gradients.append(hidden.grad)
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_logits_of_all_tokens_never_exist_together():
    seen = []
    head = DenseHead(torch.randn(40, 4))
    each_chunk(torch.randn(10, 4), head, lambda z, part: seen.append(tuple(z.shape)), chunk=3)
    assert seen == [(3, 40), (3, 40), (3, 40), (1, 40)]


def test_a_frozen_head_gets_no_gradient():
    weight = nn.Parameter(torch.randn(20, 4), requires_grad=False)
    hidden = torch.randn(3, 4, requires_grad=True)
    head_loss(hidden, DenseHead(weight), lambda z, part: z.square().sum()).backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0
