"""What these methods may hold, and what they refuse with a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import pipeline
from core.config import RunConfig
from core.errors import ConfigError, MemoryBudgetError, ModelError
from core.export import export
from core.methods import composed
from core.peers import memory
from core.peers import run as peers_run
from core.peers.run import built


def test_a_budget_that_is_too_small_is_said_before_anything_is_loaded(config, tmp_path):
    small = replace(config, method="dora", budget_bytes=50_000_000)
    with pytest.raises(MemoryBudgetError, match="takes about") as told:
        pipeline.run(small, tmp_path / "run", lambda event: None, lambda: "")
    assert told.value.minimum_budget_bytes > 50_000_000


def test_a_training_that_passes_its_budget_is_ended(config, tmp_path, monkeypatch):
    held = iter([10, 10, 10**12])
    monkeypatch.setattr(memory, "peak_bytes", lambda device: next(held))
    steps = []
    limited = replace(config, method="peft-lora", budget_bytes=10**11)
    with pytest.raises(MemoryBudgetError, match="was ended") as told:
        pipeline.run(limited, tmp_path / "run", steps.append, lambda: "")
    assert told.value.where == "step 2"
    assert sum(e.kind == "step" for e in steps) == 1


def test_full_fine_tuning_says_how_large_a_model_may_be(config, model_path, monkeypatch):
    shape = memory.Shape.of(model_path)
    wide = replace(config, peer=replace(config.peer, variant="full"), budget_bytes=10**9)
    large = replace(shape, parameters=135_000_000)
    assert memory.trained_numbers(wide, large) * memory.TRAINED == 16 * 135_000_000
    monkeypatch.setattr(memory.Shape, "of", lambda path: large)
    with pytest.raises(MemoryBudgetError, match="all 135 million weights") as told:
        memory.chosen(wide, model_path, 64, 64)
    assert told.value.minimum_budget_bytes > 16 * 135_000_000
    assert "at most" in told.value.action


def test_rows_become_shorter_and_blocks_recomputed_before_a_budget_is_refused(config, model_path):
    chosen = replace(config, method="peft-lora", peer=replace(config.peer, variant="lora"))
    free = memory.chosen(chosen, model_path, 4096, 64)
    assert (free.row_tokens, free.recompute) == (4096, False)
    tight = memory.chosen(replace(chosen, budget_bytes=free.total - 1), model_path, 4096, 64)
    assert (tight.row_tokens, tight.recompute) == (4096, True)
    tighter = memory.chosen(replace(chosen, budget_bytes=tight.total - 1), model_path, 4096, 64)
    assert (tighter.row_tokens, tighter.recompute) == (64, False)


def test_recomputed_blocks_change_no_loss(done, config, tmp_path, trained):
    _, plain, _ = done("peft-lora")
    train = replace(config.train, checkpointing="on")
    _, result, _ = trained(replace(config, method="peft-lora", train=train), tmp_path / "run")
    expected = plain["quiz"]["tuned"]["nll"]
    assert result["quiz"]["tuned"]["nll"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"train": {"optimizer": "sgd"}}, "AdamW"),
        ({"train": {"clip": "adaptive"}}, "AdamW"),
        ({"quant": {"bits": 4}}, "stores its weights"),
        ({"train": {"requantize": True}}, "stores its weights"),
    ],
)
def test_what_they_cannot_do_is_refused(config, change, what, tmp_path):
    tree = config.to_json()
    for group, values in change.items():
        tree[group] |= values
    chosen = RunConfig.from_json({**tree, "method": "dora"})
    with pytest.raises(ConfigError, match=what):
        pipeline.run(chosen, tmp_path / "run", lambda event: None, lambda: "")


@pytest.fixture
def held(monkeypatch):
    """What a run holds in tensors at the end of its second step: (frozen, trained)."""
    found = []

    def watched(*arguments, **more):
        run = built(*arguments, **more)
        after = run.trainer.after_move

        def after_move(step, finite):
            after(step, finite)
            if step == 1:
                found[:] = held_by(run)

        run.trainer.after_move = after_move
        return run

    monkeypatch.setattr(peers_run, "built", watched)
    return found


def held_by(run):
    model, optimizer = run.trainer.model.model, run.trainer.optimizer
    frozen = trained = 0
    for p in model.parameters():
        if not p.requires_grad:
            frozen += p.nbytes
            continue
        moments = (t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor))
        trained += p.nbytes + p.grad.nbytes + sum(t.nbytes for t in moments)
    if run.allocation is not None:
        trained += sum(t.nbytes for t in run.allocation.tensors().values())
    trained += sum(t.nbytes for t in run.trainer.part_tensors().values())
    return frozen, trained, run.estimate


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("peft-lora", {}),
        ("pissa", {"balanced_decay": "on"}),
        ("full", {"direction": "anchor", "balanced_decay": "on"}),
        pytest.param("full", {}, marks=pytest.mark.slow),
        pytest.param("dora", {"direction": "anchor"}, marks=pytest.mark.slow),
        pytest.param("adalora", {"direction": "trajectory"}, marks=pytest.mark.slow),
        pytest.param("loftq", {}, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_counts_the_tensors_that_a_run_holds(config, held, method, settings, tmp_path):
    """Within 2 %; parts beside AdamW are allotted for every number, and may hold less."""
    if method == "loftq":
        pytest.importorskip("bitsandbytes")
    chosen = replace(
        config, method=method, train=replace(config.train, steps=2, stop_early=False, **settings)
    )
    pipeline.run(chosen, tmp_path / "run", lambda event: None, lambda: "")
    frozen, trained, estimate = held
    numbers = memory.trained_numbers(composed(chosen), memory.Shape.of(Path(config.model)))
    least = 16 * numbers if settings else estimate.trained
    assert 0.98 * least <= trained <= 1.02 * estimate.trained
    if method == "loftq":  # codes alone: scales and tables of NF4 are no parameters
        assert 0.5 * estimate.weights < frozen < estimate.weights
    elif method != "full":
        assert frozen == pytest.approx(estimate.weights, rel=0.02)


def test_there_is_no_plan_and_no_variant_without_its_method(config):
    with pytest.raises(ConfigError, match="no plan"):
        pipeline.plan_run(replace(config, method="full"), lambda event: None)
    other = replace(config, peer=replace(config.peer, variant="dora"))
    with pytest.raises(ConfigError, match="no adapter of PEFT"):
        pipeline.plan_run(other, lambda event: None)


def test_transposed_weights_train_dense_and_are_refused_in_nf4(config, tiny, tmp_path, trained):
    short = replace(config.train, steps=2)
    other = replace(config, model=str(tiny("gpt2")), train=short)
    out, _, _ = trained(replace(other, method="dora"), tmp_path / "dora")
    export(out, "merged", tmp_path / "merged")
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match="transposed"):
        trained(replace(other, method="peft-qlora"), tmp_path / "nf4")
