"""From the class's text to rounded layers: prices, what they go by, and what loading holds."""

import gc
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core import modelload
from core.adapters.start import start_model
from core.config import RunConfig
from core.plan import planning, rounding
from core.plan.measured import InputMoments
from core.plan.memory import LiveBytes
from core.plan.profile import RANKS, ErrorPrice, measure
from core.plan.rounding import (
    FIRST_STEP,
    REFERENCE_RATE,
    round_linears,
    rounded_layer,
    task_gate,
)
from core.plan.types import LinearPlan, Plan
from core.quant.schemes import Scheme

TOKENS = 96


def small_model(folder, blocks, change=lambda model: None):
    """A LLaMA of ``blocks`` equal blocks with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    change(model)
    model.save_pretrained(folder)
    return folder


def row():
    ids = torch.randint(0, 64, (TOKENS,), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(TOKENS), ids.clone()


def plan_of(profile, bits=3, rank=4):
    linears = [
        LinearPlan(p.name, 0, "", bits, rank, rank, 0, "", 0.0, p.out_features, p.in_features)
        for p in profile.prices
    ]
    return Plan(
        True, 0, 0, 0, {}, linears, 64, 1, True, "on", 16, bits, rank, "adaq", "affine", "", ""
    )


def priced(folder, out, importance="loss"):
    return measure(folder, row(), out, lambda event: None, importance=importance)


def silence_the_last_mlp(model):
    """Nothing of the last gate and up layers reaches the answers any more."""
    torch.nn.init.zeros_(model.model.layers[-1].mlp.down_proj.weight)


def test_a_layer_that_answers_do_not_depend_on_is_cheap_to_round_by_loss_only(tmp_path):
    folder = small_model(tmp_path / "m", 3, silence_the_last_mlp)
    silent = ("model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj")
    for importance in ("loss", "activation", "frobenius", "spectrum"):
        prices = {p.name: p for p in priced(folder, tmp_path / importance, importance).prices}
        cost = {n: p.cost[2][0] for n, p in prices.items() if n.endswith(("gate_proj", "up_proj"))}
        others = [c for n, c in cost.items() if n not in silent]
        for name in silent:
            assert (cost[name] < 1e-6 * min(others)) == (importance == "loss")


@pytest.mark.parametrize("importance", ["loss", "activation", "frobenius", "spectrum"])
def test_costs_fall_with_bits_and_ranks(importance):
    torch.manual_seed(0)
    x = torch.randn(300, 64) @ torch.randn(64, 64)
    cost = ErrorPrice(importance).costs(
        torch.randn(48, 64), InputMoments(x.t() @ x / 300), torch.rand(48) + 0.1, (2, 3, 4)
    )
    for rank in range(len(RANKS)):
        by_bits = [cost[b][rank] for b in (2, 3, 4, 16)]
        assert by_bits == sorted(by_bits, reverse=True)
    for bits in (2, 3, 4, 8, 16):
        assert cost[bits] == sorted(cost[bits], reverse=True)


def test_price_by_loss_is_that_of_activations_weighted_by_output(tmp_path):
    """With one sensitivity for all outputs the two differ by its square."""
    torch.manual_seed(0)
    x, weight = torch.randn(300, 64), torch.randn(48, 64)
    moments = InputMoments(x.t() @ x / 300)
    by_loss = ErrorPrice("loss").costs(weight, moments, torch.full((48,), 3.0), (2,))
    by_output = ErrorPrice("activation").costs(weight, moments, torch.full((48,), 7.0), (2,))
    assert by_loss[2] == pytest.approx([9 * c for c in by_output[2]], rel=1e-3)


def test_what_bits_go_by_is_measured_anew(tmp_path):
    folder = small_model(tmp_path / "m", 1)
    config = RunConfig()
    other = replace(config, quant=replace(config.quant, importance="frobenius"))
    keys = {planning._key(c, folder, [], 8) for c in (config, other)}
    assert len(keys) == 2


def rounded_model(tmp_path, blocks, **planned):
    """A small model's folder, its profile, a plan with the same for all layers, its candidate."""
    folder = small_model(tmp_path / "m", blocks)
    profile = priced(folder, tmp_path / "p")
    plan = plan_of(profile, **planned)
    (tmp_path / "r").mkdir()
    return folder, profile, plan, round_linears(folder, row(), plan, profile, tmp_path / "r")


def test_layers_are_rounded_for_the_inputs_that_rounded_layers_give(tmp_path):
    """The codes of a late layer are those for inputs from the rounded model, not the dense one."""
    folder, profile, plan, candidate = rounded_model(tmp_path, 2, bits=2)
    rounded = start_model(folder, plan, 64, candidate)
    rounded.unfuse()  # a fused MLP does not call its layers one by one
    seen = {}
    layers = dict(rounded.model.named_modules())
    last = len(plan.linears) - 1
    layers[plan.linears[last].name].register_forward_pre_hook(
        lambda _m, args: seen.update(x=args[0][0])
    )
    with torch.no_grad():
        rounded.hidden(*row()[:2])
    weights = modelload.Weights(folder)
    x = seen["x"].float()
    expected, _ = rounded_layer(
        weights[f"{plan.linears[last].name}.weight"],
        InputMoments(x.t() @ x / len(x)),
        profile.tensors(last)["sensitivity"],
        Scheme(2),
        plan.linears[last].error_rank,
    )
    same = (candidate(last)["codes"] == expected["codes"]).float().mean()
    assert same > 0.98  # sums in another order move a code here and there


