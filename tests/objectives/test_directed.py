"""Directions in every kind of layer: what is computed without dense weights is what those give."""

import pytest
import torch
from torch import nn

from core.adapters.basis import basis_of, residual_of
from core.config import RunConfig
from core.dense import DenseModel
from core.layers.lora import AdapterLinear
from core.layers.magnitude import MagnitudeLinear
from core.layers.spectral import SpectralLinear
from core.objectives.directed import Dense, directed
from core.objectives.direction import Anchor, Trajectory
from core.pairs.directed import layers_of as pair_layers
from core.peers.directed import layers_of as peer_layers
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

OUT, IN, RANK = 6, 32, 3
NAME = "layers.0.self_attn.q_proj"


def spectral(bits=16, additive=False):
    weight = torch.randn(OUT, IN)
    basis, scheme = basis_of(weight, 4), Scheme(bits)
    residual = QuantizedWeight.from_dense(residual_of(weight, basis, scheme), scheme)
    layer = SpectralLinear(residual, basis.triplets, additive=additive)

    def dense(d, c):
        sigma = layer.sigma.double()
        gate = sigma + d if additive else sigma * d.exp()
        left = layer.U.double() * gate * (1 + c)[:, None]
        return layer.quantized.dequantize(torch.float64) + left @ layer.V.double()

    return directed(layer), dense


def triplets(start):
    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(OUT, IN), Scheme(4)))
    U = torch.randn(OUT, RANK) if start else torch.zeros(OUT, RANK)
    layer.set_triplets(U, torch.ones(RANK), torch.randn(RANK, IN))
    base = layer.quantized.dequantize(torch.float64)
    return directed(layer), lambda U, s, V: base + (U * s) @ V


def pair(magnitude):
    layer = MagnitudeLinear(QuantizedWeight.from_dense(torch.randn(OUT, IN), Scheme(8)))
    layer.set_triplets(torch.zeros(OUT, RANK), torch.full((RANK,), 2.0), torch.randn(RANK, IN))
    base = layer.quantized.dequantize(torch.float64)
    if magnitude:
        layer.add_magnitude()

    def dense(U, V, g=None):
        weight = base + 2 * U @ V
        return weight if g is None else weight * (g / weight.norm(dim=1))[:, None]

    return pair_layers({NAME: layer})[NAME], dense


class Net(nn.Module):
    """A model of one attention projection, as PEFT wraps it."""

    def __init__(self):
        super().__init__()
        block = nn.Module()
        block.self_attn = nn.Module()
        block.self_attn.q_proj = nn.Linear(IN, OUT, bias=False)
        self.layers = nn.ModuleList([block])

    def forward(self, x):
        return self.layers[0].self_attn.q_proj(x)


