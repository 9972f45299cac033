"""What surrounds a step: schedules, the adaptive clip, balanced decay."""

import math

import pytest
import torch

from core.config import TrainConfig
from core.layers.lora import AdapterLinear
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.train.optimizers import make_optimizer
from core.train.rules import MOST_DECAY, SEEN, AdaptiveClip, BalancedDecay, kind_of, rate_at

Q_PROJ, O_PROJ = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"
UP = "model.layers.0.mlp.up_proj"


def adapted(seed=0, error=0, rank=4):
    """A layer whose first ``error`` triplets cancel an error."""
    torch.manual_seed(seed)
    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(6, 32), Scheme(8)))
    U = torch.zeros(6, rank)
    U[:, :error] = torch.randn(6, error)
    layer.set_triplets(U, torch.ones(rank), torch.randn(rank, 32))
    return layer


# --- schedules ------------------------------------------------------------------------------------


def rates(schedule, steps=200):
    return [rate_at(t, steps, 2.0, 0.05, schedule) for t in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "late", "constant"])
def test_every_schedule_rises_to_the_peak_and_never_again(schedule):
    found = rates(schedule)
    top = found.index(max(found))
    assert found[:10] == sorted(found[:10])
    assert found[0] < 0.3
    assert 9 <= top <= 10
    assert found[top:] == sorted(found[top:], reverse=True)
    assert max(found) <= 2.0


def test_late_stays_up_for_three_tenths_and_ends_at_a_tenth():
    found = rates("late", 1000)
    assert set(found[50:301]) == {2.0}
    assert found[301] < 2.0
    assert found[-1] == pytest.approx(0.2, rel=5e-3)
    assert found[650] == pytest.approx(2.0 * 10**-0.5, rel=1e-6)


def test_constant_stays_and_cosine_ends_at_a_tenth():
    assert set(rates("constant")[10:]) == {2.0}
    assert rates("cosine", 1000)[-1] == pytest.approx(0.2, rel=1e-2)


# --- clip -----------------------------------------------------------------------------------------


def seen(norms):
    clip = AdaptiveClip()
    for norm in norms:
        clip.see(norm)
    return clip


def test_the_limit_is_fixed_until_enough_was_seen():
    clip = AdaptiveClip(first=1.5)
    for _ in range(SEEN - 1):
        clip.see(300.0)
        assert clip.limit == 1.5
    clip.see(300.0)
    assert clip.limit == pytest.approx(300.0, rel=1e-6)


def test_it_follows_mean_and_spread_of_the_logarithm():
    generator = torch.Generator().manual_seed(0)
    norms = torch.exp(1.0 + 0.3 * torch.randn(4000, generator=generator)).tolist()
    limits, clip = [], AdaptiveClip()
    for norm in norms:
        clip.see(norm)
        limits.append(math.log(clip.limit))
    assert sum(limits[200:]) / len(limits[200:]) == pytest.approx(1.0 + 2.5 * 0.3, abs=0.06)


def test_a_scaled_loss_scales_the_limit_so_that_what_is_cut_stays_the_same():
    generator = torch.Generator().manual_seed(0)
    norms = torch.exp(torch.randn(100, generator=generator)).tolist()
    plain, scaled = seen(norms), seen([1000 * n for n in norms])
    assert scaled.limit == pytest.approx(1000 * plain.limit, rel=1e-9)


