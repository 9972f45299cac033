import pytest
import torch

from core.layers.lora import AdapterLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.train.ranks import RankController


def layers(count: int = 3, rank: int = 6) -> dict[str, AdapterLinear]:
    torch.manual_seed(0)
    made = {}
    for k in range(count):
        layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(10 + 6 * k, 32), Scheme(8)))
        layer.set_triplets(torch.randn(10 + 6 * k, rank), torch.ones(rank), torch.randn(rank, 32))
        made[f"l{k}"] = layer
    return made


def cost_of(made, ranks) -> float:
    return sum((made[n].out_features + made[n].in_features + 1) * r for n, r in ranks.items())


def train(made, steps, target_cost, important=None):
    optimizer = torch.optim.AdamW([p for x in made.values() for p in x.parameters()], lr=1e-3)
    controller = RankController(made, optimizer, steps, target_cost)
    events = []
    for step in range(steps):
        loss = sum(layer(torch.randn(8, 32)).square().mean() for layer in made.values())
        optimizer.zero_grad()
        loss.backward()
        if important:
            for n, layer in made.items():
                layer.gate_gradient = torch.full((layer.rank,), 1e-6)
                layer.U.grad = layer.V.grad = None
                if n == important:
                    layer.gate_gradient.fill_(1.0)
        controller.after_backward(step, events.append)
        optimizer.step()
    return controller, events


def test_ranks_fall_to_the_budget_and_memory_is_freed():
    made = layers()
    before = sum(p.numel() for x in made.values() for p in x.parameters())
    start = cost_of(made, {n: x.rank for n, x in made.items()})
    train(made, 60, 0.5 * start)
    active = {n: x.active_rank for n, x in made.items()}
    assert cost_of(made, active) <= 0.5 * start
    assert sum(p.numel() for x in made.values() for p in x.parameters()) <= 0.6 * before


def test_the_important_layer_keeps_its_triplets():
    made = layers()
    total = cost_of(made, {n: x.rank for n, x in made.items()})
    train(made, 60, 0.5 * total, important="l1")
    assert made["l1"].active_rank == 6
    assert made["l0"].active_rank < 6


def test_the_budget_falls_and_is_never_passed_by_the_masks():
    made = layers()
    total = cost_of(made, {n: x.rank for n, x in made.items()})
    controller, events = train(made, 60, 0.4 * total)
    assert events
    for event in events:
        if event.reason == "importance":
            assert cost_of(made, event.ranks) <= controller.budget(event.step) + 1e-6


def test_a_masked_triplet_that_matters_again_comes_back():
    made = layers(2, 4)
    optimizer = torch.optim.AdamW([p for x in made.values() for p in x.parameters()], lr=1e-3)
    controller = RankController(made, optimizer, 100, 1.0)
    controller.updates = 10
    for track in controller.tracks.values():
        track.mean.fill_(1.0)
        track.spread.fill_(1.0)
    track = controller.tracks["l0"]
    track.target[2] = 0.0
    track.mean[2] = 50.0
    controller.target_cost = controller.start_cost
    controller._move(20, lambda event: None)
    assert controller.tracks["l0"].target[2] == 1.0


def test_one_look_below_the_threshold_prunes_nothing():
    made = layers(1, 6)
    optimizer = torch.optim.AdamW(made["l0"].parameters(), lr=1e-3)
    controller = RankController(made, optimizer, 100, 1e9)
    controller.updates = 10
    track = controller.tracks["l0"]
    track.mean.fill_(1.0)
    track.spread.fill_(1.0)
    track.mean[5] = 0.01
    controller.tracks["l0"].target[4] = 1.0
    controller._move(20, lambda event: None)
    assert controller.tracks["l0"].target.sum() == 6


@pytest.mark.parametrize("ties", [True])
def test_ties_are_decided_by_index(ties):
    made = layers(1, 6)
    optimizer = torch.optim.AdamW(made["l0"].parameters(), lr=1e-3)
    controller = RankController(made, optimizer, 100, 0.5 * 6 * (10 + 32 + 1))
    controller.updates = 10
    controller.tracks["l0"].mean.fill_(1.0)
    controller.tracks["l0"].spread.fill_(1.0)
    controller._move(70, lambda event: None)
    assert controller.tracks["l0"].target.tolist() == [1, 1, 1, 0, 0, 0]


def test_compaction_keeps_the_moments_of_those_that_stay():
    made = layers(1, 4)
    layer = made["l0"]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    layer(torch.randn(8, 32)).square().mean().backward()
    optimizer.step()
    expected = optimizer.state[layer.V]["exp_avg"][[0, 3]].clone()
    controller = RankController(made, optimizer, 10, 1.0)
    controller.tracks["l0"].target = torch.tensor([1.0, 0.0, 0.0, 1.0])
    layer.m = torch.tensor([1.0, 0.0, 0.0, 1.0])
    x = torch.randn(3, 32)
    before = layer(x).detach()
    controller.compact(5, lambda event: None)
    assert layer.rank == 2
    assert torch.allclose(layer(x), before, atol=1e-6)
    assert torch.equal(optimizer.state[layer.V]["exp_avg"], expected)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in layer.parameters()
    }