def wrapped(variant):
    """PEFT's model around a small one, its layer as a penalty sees it, and its dense weight."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    common = {"target_modules": ["q_proj"], "lora_alpha": 6}
    if variant == "adalora":
        settings = AdaLoraConfig(init_r=RANK, target_r=2, total_step=10, tfinal=2, **common)
    else:
        settings = LoraConfig(r=RANK, use_dora=variant == "dora", **common)
    peft = get_peft_model(Net(), settings)
    tree = {"peer": {"variant": variant}}
    (layer,) = peer_layers(RunConfig.from_json(tree), None, peft).values()
    inner = peft.base_model.model.layers[0].self_attn.q_proj
    base = inner.get_base_layer().weight.detach().double()

    def dense(*leaves):
        if variant == "adalora":
            A, E, B = leaves
            return base + B @ (A * E) * (6 / (RANK + 1e-5))
        A, B, *g = leaves
        weight = base + 2 * B @ A
        return weight if not g else weight * (g[0] / weight.norm(dim=1))[:, None]

    return peft, layer, dense


def peer(variant):
    return wrapped(variant)[1:]


def whole(transposed):
    from transformers.pytorch_utils import Conv1D

    module = Conv1D(OUT, IN) if transposed else nn.Linear(IN, OUT)
    return Dense(module, transposed=transposed), lambda W: W.t() if transposed else W


CASES = {
    "triplets": lambda: triplets(False),
    "triplets-with-a-start": lambda: triplets(True),
    "svd": spectral,
    "svd-additive": lambda: spectral(additive=True),
    "svd-four-bits": lambda: spectral(bits=4),
    "pairs": lambda: pair(False),
    "pairs-magnitude": lambda: pair(True),
    "lora": lambda: peer("lora"),
    "dora": lambda: peer("dora"),
    "adalora": lambda: peer("adalora"),
    "full": lambda: whole(False),
    "full-transposed": lambda: whole(True),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    return CASES[request.param]()


def moved(layer, seed, amount=0.2):
    generator = torch.Generator().manual_seed(seed)
    for p in layer.trained:
        p.data += amount * torch.randn(p.shape, generator=generator)


def doubled(layer):
    return [p.detach().double().requires_grad_() for p in layer.trained]


def anchor_of(weight, first):
    cosines = nn.functional.cosine_similarity(weight, first, dim=1)
    return (1 - cosines - 1e-4).clamp_min(0).mean()


def path_of(weight, then, first):
    a, b = weight - first, then - first
    return 1 - (a * b).sum() / (a.norm() * b.norm())


def alike(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        theirs = torch.zeros_like(mine) if theirs is None else theirs
        assert torch.allclose(mine.double(), theirs.double(), atol=2e-4 * scale_of(expected))


def scale_of(tensors):
    return max(float(t.abs().max()) for t in tensors if t is not None)


def test_the_anchor_and_its_gradient_are_those_of_dense_weights(case):
    layer, dense = case
    first = dense(*doubled(layer)).detach()
    anchor = Anchor({NAME: layer}, 100)
    assert anchor.gradients() == (0.0, {})
    moved(layer, 5)
    leaves = doubled(layer)
    expected = anchor_of(dense(*leaves), first)
    value, found = anchor.gradients()
    assert value == pytest.approx(float(expected.detach()), rel=1e-4) and value > 1e-3
    alike(found[NAME], torch.autograd.grad(expected, leaves, allow_unused=True))


def test_the_trajectory_and_its_gradient_are_those_of_dense_weights(case):
    layer, dense = case
    first = dense(*doubled(layer)).detach()
    trajectory = Trajectory({NAME: layer}, 8)
    assert trajectory.gradients() == (0.0, {})
    moved(layer, 5)
    then = dense(*doubled(layer)).detach()
    trajectory.after_step(1)
    moved(layer, 6)
    leaves = doubled(layer)
    expected = path_of(dense(*leaves), then, first)
    value, found = trajectory.gradients()
    assert value == pytest.approx(float(expected.detach()), rel=1e-4) and value > 1e-3
    alike(found[NAME], torch.autograd.grad(expected, leaves, allow_unused=True))


def test_what_is_remembered_of_any_layer_is_taken_back(case):
    layer, _ = case
    anchor, trajectory = (kind({NAME: layer}, 8) for kind in (Anchor, Trajectory))
    moved(layer, 5)
    trajectory.after_step(1)
    kept = [{k: t.clone() for k, t in term.tensors().items()} for term in (anchor, trajectory)]
    moved(layer, 6)
    expected = anchor.gradients(), trajectory.gradients()
    for kind, tensors, (value, gradients) in zip((Anchor, Trajectory), kept, expected, strict=True):
        other = kind({NAME: layer}, 8)
        other.restore(tensors)
        again, found = other.gradients()
        assert again == value > 0
        assert all(torch.equal(a, b) for a, b in zip(found[NAME], gradients[NAME], strict=True))


@pytest.mark.parametrize("variant", ["lora", "dora", "adalora"])
def test_the_dense_weights_are_those_that_peft_computes_with(variant):
    torch.manual_seed(0)
    peft, layer, dense = wrapped(variant)
    moved(layer, 5)
    expected = dense(*(p.detach().double() for p in layer.trained)).t()
    assert torch.allclose(peft(torch.eye(IN)).double(), expected, atol=1e-5)


def test_magnitudes_turn_no_row():
    torch.manual_seed(0)
    layer, _ = peer("dora")
    anchor = Anchor({NAME: layer}, 100)
    layer.trained[-1].data *= torch.linspace(0.3, 4, OUT)
    assert anchor.gradients() == (0.0, {})
    layer.trained[-1].data[0] *= -1
    assert anchor.gradients()[0] == pytest.approx(2 / OUT, rel=1e-3)


def test_a_base_in_four_bits_is_the_one_that_computes():
    bnb = pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    net = Net()
    net.is_loaded_in_4bit = True
    packed = bnb.nn.Linear4bit(64, OUT, bias=False, quant_type="nf4")
    packed.weight = bnb.nn.Params4bit(torch.randn(OUT, 64), quant_type="nf4").to("cpu")
    net.layers[0].self_attn.q_proj = packed.to("cpu")
    peft = get_peft_model(net, LoraConfig(r=RANK, target_modules=["q_proj"]))
    (layer,) = peer_layers(RunConfig.from_json({"peer": {"variant": "loftq"}}), None, peft).values()
    assert layer.decays_to_start
    before = net(torch.eye(64)).t().detach()
    anchor = Anchor({NAME: layer}, 100)
    moved(layer, 5)
    after = net(torch.eye(64)).t().detach()
    assert anchor.gradients()[0] == pytest.approx(float(anchor_of(after, before)), rel=1e-3)


def test_a_whole_model_has_its_linear_layers_and_nothing_else(tiny):
    from core import modelload

    model = modelload.load_dense(tiny("gpt2"), torch.float32)
    layers = DenseModel.of(model, trained=True).directed()
    assert set(layers) == set(modelload.linear_targets(model))
    weights = [layer.trained[0] for layer in layers.values()]
    assert all(w.requires_grad and w.dim() == 2 for w in weights)
