"""The ledger counts real tensors, and nothing may grow past the plan unseen."""

from types import SimpleNamespace

import pytest
import torch

from core.layers.lora import AdapterLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.train.ledger import Ledger, LedgerError, held
from core.train.ranks import RankController


def trainee(bits=4, rank=4):
    torch.manual_seed(0)
    weight = QuantizedWeight.from_dense(torch.randn(24, 64), Scheme(bits))
    layer = AdapterLinear(weight)
    layer.set_triplets(torch.randn(24, rank), torch.ones(rank), torch.randn(rank, 64))
    optimizer = torch.optim.AdamW([layer.U, layer.s, layer.V], fused=True)
    return {"l": layer}, optimizer


def one_step(layers, optimizer):
    layers["l"](torch.randn(8, 64)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_parts_are_the_bytes_of_the_tensors(bits):
    layers, optimizer = trainee(bits)
    one_step(layers, optimizer)
    found, layer = held(layers, optimizer), layers["l"]
    assert found.weights == 24 * 64 * bits // 8
    assert found.frozen == layer.quantized.stored_bytes()
    assert found.frozen == layer.quantized.scheme.stored_bytes(24, 64)
    numbers = 4 * (24 + 1 + 64)
    assert found.factors == found.gradients == 4 * numbers
    assert found.moments == 8 * numbers + 3 * 4  # a counter for each of U, s and V
    parameters = (layer.U, layer.s, layer.V)
    assert found.gradients == sum(p.grad.nbytes for p in parameters)
    assert found.total == sum(
        (found.weights, found.scales, found.factors, found.gradients, found.moments, found.masks)
    )


def test_what_the_next_step_will_make_counts_before_it_is_there():
    layers, optimizer = trainee()
    before = held(layers, optimizer)
    one_step(layers, optimizer)
    after = held(layers, optimizer)
    assert (before.gradients, before.factors) == (after.gradients, after.factors)
    assert after.moments - before.moments == 3 * 4
    optimizer.zero_grad(set_to_none=True)
    assert held(layers, optimizer) == after


def test_compaction_shows_in_every_trained_part():
    layers, optimizer = trainee(rank=4)
    controller = RankController(layers, optimizer, 100, 1.0)
    one_step(layers, optimizer)
    before = held(layers, optimizer, controller.scores())
    controller.tracks["l"].target = torch.tensor([1.0, 0.0, 0.0, 1.0])
    layers["l"].m = torch.tensor([1.0, 0.0, 0.0, 1.0])
    controller.compact(5, lambda event: None)
    after = held(layers, optimizer, controller.scores())
    assert after.frozen == before.frozen
    assert 2 * after.factors == before.factors
    assert 2 * after.gradients == before.gradients
    assert 2 * after.masks == before.masks
    assert 2 * (after.moments - 12) == before.moments - 12


def test_a_layer_that_grows_past_the_plan_is_a_sentence_not_an_assertion():
    layers, optimizer = trainee(bits=4)
    ledger = Ledger(held(layers, optimizer).total, 1000, 0)
    ledger.check(held(layers, optimizer), 3)
    layers["l"].quantized = QuantizedWeight.from_dense(torch.randn(24, 64), Scheme(8))
    with pytest.raises(LedgerError) as told:
        ledger.check(held(layers, optimizer), 3)
    assert told.value.code == "train.ledger"
    assert "step 3" in str(told.value)
    assert told.value.action


def test_the_budget_counts_even_where_the_plan_allots_more():
    layers, optimizer = trainee()
    total = held(layers, optimizer).total
    Ledger(2 * total, 1000, total + 1000).check(held(layers, optimizer), 1)
    with pytest.raises(LedgerError):
        Ledger(2 * total, 1000, total + 999).check(held(layers, optimizer), 1)


def test_what_is_held_for_going_back_counts():
    layers, optimizer = trainee()
    ledger = Ledger(held(layers, optimizer).total + 10, 0, 0)
    ledger.check(held(layers, optimizer), 1, spare=10)
    with pytest.raises(LedgerError):
        ledger.check(held(layers, optimizer), 1, spare=11)


def test_limits_come_from_the_plan():
    parts = {"weights": 1, "adapters": 2, "gradients": 4, "optimizer": 8, "process": 16}
    plan = SimpleNamespace(parts=parts | {"allocator": 32}, budget_bytes=100)
    assert Ledger.of(plan) == Ledger(15, 48, 100)
