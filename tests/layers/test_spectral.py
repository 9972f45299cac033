"""Singular values and row scales train; everything else stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.adapters.basis import basis_of, residual_of
from core.assemble import LanguageModel, build
from core.layers.lora import AdapterLinear, adapter_layers
from core.layers.spectral import SpectralLinear, basis_bytes
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

FORMS = pytest.mark.parametrize("additive", [False, True], ids=["log", "additive"])


def spectral(weight: Tensor, r: int, bits: int = 16, **more: object) -> SpectralLinear:
    basis, scheme = basis_of(weight, r), Scheme(bits)
    residual = QuantizedWeight.from_dense(residual_of(weight, basis, scheme), scheme)
    return SpectralLinear(residual, basis.triplets, **more)  # type: ignore[arg-type]


def moved(layer: SpectralLinear) -> SpectralLinear:
    """The layer with some numbers for what it would learn."""
    generator = torch.Generator().manual_seed(7)
    for p in layer.trained:
        p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return layer


def full_precision(weight: Tensor, r: int, *, additive: bool) -> tuple[SpectralLinear, Tensor]:
    """A layer whose directions are not rounded, and its dense residual."""
    U, s, V = torch.linalg.svd(weight, full_matrices=False)
    basis = (U[:, :r].contiguous(), s[:r].contiguous(), V[:r].contiguous())
    residual = QuantizedWeight(Scheme(16), *weight.shape)
    residual.register_buffer("dense", weight - (basis[0] * basis[1]) @ basis[2])
    return SpectralLinear(residual, basis, additive=additive), residual.dense


@FORMS
@pytest.mark.parametrize("shape", [(48, 32), (24, 64), (32, 32)])
@pytest.mark.parametrize("r", [5, 4096])
def test_at_zero_it_is_the_base_weight_but_for_the_rounding_of_the_residual(additive, shape, r):
    weight = torch.randn(*shape).bfloat16()
    layer = spectral(weight, r, additive=additive)
    left_over = weight.float() - basis_of(weight, r).part()
    error = (layer.effective_weight() - weight.float()).abs()
    assert (error <= left_over.abs() * 2**-11 + 2**-25 + 4e-6).all()
    assert layer.rank == min(r, *shape)


def test_at_zero_a_whole_model_answers_as_its_base(tiny, architecture):
    def exact(name, read, bias, transposed):
        stored = QuantizedWeight(Scheme(16), *read().shape)
        stored.register_buffer("dense", read())
        return AdapterLinear(stored, bias, transposed=transposed)

    path = tiny(architecture)
    base, model = build(path, exact), adapted(path)
    ids, positions = torch.randint(0, 200, (15,)), torch.arange(15)
    with torch.no_grad():
        ours, theirs = model.hidden(ids, positions), base.hidden(ids, positions)
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()  # the residual has 11 bits


@FORMS
@pytest.mark.parametrize("bits", [16, 4])
def test_outputs_and_gradients_against_autograd(additive, bits):
    torch.manual_seed(0)
    layer = moved(spectral(torch.randn(12, 64), 7, bits, bias=torch.randn(12), additive=additive))
    x = torch.randn(2, 5, 64, requires_grad=True)
    y = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    d, c, again = (t.detach().clone().requires_grad_(True) for t in (layer.d, layer.c, x))
    g = layer.sigma + d if additive else layer.sigma * d.exp()
    scaled = (1 + c)[:, None] * (layer.U.float() * g @ layer.V.float())
    reference = again @ (layer.quantized.dequantize() + scaled).t() + layer.bias
    reference.backward(dy)
    assert torch.allclose(y, reference, atol=1e-4)
    for ours, theirs in ((layer.d, d), (layer.c, c), (x, again)):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-3, rtol=1e-4)


@FORMS
def test_merged_is_forward(additive):
    layer = moved(spectral(torch.randn(12, 64), 7, additive=additive))
    x = torch.randn(4, 64)
    assert torch.allclose(layer(x), x @ layer.effective_weight().t(), atol=1e-4)


def test_singular_values_are_recovered_exactly_by_one_gradient():
    """With inputs that are the identity the loss is the distance of the weights, and its gradient
    in the diagonal is -u_k^T (W* - W) v_k: one step of length 1 arrives."""
    torch.manual_seed(1)
    layer, _ = full_precision(torch.randn(24, 16), 16, additive=True)
    wanted = layer.sigma + torch.randn(16)
    target = (layer.U * wanted) @ layer.V
    (layer(torch.eye(16)) - target.t()).square().sum().mul(0.5).backward()
    layer.d.data -= layer.d.grad
    assert torch.allclose(layer.d, wanted - layer.sigma, atol=2e-5)
    assert torch.allclose(layer.effective_weight(), target, atol=2e-5)


def test_the_log_form_recovers_them_by_training_and_keeps_them_positive():
    torch.manual_seed(2)
    layer, residual = full_precision(torch.randn(24, 16), 8, additive=False)
    wanted = layer.sigma * (0.5 * torch.randn(8)).exp()
    target = residual + (layer.U * wanted) @ layer.V
    optimizer = torch.optim.LBFGS([layer.d], max_iter=200, line_search_fn="strong_wolfe")

    def distance() -> Tensor:
        optimizer.zero_grad()
        loss = (layer(torch.eye(16)) - target.t()).square().sum()
        loss.backward()
        return loss

    optimizer.step(distance)
    assert torch.allclose(layer.effective_weight(), target, atol=1e-3)
    assert torch.allclose(layer.gate, wanted, rtol=1e-3)
    layer.d.data.fill_(-50.0)
    assert (layer.gate >= 0).all()


def test_with_its_random_matrices_it_is_vera_of_peft():
    from peft import VeraConfig, get_peft_model

    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(20, 12, bias=False))
    config = VeraConfig(r=6, target_modules=["0"], projection_prng_key=5, d_initial=0.1)
    theirs = get_peft_model(net, config).base_model.model[0]
    A, B = (t["default"].detach() for t in (theirs.vera_A, theirs.vera_B))
    theirs.vera_lambda_b["default"].data.normal_()
    stored = QuantizedWeight(Scheme(16), 12, 20)
    stored.register_buffer("dense", theirs.base_layer.weight.detach())
    ours = SpectralLinear(stored, (B[:12, :6], torch.zeros(6), A[:6, :20]), additive=True)
    ours.d.data.copy_(theirs.vera_lambda_d["default"])
    ours.c.data.copy_(theirs.vera_lambda_b["default"] - 1)
    x, dy = torch.randn(9, 20), torch.randn(9, 12)
    y, expected = ours(x), theirs(x)
    assert torch.allclose(y, expected, atol=1e-5)
    y.backward(dy)
    expected.backward(dy)
    assert torch.allclose(ours.d.grad, theirs.vera_lambda_d["default"].grad, atol=1e-4)
    assert torch.allclose(ours.c.grad, theirs.vera_lambda_b["default"].grad, atol=1e-4)


@pytest.mark.parametrize(("o", "i", "r"), [(24, 64, 8), (64, 24, 256)])
def test_it_trains_r_and_o_numbers_and_keeps_its_basis_in_sixteen_bits(o, i, r):
    layer = spectral(torch.randn(o, i), r)
    r = min(r, o, i)
    assert layer.trained_numbers == r + o
    assert sum(p.numel() for p in layer.parameters()) == r + o
    assert layer.basis_bytes == basis_bytes(o, i, r) == 2 * r * (o + i) + 4 * r


@FORMS
def test_signs_of_the_directions_do_not_matter(additive):
    weight = torch.randn(12, 20)
    layer, basis = moved(spectral(weight, 6, additive=additive)), basis_of(weight, 6)
    flip = torch.tensor([1.0, -1, -1, 1, -1, 1]).half()
    turned = (basis.U * flip, basis.sigma, basis.V * flip[:, None])
    other = moved(SpectralLinear(layer.quantized, turned, additive=additive))
    assert torch.equal(layer.effective_weight(), other.effective_weight())


@FORMS
def test_what_was_learned_is_of_the_rank_of_the_basis(additive):
    layer = spectral(torch.randn(12, 20), 4, additive=additive)
    before = layer.effective_weight()
    left, right = moved(layer).learned_factors({})
    assert left.shape == (12, 4)
    assert torch.allclose(left @ right, layer.effective_weight() - before, atol=1e-5)


def test_a_weight_below_full_rank_has_no_directions_where_it_has_none():
    weight = torch.randn(20, 3) @ torch.randn(3, 16)
    layer = moved(spectral(weight, 8))
    assert (layer.sigma > 0).tolist() == [True] * 3 + [False] * 5
    assert torch.isfinite(layer.effective_weight()).all()
    layer(torch.randn(5, 16)).sum().backward()
    assert layer.d.grad[3:].abs().max() == 0


def test_the_backward_pass_keeps_the_input_alone():
    layer, kept = spectral(torch.randn(12, 64), 7), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(3, 64, requires_grad=True))
    assert kept == [(3, 64)]


# Blocks


def adapted(path: Path, bits: int = 16) -> LanguageModel:
    def store(name, read, bias, transposed):
        return spectral(read(), 8, bits, bias=bias, transposed=transposed)

    return build(path, store)


def gradients(model: LanguageModel, ids: Tensor) -> tuple[float, Tensor]:
    model.model.zero_grad()
    loss = model.loss(ids, torch.arange(len(ids)), ids)
    loss.backward()
    layers = adapter_layers(model.model).values()
    return float(loss.detach()), torch.cat([p.grad for x in layers for p in x.trained])


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("recomputed", [0, 2])
def test_fused_blocks_compute_what_the_library_does(tiny, bits, recomputed):
    model = adapted(tiny("qwen3"), bits)
    for layer in adapter_layers(model.model).values():
        moved(layer)
    assert model.fused
    model.recompute(recomputed)
    ids = torch.randint(0, 200, (40,))
    loss, found = gradients(model, ids)
    model.unfuse()
    expected, dense = gradients(model, ids)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert (found - dense).norm() < 3e-3 * dense.norm()  # what is kept has 11 bits


def test_a_model_learns_with_nothing_else_changing(tiny):
    model = adapted(tiny("llama"))
    layers = adapter_layers(model.model).values()
    frozen = [b.clone() for x in layers for b in x.buffers()]
    ids = torch.randint(0, 200, (40,))
    optimizer = torch.optim.AdamW([p for x in layers for p in x.trained], lr=0.05, weight_decay=0)
    losses = []
    for _ in range(15):
        losses.append(gradients(model, ids)[0])
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    assert all(
        torch.equal(a, b)
        for a, b in zip(frozen, (b for x in layers for b in x.buffers()), strict=True)
    )
