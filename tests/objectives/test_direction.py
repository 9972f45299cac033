"""Penalties on directions: what the factors give is what dense weights give."""

import pytest
import torch

from core.layers.lora import AdapterLinear
from core.objectives.directed import Reference, path_cosine, row_cosines, row_norms
from core.objectives.direction import EPSILON, Anchor, Trajectory, attention_layers, make_terms
from core.objectives.terms import LossTerm, add_term
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

OUT, IN, RANK = 7, 40, 3
NAME = "model.layers.0.self_attn.q_proj"


def adapted(bits=4, start=True, rank=RANK, seed=0):
    torch.manual_seed(seed)
    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(OUT, IN), Scheme(bits)))
    U = 0.3 * torch.randn(OUT, rank) if start else torch.zeros(OUT, rank)
    layer.set_triplets(U, torch.ones(rank), torch.randn(rank, IN))
    return layer


def moved(layer, amount=0.2):
    generator = torch.Generator().manual_seed(5)
    for p in layer.trained:
        p.data += amount * torch.randn(p.shape, generator=generator)


def cosines(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=1)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("start", [False, True])
def test_cosines_of_rows_are_those_of_the_dense_weights(bits, start):
    layer = adapted(bits, start)
    before, reference = layer.effective_weight(), Reference.of(layer)
    norms = row_norms(layer.quantized, reference)
    moved(layer)
    layer.m[1] = 0.4
    scaled = layer.U.data * (layer.s.data * layer.m)
    found = row_cosines(scaled, layer.V.data, layer.quantized, reference, norms)
    assert torch.allclose(found, cosines(layer.effective_weight(), before), atol=1e-5)
    assert torch.allclose(norms, before.square().sum(1), rtol=1e-5)


