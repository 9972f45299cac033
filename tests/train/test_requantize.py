"""Bits that move while training: what must hold whatever is chosen."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core import pipeline
from core.adapters import store
from core.config import RunConfig
from core.data import frozen
from core.errors import ModelError, Stopped
from core.events import event_from_json
from core.plan import planner
from core.plan.measured import MomentsOfLast
from core.plan.profile import RANKS, Price
from core.plan.types import Plan
from core.quant.schemes import Scheme
from core.train import requantize
from core.train.requantize import Snapshot, choose, due, fit, present_model

STEPS = 6  # bits may change after 2 and 4


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    tree = {
        "model": str(tiny("llama")),
        "data": {"path": str(path)},
        "train": {
            "steps": STEPS,
            "tokens_per_step": 96,
            "max_length": 64,
            "eval_every": 3,
            "checkpoint_every": 1,
            "requantize": True,
            "stop_early": False,
        },
        "quant": {"calibration_tokens": 96},
        "quiz": {"generate": False},
    }
    return RunConfig.from_json(tree)


@pytest.fixture(scope="module", autouse=True)
def all_planned_in_8_bits():
    """So that there are bits to win and bits to lose, whatever a budget would give."""
    choices = planner._choices

    def only_8(config, prices):
        fixed = config.quant.bits
        return [(b, r) for b, r in choices(config, prices) if b == (fixed or 8)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_choices", only_8)
        yield


def quiet():
    return ""


def of_kind(events, kind):
    return [e for e in events if e.kind == kind]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An uninterrupted run in which every change is accepted, and its events."""
    out, events = tmp_path_factory.mktemp("run") / "whole", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requantize, "RISE", 1.0)
        patch.setattr(requantize, "choose", other_bits)
        result = pipeline.run(config, out, events.append, quiet)
    return out, result, events


def other_bits(prices, bits, ranks, group, budget):
    """First two layers to 3 bits, which makes room for a third at 16; then the first to 4."""
    first, second, third, *_ = bits
    wanted = {first: 3, second: 3, third: 16} if bits[first] == 8 else {first: 4}
    return {n: b for n, b in wanted.items() if b != bits[n]}


def test_bits_move_and_are_told(whole):
    out, _, events = whole
    changed = of_kind(events, "requantized")
    assert {e.step for e in changed} == {2, 4}
    bits = {e.name: e.bits for e in store.load_plan(out, []).linears}
    for event in [e for e in events if e.kind in ("requantized", "bits")]:
        assert event_from_json(json.loads(json.dumps(event.to_json()))) == event
    for event in changed:
        assert bits[event.layer] == event.from_bits != event.to_bits
        bits[event.layer] = event.to_bits
    told = [e for e in of_kind(events, "bits") if e.reason == "requantized"]
    sums = [(e.step, n, b) for e in told for n, b in e.bits.items()]
    assert sums == [(e.step, e.layer, e.to_bits) for e in changed]
    assert {x.name: x.bits for x in store.load_plan(out).linears} == bits


def test_the_finished_model_has_the_final_codes(whole):
    out, _, _ = whole
    model, _ = store.load_run(out)
    for name, bits in ((x.name, x.bits) for x in store.load_plan(out).linears):
        assert store.adapted(model)[name].quantized.scheme.bits == bits
    planned, _ = store.load_stored(out)
    for x in store.load_plan(out, []).linears:
        assert store.adapted(planned)[x.name].quantized.scheme.bits == x.bits