def test_a_scaled_loss_does_not_change_a_step_once_the_clip_has_warmed_up():
    """Both see 40 gradients first; then a fresh EduAdapt makes steps of them."""
    moved = []
    for scale in (1.0, 1000.0):
        layer, clip = adapted(), AdaptiveClip()
        layer.U.data = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(1)
        gradients = [
            tuple(scale * torch.randn(p.shape, generator=generator) for p in layer.trained)
            for _ in range(46)
        ]
        optimizer = make_optimizer({UP: layer}, TrainConfig(optimizer="eduadapt"))
        for k, found in enumerate(gradients):
            for p, g in zip(layer.trained, found, strict=True):
                p.grad = g.clone()
            limit = clip.limit
            norm = float(torch.nn.utils.clip_grad_norm_(layer.trained, limit))
            clip.see(norm)
            clipped = float(torch.stack([p.grad.norm() for p in layer.trained]).norm())
            assert clipped <= limit * (1 + 1e-5)
            if k >= 40:
                optimizer.step()
        moved.append([p.detach().clone() for p in layer.trained])
    for a, b in zip(*moved, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_norms_that_are_no_numbers_teach_nothing():
    assert seen([1.0, math.nan, math.inf, 0.0, 2.0]) == seen([1.0, 2.0])


# --- balanced decay -------------------------------------------------------------------------------


def test_kinds_of_layers():
    names = {
        Q_PROJ: "q",
        "a.self_attn.k_proj": "k",
        "a.self_attn.v_proj": "v",
        O_PROJ: "o",
        UP: "mlp",
        "a.mlp.gate_up_proj": "mlp",
        "a.self_attn.qkv_proj": "qkv",
        "transformer.h.0.attn.c_attn": "qkv",
        "transformer.h.0.attn.c_proj": "o",
        "transformer.h.0.mlp.c_proj": "mlp",
    }
    assert {name: kind_of(name) for name in names} == names


def step(layers, optimizer, decay, rate, scale=1.0, zero=False, seed=0):
    """A step of given gradients; returns lambda by kind."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        for p in layer.trained:
            g = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = torch.zeros_like(p) if zero else g
    for group in optimizer.param_groups:
        group["lr"] = rate
    decay.before()
    optimizer.step()
    return decay.after(rate)


def squared(layers, names):
    return sum(
        float(layers[n].U.data.square().sum() + layers[n].V.data.square().sum()) for n in names
    )


def test_decay_divided_by_step_is_the_ratio_in_every_kind_of_layers():
    """Plain gradient descent with the same gradient each time: the mean step is the step."""
    layers = {Q_PROJ: adapted(0), "b.self_attn.q_proj": adapted(3), O_PROJ: adapted(1)}
    layers[UP] = adapted(2)
    for layer in layers.values():
        for key in ("U", "s", "V"):
            layer._parameters[key].data = getattr(layer, key).data.double()
    parameters = [p for x in layers.values() for p in x.trained]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    decay = BalancedDecay(layers, optimizer, 0.02)
    rate, sizes = 1e-2, {Q_PROJ: 3.0, "b.self_attn.q_proj": 3.0, O_PROJ: 0.5, UP: 1.0}
    kinds = {"q": [Q_PROJ, "b.self_attn.q_proj"], "o": [O_PROJ], "mlp": [UP]}
    for _ in range(3):
        before = {n: (x.U.data.clone(), x.V.data.clone()) for n, x in layers.items()}
        own = {k: math.sqrt(squared(layers, names)) for k, names in kinds.items()}
        for n, x in layers.items():
            for p in x.trained:
                p.grad = torch.full_like(p, sizes[n])
        decay.before()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        found = decay.after(rate)
        for kind, names in kinds.items():
            assert found[kind] < MOST_DECAY  # not cut, or the ratio could not hold
            numbers = sum(layers[n].U.numel() + layers[n].V.numel() for n in names)
            moved = rate * sizes[names[0]] * math.sqrt(numbers)
            lost = math.sqrt(
                sum(
                    float((b - rate * sizes[n] - p.data).square().sum())
                    for n in names
                    for b, p in zip(before[n], (layers[n].U, layers[n].V), strict=True)
                )
            )
            assert lost / moved == pytest.approx(0.02, rel=1e-6)
            assert lost == pytest.approx(rate * found[kind] * own[kind], rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop", "eduadapt"])
def test_without_gradients_norms_shrink_by_the_product_of_the_decays(name):
    layers = {Q_PROJ: adapted()}
    optimizer = make_optimizer(layers, TrainConfig(optimizer=name))
    decay = BalancedDecay(layers, optimizer, 0.02)
    step(layers, optimizer, decay, 1e-2)
    optimizer.state.clear()  # what was learned of the first step shall not move it any more
    before, expected = math.sqrt(squared(layers, [Q_PROJ])), 1.0
    for _ in range(5):
        expected *= 1 - 0.5 * step(layers, optimizer, decay, 0.5, zero=True)["q"]
    assert expected < 1 - 1e-3
    assert math.sqrt(squared(layers, [Q_PROJ])) == pytest.approx(before * expected, rel=1e-5)


def test_a_ratio_of_zero_changes_nothing():
    with_decay, without = {UP: adapted()}, {UP: adapted()}
    a = make_optimizer(with_decay, TrainConfig())
    b = make_optimizer(without, TrainConfig())
    decay, none = BalancedDecay(with_decay, a, 0.0), BalancedDecay(without, b, 0.02)
    none.before = none.after = lambda *args: {}
    for k in range(4):
        step(with_decay, a, decay, 1e-2, seed=k)
        step(without, b, none, 1e-2, seed=k)
    for p, q in zip(with_decay[UP].trained, without[UP].trained, strict=True):
        assert torch.equal(p, q)


def test_triplets_that_cancel_the_error_and_scales_do_not_decay():
    layers = {UP: adapted(error=2)}
    optimizer = torch.optim.SGD(layers[UP].trained, lr=1.0)
    decay = BalancedDecay(layers, optimizer, 0.5)
    for _ in range(2):
        before = [p.detach().clone() for p in layers[UP].trained]
        assert step(layers, optimizer, decay, 1e-2)["mlp"] > 0
        gone = [b - 1e-2 * p.grad - p.data for b, p in zip(before, layers[UP].trained, strict=True)]
    assert gone[0][:, :2].abs().max() < 1e-7
    assert gone[1].abs().max() < 1e-7
    assert gone[2][:2].abs().max() < 1e-7
    assert gone[0][:, 2:].abs().max() > 1e-5
    assert gone[2][2:].abs().max() > 1e-5


def test_decay_is_cut_at_a_tenth():
    layers = {UP: adapted()}
    optimizer = torch.optim.SGD(layers[UP].trained, lr=1.0)
    decay = BalancedDecay(layers, optimizer, 0.02)
    assert step(layers, optimizer, decay, 1e-3, scale=1e4)["mlp"] == MOST_DECAY


def test_both_ends_of_the_line_of_schedule_free_decay():
    layers = {UP: adapted()}
    optimizer = make_optimizer(layers, TrainConfig(optimizer="schedulefree"))
    decay = BalancedDecay(layers, optimizer, 0.02)
    step(layers, optimizer, decay, 1e-2)
    V = layers[UP].V
    z, y = optimizer.state[V]["z"].clone(), V.detach().clone()
    lam = step(layers, optimizer, decay, 1e-2, zero=True)["mlp"]
    assert lam > 0
    assert torch.allclose(optimizer.state[V]["z"], z - 1e-2 * lam * y, atol=1e-6)


def test_what_decays_follows_removed_triplets_and_layers_stored_anew():
    layers = {UP: adapted(error=2), Q_PROJ: adapted(error=1)}
    decay = BalancedDecay(layers, torch.optim.SGD(layers[UP].trained, lr=1.0), 0.02)
    assert decay.free[UP].tolist() == [False, False, True, True]
    decay.keep(UP, torch.tensor([0, 3]))
    assert decay.free[UP].tolist() == [False, True]
    decay.renew(Q_PROJ)
    assert decay.free[Q_PROJ].tolist() == [False] * 4


def test_what_is_remembered_is_taken_back():
    results = []
    for interrupted in (False, True):
        layers = {UP: adapted(), Q_PROJ: adapted(error=1)}
        optimizer = torch.optim.SGD([p for x in layers.values() for p in x.trained], lr=1.0)
        decay = BalancedDecay(layers, optimizer, 0.02)
        for k in range(3):
            step(layers, optimizer, decay, 1e-2, seed=k)
        if interrupted:
            tensors, numbers = decay.tensors(), decay.numbers()
            decay = BalancedDecay(layers, optimizer, 0.02)
            decay.restore(tensors, numbers)
        results.append(step(layers, optimizer, decay, 1e-2, seed=9))
    assert results[0] == results[1]