def test_gradients_of_the_anchor_are_those_through_the_dense_weights_in_double_precision(
    monkeypatch,
):
    monkeypatch.setattr("core.objectives.directed.ROWS", 3)  # three parts
    layer = adapted(4)
    stored = layer.quantized
    Q = stored.dequantize(torch.float64)
    start = Reference.of(layer)
    start = Reference(start.U.double(), start.V.double())
    first = Q + start.U @ start.V
    norms = row_norms(stored, start)
    moved(layer)
    leaves = [p.detach().double().requires_grad_() for p in (layer.U, layer.V)]

    def ours(U, V):
        return row_cosines(U, V, stored, start, norms)

    dense = cosines(Q + leaves[0] @ leaves[1], first)
    assert torch.allclose(ours(*leaves), dense, atol=1e-12)
    assert torch.autograd.gradcheck(ours, leaves)
    for a, b in zip(
        torch.autograd.grad(ours(*leaves).sum(), leaves),
        torch.autograd.grad(dense.sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("bits", [3, 16])
@pytest.mark.parametrize("start", [False, True])
def test_at_the_start_the_anchor_holds_nothing_back(bits, start):
    value, gradients = Anchor({NAME: adapted(bits, start)}, 100).gradients()
    assert value == 0.0
    assert gradients == {}


def test_rows_that_only_grow_or_shrink_have_not_turned():
    """An adapter of full rank that scales every row of W by a positive number."""
    torch.manual_seed(0)
    layer = AdapterLinear(QuantizedWeight.from_dense(torch.randn(OUT, IN), Scheme(16)))
    layer.set_triplets(torch.zeros(OUT, OUT), torch.ones(OUT), layer.effective_weight())
    anchor = Anchor({NAME: layer}, 100)
    layer.U.data = torch.diag(torch.linspace(-0.6, 3, OUT))
    assert anchor.gradients()[0] == 0.0
    layer.U.data = layer.U.data + 0.5 * torch.eye(OUT).roll(1, 0)
    assert anchor.gradients()[0] > 0.01


def test_the_anchor_is_the_mean_hinge_over_all_rows_of_attention():
    layers = {NAME: adapted(4, seed=0), NAME.replace("q_proj", "o_proj"): adapted(4, seed=1)}
    layers["model.layers.0.mlp.up_proj"] = adapted(4, seed=2)
    before = {n: x.effective_weight() for n, x in layers.items()}
    anchor = Anchor(layers, 100)
    for layer in layers.values():
        moved(layer)
    value, gradients = anchor.gradients()
    rows = torch.cat(
        [cosines(x.effective_weight(), before[n]) for n, x in layers.items() if "attn" in n]
    )
    assert value == pytest.approx(float((1 - rows - EPSILON).clamp_min(0).mean()), rel=1e-4)
    assert set(gradients) == {n for n in layers if "attn" in n}


def test_following_the_anchor_turns_the_rows_back():
    layer = adapted(4)
    anchor = Anchor({NAME: layer}, 100)
    moved(layer)
    values = []
    for _ in range(30):
        value, gradients = anchor.gradients()
        values.append(value)
        for p, g in zip(layer.trained, gradients[NAME], strict=True):
            p.data -= 0.5 * g / max(1.0, float(g.norm()))
    assert values[-1] < 0.7 * values[0]


def test_a_layer_whose_weight_was_stored_anew_has_a_new_start():
    layer = adapted(4)
    anchor = Anchor({NAME: layer}, 100)
    moved(layer)
    assert anchor.gradients()[0] > 0
    anchor.renew(NAME)
    assert anchor.gradients()[0] == 0.0
    anchor.renew("a layer that is none of attention")


# --- trajectory -----------------------------------------------------------------------------------


def test_the_cosine_of_two_changes_is_that_of_the_dense_ones_and_its_gradient_too():
    layer = adapted(16)
    start = Reference.of(layer)
    moved(layer, 1e-3)  # small: what is left of nearly equal products must be right
    then = Reference.of(layer)
    layer.U.data += 1e-3 * torch.randn(OUT, RANK)
    leaves = [p.detach().double().requires_grad_() for p in (layer.U * layer.s, layer.V)]

    def dense(U, V):
        a = U @ V - start.U.double() @ start.V.double()
        b = then.U.double() @ then.V.double() - start.U.double() @ start.V.double()
        return (a * b).sum() / (a.norm() * b.norm())

    def ours(U, V):
        return path_cosine((U, V), (then.U, then.V), start)

    assert float(ours(*leaves).detach()) == pytest.approx(float(dense(*leaves).detach()), abs=1e-9)
    assert torch.autograd.gradcheck(ours, leaves)
    for a, b in zip(
        torch.autograd.grad(ours(*leaves), leaves),
        torch.autograd.grad(dense(*leaves), leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-8 * float(b.abs().max()))


def test_without_a_change_there_is_no_direction():
    layer = adapted(16)
    trajectory = Trajectory({NAME: layer}, 16)
    assert trajectory.gradients() == (0.0, {})
    trajectory.after_step(2)  # a snapshot of the start
    assert trajectory.gradients() == (0.0, {})
    moved(layer)
    assert trajectory.gradients() == (0.0, {})
    trajectory.after_step(4)
    assert trajectory.gradients() == (0.0, {})  # where it stands has the direction of itself


def test_going_on_costs_nothing_and_turning_back_costs_two():
    layer = adapted(16, start=False)
    trajectory = Trajectory({NAME: layer}, 8)
    way = torch.randn(OUT, RANK)
    layer.U.data = way.clone()
    trajectory.after_step(1)
    layer.U.data = 3 * way
    assert trajectory.gradients()[0] == pytest.approx(0.0, abs=1e-6)
    layer.U.data = -way
    assert trajectory.gradients()[0] == pytest.approx(2.0, abs=1e-6)


def test_snapshots_are_taken_at_set_steps_and_live_through_compaction():
    layer = adapted(16)
    trajectory = Trajectory({NAME: layer}, 400)
    assert trajectory.lag == 50
    moved(layer)
    trajectory.after_step(49)
    assert not trajectory.then
    trajectory.after_step(50)
    moved(layer)
    layer.m[1] = 0.0
    full = trajectory.gradients()
    keep = torch.tensor([0, 2])
    layer.set_triplets(layer.U.data[:, keep], layer.s.data[keep], layer.V.data[keep], layer.m[keep])
    less = trajectory.gradients()
    assert less[0] == pytest.approx(full[0], abs=1e-9)
    assert torch.allclose(less[1][NAME][2], full[1][NAME][2][keep], atol=1e-7)


# --- how strong a term is -------------------------------------------------------------------------


class Pull(LossTerm):
    name = "pull"

    def __init__(self, layer, every=1):
        self.layer, self.every = layer, every

    def gradients(self):
        generator = torch.Generator().manual_seed(9)
        found = tuple(torch.randn(p.shape, generator=generator) for p in self.layer.trained)
        return 3.0, {NAME: found}


def norm(tensors):
    return float(torch.cat([t.flatten() for t in tensors]).norm())


@pytest.mark.parametrize("every", [1, 8])
def test_its_gradient_is_a_set_part_of_that_of_the_loss_on_the_mean_of_steps(every):
    layer = adapted()
    for p in layer.trained:
        p.grad = torch.randn_like(p)
    before = [p.grad.clone() for p in layer.trained]
    term = Pull(layer, every)
    added = add_term(term, {NAME: layer}, 0.05, 0.1)
    by = norm([p.grad - b for p, b in zip(layer.trained, before, strict=True)])
    assert by == pytest.approx(0.1 * every * norm(before) * term.weight(0.05), rel=1e-4)
    assert added.value == 3.0
    assert added.share == pytest.approx(by / norm(before), rel=1e-4)


def test_a_term_rises_and_falls_with_the_steps():
    term = Pull(adapted())
    shares = [k / 100 for k in range(101)]
    weights = [term.weight(x) for x in shares]
    top = weights.index(max(weights))
    assert weights[0] == 0.0
    assert top == 5
    assert weights[:6] == sorted(weights[:6])
    assert weights[5:] == sorted(weights[5:], reverse=True)
    assert weights[-1] == pytest.approx(0.0, abs=1e-12)


def test_without_a_gradient_of_the_loss_nothing_is_added():
    layer = adapted()
    assert add_term(Pull(layer), {NAME: layer}, 0.05, 0.1) is None
    layer.U.grad = torch.full_like(layer.U, float("nan"))
    assert add_term(Pull(layer), {NAME: layer}, 0.05, 0.1) is None
    assert layer.V.grad is None


@pytest.mark.parametrize("kind", [Anchor, Trajectory])
def test_what_is_remembered_is_taken_back(kind):
    layer = adapted(4)
    term = kind({NAME: layer}, 16)
    moved(layer)
    term.after_step(2)
    kept = {k: t.clone() for k, t in term.tensors().items()}
    moved(layer, 0.3)
    other = kind({NAME: layer}, 16)
    other.restore(kept)
    (a, da), (b, db) = term.gradients(), other.gradients()
    assert a == b > 0
    assert all(torch.equal(x, y) for x, y in zip(da[NAME], db[NAME], strict=True))


def test_attention_is_found_in_every_architecture(tiny, architecture):
    from core import modelload

    names = modelload.linear_targets(modelload.empty_model(tiny(architecture)))
    found = set(attention_layers(names))
    assert 0 < len(found) < len(names)
    assert not any(".mlp." in name for name in found)


def test_where_no_name_tells_all_layers_count():
    layers = {"block.0.mixer": 1, "block.0.out": 2}
    assert attention_layers(layers) == layers


def test_the_setting_makes_the_term():
    layers = {NAME: adapted()}
    assert make_terms("off", layers, 10) == []
    assert [t.name for t in make_terms("anchor", layers, 10)] == ["anchor"]
    assert [t.name for t in make_terms("trajectory", layers, 10)] == ["trajectory"]