@pytest.mark.parametrize("stops", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_stopped_and_resumed_gives_the_same_adapter(config, whole, tmp_path, monkeypatch, stops):
    monkeypatch.setattr(requantize, "RISE", 1.0)
    monkeypatch.setattr(requantize, "choose", other_bits)
    heard = []

    def wish():
        return "stop" if len(of_kind(heard, "step")) >= stops else ""

    with pytest.raises(Stopped):
        pipeline.run(config, tmp_path / "r", heard.append, wish)
    result = pipeline.resume(tmp_path / "r", lambda event: None, quiet)
    assert result["adapter_sha256"] == whole[1]["adapter_sha256"]
    assert store.load_plan(tmp_path / "r") == store.load_plan(whole[0])


def test_killed_after_a_change_and_before_its_checkpoint_gives_the_same_adapter(
    config, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(requantize, "RISE", 1.0)
    monkeypatch.setattr(requantize, "choose", other_bits)
    save, killed = pipeline._save, []

    def save_or_die(out, trainer):
        if trainer.progress.step == 4 and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        save(out, trainer)

    monkeypatch.setattr(pipeline, "_save", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, tmp_path / "k", lambda event: None, quiet)
    assert (tmp_path / "k" / store.REQUANTIZED / "step-000004").is_dir()
    result = pipeline.resume(tmp_path / "k", lambda event: None, quiet)
    assert result["adapter_sha256"] == whole[1]["adapter_sha256"]


def test_damaged_codes_are_named(whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    file = next((out / store.REQUANTIZED).glob("*/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError):
        store.load_run(out)
    shutil.rmtree(out / store.REQUANTIZED)
    with pytest.raises(ModelError) as told:
        store.load_run(out)
    assert told.value.code == "adapter.requantized"


@pytest.fixture(scope="module")
def paused(config, tmp_path_factory):
    """A run that stopped after two steps, before any bits changed; and its lesson."""
    out, heard = tmp_path_factory.mktemp("paused") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requantize, "due", lambda steps: set())
        with pytest.raises(Stopped):
            pipeline.run(
                config, out, heard.append, lambda: "stop" if len(of_kind(heard, "step")) > 1 else ""
            )
    lesson = pipeline._lesson(config, frozen.load_frozen(out / "data"), lambda event: None)
    return out, lesson


@pytest.fixture
def trainer(config, paused, tmp_path):
    """A requantizer, and a trainer that stands between two steps before bits may change."""
    out, lesson = shutil.copytree(paused[0], tmp_path / "t"), paused[1]
    plan = Plan.from_json(json.loads((out / "plan.json").read_text("utf-8")))
    trainer = pipeline._trainer(out, config, plan, lesson, lambda event: None)
    assert trainer.progress.step == 2
    return trainer.requantize, trainer


def state_of(trainer):
    """Every tensor and counter of a trainer."""
    from core.train.optimizers import optimizer_tensors

    tensors = {**store.triplets(trainer.layers), **trainer.ranks.tensors()}
    tensors |= optimizer_tensors(trainer.optimizer, trainer.layers)
    for name, layer in trainer.layers.items():
        tensors |= {f"{name}.q.{k}": b for k, b in layer.quantized.named_buffers()}
    return {k: t.clone() for k, t in tensors.items()}


def test_the_present_model_computes_what_the_trainer_does(trainer):
    requantizer, trainer = trainer
    model, _ = present_model(trainer, requantizer.path)
    ids, positions, _ = requantizer.row_of(96)
    with torch.no_grad():
        ours, theirs = model.hidden(ids, positions), trainer.model.hidden(ids, positions)
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_change_that_harms_is_rolled_back_bit_for_bit(trainer, monkeypatch):
    requantizer, trainer = trainer
    monkeypatch.setattr(requantize, "choose", other_bits)
    monkeypatch.setattr(requantize, "RISE", -1e9)  # whatever happens is too much
    events, trainer.emit = [], lambda event: events.append(event)
    before, loss = state_of(trainer), trainer.mean_loss(requantizer.probe)
    requantizer(trainer)
    assert of_kind(events, "rolled_back")
    assert not of_kind(events, "requantized")
    after = state_of(trainer)
    assert set(after) == set(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert trainer.mean_loss(requantizer.probe) == loss
    assert not trainer.progress.requantized
    assert not (requantizer.out / store.REQUANTIZED).exists()
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for layer in trainer.layers.values():
        assert all(id(p) in trained for p in (layer.U, layer.s, layer.V) if p.numel())


def test_of_several_changes_only_the_harmful_ones_are_taken_back(trainer, monkeypatch):
    """Planted: the loss rises as soon as one of three layers is in other bits."""
    requantizer, trainer = trainer
    bad, *good = list(trainer.layers)[:3]
    monkeypatch.setattr(requantize, "choose", lambda *given: {bad: 2, good[0]: 4, good[1]: 16})
    real = type(trainer).mean_loss

    def mean_loss(self, rows):
        return real(self, rows) * 0 + 2.0 + (trainer.layers[bad].quantized.scheme.bits != 8)

    monkeypatch.setattr(type(trainer), "mean_loss", mean_loss)
    trainer.ledger = replace(trainer.ledger, allotted=trainer.ledger.allotted + 10**5)
    monkeypatch.setattr(requantize._Trial, "room", lambda self: -1.0 if missing() else 1e9)

    def missing():  # demotions come first, and all of them
        return any(trainer.layers[n].quantized.scheme.bits == 8 for n in (bad, good[0]))

    events, trainer.emit = [], lambda event: events.append(event)
    requantizer(trainer)
    assert {e.layer for e in of_kind(events, "rolled_back")} == {bad}
    assert {e.layer for e in of_kind(events, "requantized")} == set(good)
    bits = [trainer.layers[n].quantized.scheme.bits for n in (bad, *good)]
    assert bits == [8, 4, 16]


def test_a_change_that_the_ledger_forbids_is_rolled_back(trainer, monkeypatch):
    """Planted: the room is overstated, so that only the check after the change can say no."""
    requantizer, trainer = trainer
    wide = {n: 16 for n, x in trainer.layers.items() if x.quantized.scheme.bits < 16}
    monkeypatch.setattr(requantize, "choose", lambda *given: wide)
    monkeypatch.setattr(requantize._Trial, "room", lambda self: float("inf"))
    events, trainer.emit = [], lambda event: events.append(event)
    requantizer(trainer)
    trainer.check_ledger()
    assert any(e.loss_after is None for e in of_kind(events, "rolled_back"))


def test_without_room_to_measure_nothing_changes_and_a_note_says_so(trainer):
    requantizer, trainer = trainer
    requantizer.plan = replace(requantizer.plan, budget_bytes=requantizer.plan.parts["process"])
    events, trainer.emit = [], lambda event: events.append(event)
    before = state_of(trainer)
    requantizer(trainer)
    assert [e.code for e in of_kind(events, "note")] == ["train.requantize_room"]
    assert all(torch.equal(t, before[k]) for k, t in state_of(trainer).items())


def test_the_most_sensitive_layer_is_promoted_and_the_budget_holds(trainer, monkeypatch):
    """Planted: one layer costs a thousand times what it did; the round must find it."""
    requantizer, trainer = trainer
    name = min(trainer.layers, key=lambda n: trainer.layers[n].quantized.scheme.bits)
    was = trainer.layers[name].quantized.scheme.bits
    real = requantize.reprice

    def reprice(*given):
        prices, sensitivity = real(*given)
        p = prices[name]
        steep = {b: [1000 * c + 10.0 * (16 - b) for c in costs] for b, costs in p.cost.items()}
        return {**prices, name: replace(p, cost=steep)}, sensitivity

    monkeypatch.setattr(requantize, "reprice", reprice)
    monkeypatch.setattr(requantize, "RISE", 1.0)
    events, trainer.emit = [], lambda event: events.append(event)
    requantizer(trainer)
    assert trainer.layers[name].quantized.scheme.bits > was
    trainer.check_ledger()
    assert trainer.ledger.room(trainer.held()) >= 0


def test_to_16_bits_and_back_stays_within_the_bound(trainer):
    """The function moves by what the rank cannot hold: the bound that the fit itself states."""
    requantizer, trainer = trainer
    name = next(n for n, x in trainer.layers.items() if x.quantized.scheme.bits < 16 and x.rank)
    layer, read = trainer.layers[name], requantizer._read(trainer)
    x = torch.randn(200, layer.in_features)
    moments, sensitivity = MomentsOfLast().of(x), torch.ones(layer.out_features)
    for bits in (16, layer.quantized.scheme.bits):
        present = layer.effective_weight()
        source = read(name) if bits == 16 else present
        stored = requantize.rounded(source, Scheme(bits, 64), moments)
        error = present - stored.dequantize()
        rank = layer.rank
        U, V = fit(error, sensitivity, moments.lower, rank)
        tail = torch.linalg.svdvals(error @ moments.lower)[rank:].square().sum().sqrt()
        Snapshot(trainer, name).change(stored, U, V)
        moved = (layer.effective_weight() - present) @ moments.lower
        assert moved.norm() <= 1.01 * tail + 1e-5
        change = x @ (layer.effective_weight() - present).t()
        # |E L|^2 is the mean of |E x|^2, the damping of L aside, which only adds to it.
        assert change.square().sum(1).mean().sqrt() <= 1.01 * tail + 1e-5


def test_a_promoted_layer_without_adapter_is_the_base_again(trainer):
    requantizer, trainer = trainer
    name = next(iter(trainer.layers))
    layer, read = trainer.layers[name], requantizer._read(trainer)
    stored = requantize.rounded(read(name), Scheme(16, 64), None)
    empty = torch.zeros(layer.out_features, 0), torch.zeros(0, layer.in_features)
    Snapshot(trainer, name).change(stored, *empty)
    assert torch.equal(layer.effective_weight(), read(name).bfloat16().float())


def test_a_changed_layer_trains_on_with_fresh_moments(trainer, monkeypatch):
    requantizer, trainer = trainer
    monkeypatch.setattr(requantize, "choose", other_bits)
    monkeypatch.setattr(requantize, "RISE", 1.0)
    events, trainer.emit = [], lambda event: events.append(event)
    requantizer(trainer)
    changed = {e.layer for e in of_kind(events, "requantized")}
    assert changed
    for name, layer in trainer.layers.items():
        for p in (layer.U, layer.s, layer.V):
            assert (p in trainer.optimizer.state) == (name not in changed and p.numel() > 0)
    before = {n: trainer.layers[n].U.data.clone() for n in changed}
    trainer._step(trainer.progress.step)
    assert any(not torch.equal(trainer.layers[n].U.data, before[n]) for n in changed)


def test_changing_bits_counts_as_nothing_learned(trainer, monkeypatch):
    """What the adapter for the original base holds is the same before and after the change."""
    requantizer, trainer = trainer
    monkeypatch.setattr(requantize, "choose", other_bits)
    monkeypatch.setattr(requantize, "RISE", 1.0)

    def learned():
        still = store.unlearned_triplets(requantizer.out)
        return {
            n: x.delta() - (still[f"{n}.U"] * still[f"{n}.s"]) @ still[f"{n}.V"]
            for n, x in trainer.layers.items()
        }

    store.save_adapter(requantizer.out, trainer.layers, {})
    before, old = learned(), {n: x.delta() for n, x in trainer.layers.items()}
    requantizer(trainer)
    assert trainer.progress.requantized == [2]
    store.save_adapter(requantizer.out, trainer.layers, {"requantized": [2]})
    after = learned()
    moved = [n for n, x in trainer.layers.items() if not torch.equal(x.delta(), old[n])]
    assert moved
    for name in trainer.layers:
        assert torch.allclose(after[name], before[name], atol=1e-5)


def prices_of(costs):
    """Prices of layers of 64 x 64 by their cost at each width, the same at every rank."""
    return {
        name: Price(name, 64, 64, {b: [c] * len(RANKS) for b, c in cost.items()}, [0.0] * 6)
        for name, cost in costs.items()
    }


def test_bits_go_from_the_calm_layer_to_the_sensitive_one_under_the_same_bytes():
    prices = prices_of({"calm": {3: 0.02, 4: 0.01, 8: 0.0}, "sharp": {3: 5.0, 4: 1.0, 8: 0.1}})
    size = {b: Scheme(b).stored_bytes(64, 64) for b in (3, 4, 8)}
    bits = {"calm": 8, "sharp": 3}
    new = choose(prices, bits, dict.fromkeys(prices, 4), 64, size[8] + size[3])
    assert new == {"calm": 3, "sharp": 8}


def test_nothing_changes_for_less_than_can_be_judged():
    prices = prices_of({"a": {4: 0.004, 8: 0.0}, "b": {4: 0.004, 8: 0.0}})
    assert choose(prices, {"a": 4, "b": 4}, {"a": 4, "b": 4}, 64, 10**9) == {}


def test_a_fit_is_the_weighted_optimum():
    """On a small problem against the dense decomposition of the whitened error."""
    torch.manual_seed(0)
    error, x, weight = torch.randn(12, 16), torch.randn(64, 16), torch.rand(12) + 0.1
    lower = MomentsOfLast().of(x).lower
    U, V = fit(error, weight, lower, 5)
    left = ((error - U @ V) * weight[:, None]) @ lower
    best = torch.linalg.svdvals((error * weight[:, None]) @ lower)[5:].norm()
    assert torch.allclose(left.norm(), best, rtol=1e-3)
    assert torch.allclose(V.norm(dim=1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize(("steps", "after"), [(1, set()), (2, {1}), (3, {1, 2}), (12, {4, 8})])
def test_bits_may_change_after_a_third_and_two_thirds(steps, after):
    assert due(steps) == after


def test_fixed_bits_stay_fixed_and_a_note_says_so(config, tmp_path):
    short = replace(config.train, steps=3)
    fixed = replace(config, train=short, quant=replace(config.quant, bits=4))
    events = []
    pipeline.run(fixed, tmp_path / "f", events.append, quiet)
    assert "train.requantize_fixed" in [e.code for e in of_kind(events, "note")]
    assert not of_kind(events, "requantized")


def test_what_comes_from_the_base_is_not_stored_but_made_again(trainer, monkeypatch):
    requantizer, trainer = trainer
    name = next(iter(trainer.layers))
    monkeypatch.setattr(requantize, "choose", lambda *given: {name: 16})
    monkeypatch.setattr(requantize, "RISE", 1e9)
    trainer.ledger = None
    requantizer(trainer)
    assert trainer.progress.requantized == [2]
    (file,) = (requantizer.out / store.REQUANTIZED).glob("*/*.safetensors")
    assert set(load_file(file)) == {"U", "V"}
    model, _ = store.load_stored(requantizer.out, requantized=[2])
    loaded, live = store.adapted(model)[name].quantized, trainer.layers[name].quantized
    assert torch.equal(loaded.dense, live.dense)