def test_adapters_start_at_the_weighted_optimum_of_the_rounding_error(tmp_path):
    folder, _, plan, candidate = rounded_model(tmp_path, 1, bits=2, rank=8)
    model = start_model(folder, plan, 64, candidate)
    weights = modelload.Weights(folder)
    for k, linear in enumerate(plan.linears):
        layer = model.model.get_submodule(linear.name)
        left = weights[f"{linear.name}.weight"] - layer.effective_weight()
        found = candidate(k)
        cancelled = found["U"] @ found["V"]
        assert found["U"].shape[1] == linear.error_rank == 6
        assert torch.allclose(layer.delta(), cancelled, atol=1e-5)
        assert left.norm() < (left + cancelled).norm()


def test_steeper_tasks_start_behind_a_smaller_gate(tmp_path, monkeypatch):
    folder = small_model(tmp_path / "m", 1)
    profile = priced(folder, tmp_path / "p")
    plan = plan_of(profile, bits=2, rank=8)
    slope = sum(float(profile.tensors(k)["slope"][:2].sum()) for k in range(len(plan.linears)))
    whole = FIRST_STEP / (REFERENCE_RATE * slope)  # 6 of 8 triplets cancel the error
    assert task_gate(plan, profile) == pytest.approx(min(1, whole))
    monkeypatch.setattr(rounding, "FIRST_STEP", 0.5 * REFERENCE_RATE * slope)
    assert task_gate(plan, profile) == pytest.approx(0.5)
    unquantized = plan_of(profile, bits=16, rank=8)
    steeper = task_gate(unquantized, profile)
    assert steeper < task_gate(plan, profile)
    assert task_gate(plan, profile, error_start=False) == steeper


def test_a_gate_scales_the_task_block_and_nothing_else(tmp_path):
    folder, _, plan, candidate = rounded_model(tmp_path, 1, bits=2, rank=8)
    free, gated = (start_model(folder, plan, 64, candidate, gate=g) for g in (1.0, 0.25))
    for linear in plan.linears:
        one, other = (m.model.get_submodule(linear.name) for m in (free, gated))
        assert torch.equal(one.delta(), other.delta())
        assert other.s.tolist() == [1.0] * 6 + [0.25] * 2
        assert torch.equal(one.V, other.V)


def test_the_slope_is_what_a_step_of_all_columns_takes_off_the_loss(tmp_path):
    """A step of U by -e * sign of its gradient lowers the loss by e * slope, to first order."""
    folder, profile, plan, candidate = rounded_model(tmp_path, 1, bits=16, rank=2)
    model = start_model(folder, plan, 64, candidate)
    before = model.loss(*row())
    before.backward()
    slope, step = 0.0, 1e-6
    for index, linear in enumerate(plan.linears):
        layer = model.model.get_submodule(linear.name)
        slope += float(profile.tensors(index)["slope"][:2].sum())
        layer.U.data -= step * layer.U.grad.sign()
    fallen = float((before - model.loss(*row())).detach())
    assert fallen == pytest.approx(step * slope, rel=0.05)


class HeldBytes(LiveBytes):
    """Live bytes without those of tensors that have a shape and no memory."""

    def _see(self, tensor):
        if not tensor.is_meta:
            super()._see(tensor)


def live_peak(make):
    """Peak bytes of tensors made meanwhile, dense weights as they are read included."""
    gc.collect()
    with HeldBytes() as live:
        result = make()
    del result
    return live.peak


def test_loading_holds_one_dense_layer_however_many_there_are(tmp_path, monkeypatch):
    """A further block costs what is stored of it, a tenth of its dense weights."""
    read = modelload.Weights.rows
    # A clone is made by an operation, which the counter sees; a buffer read from a file is not.
    monkeypatch.setattr(modelload.Weights, "rows", lambda *args: read(*args).clone())
    rounding, loading, dense, stored = {}, {}, 0, 0
    for blocks in (2, 6):
        folder = small_model(tmp_path / f"m{blocks}", blocks)
        profile = priced(folder, tmp_path / f"p{blocks}")
        plan = plan_of(profile, bits=3, rank=0)
        out = tmp_path / f"r{blocks}"
        out.mkdir()
        kept = []
        rounding[blocks] = live_peak(
            lambda out=out, folder=folder, plan=plan, profile=profile, kept=kept: kept.append(
                round_linears(folder, row(), plan, profile, out)
            ),
        )
        loading[blocks] = live_peak(
            lambda folder=folder, plan=plan, kept=kept: start_model(folder, plan, 64, kept[0]),
        )
        sizes = [(p.out_features, p.in_features) for p in profile.prices]
        dense = 4 * sum(o * i for o, i in sizes) / blocks
        stored = sum(Scheme(3).stored_bytes(*s) for s in sizes) / blocks
    assert rounding[6] - rounding[2] < 4 * 0.1 * dense
    assert loading[6] - loading[2] < 4 * (1.5 * stored + 0.05 * dense)
