"""Runs against plain loops of torch and PEFT, and where each method begins."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import modelload
from core.adapters import peers, store
from core.data.chat import ChatFormat
from core.data.frozen import load_frozen
from core.data.packing import Schedule, shared_beginning
from core.dense import DenseModel
from core.peers import memory
from core.peers.adalora import Allocation
from core.peers.run import RATES

STEPS = 6


def plain_loop(config, data, rates, variant):
    """The same examples one by one, in a loop of torch and PEFT alone; returns PEFT's model."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model = modelload.load_dense(Path(config.model), torch.float32)
    chat = ChatFormat.of(modelload.load_tokenizer(Path(config.model)))
    encoded = [chat.encode(e, config.train.max_length) for e in load_frozen(data).train]
    rank = config.adapter.rank
    common = {"target_modules": "all-linear", "lora_alpha": 2 * rank, "task_type": "CAUSAL_LM"}
    torch.manual_seed(config.train.seed)
    if variant == "adalora":
        settings = AdaLoraConfig(
            init_r=6, target_r=rank, total_step=STEPS, tinit=0, tfinal=1, **common
        )
    else:
        settings = LoraConfig(r=rank, use_dora=variant == "dora", **common)
    trained = model.requires_grad_(True) if variant == "full" else get_peft_model(model, settings)
    shared = shared_beginning(encoded)
    rows = Schedule(encoded, tokens_per_step=96, micro_batch_tokens=96, seed=0, shared=shared)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0)
    for step, rate in enumerate(rates):
        members = [encoded[k] for row in rows.rows(step) for k in row.members]
        answers = sum(label != -100 for e in members for label in e.labels)
        for one in members:
            found = model(input_ids=torch.tensor([one.ids])).logits[0, :-1]
            wanted = torch.tensor(one.labels[1:])
            loss = torch.nn.functional.cross_entropy(found, wanted, reduction="sum")
            (loss / answers).backward()
        if variant == "adalora":
            peers.orthogonality(trained).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.train.grad_clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        if variant == "adalora":
            trained.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
    return trained


@pytest.mark.parametrize("method", ["peft-lora", "dora", "adalora", "full"])
def test_a_run_is_a_plain_loop_of_torch_and_peft(config, method, tmp_path, trained):
    chosen = replace(config, method=method, train=replace(config.train, stop_early=False))
    out, _, events = trained(chosen, tmp_path / "run")
    rates = [e.lr for e in events if e.kind == "step"]
    variant = method.removeprefix("peft-")
    assert max(rates) == pytest.approx(config.train.lr * RATES.get(variant, 1.0))
    reference = plain_loop(config, out / "data", rates, variant)
    if method == "full":
        expected = {n: p.detach() for n, p in reference.named_parameters()}
        found = load_file(out / store.WHOLE / "model.safetensors")
    else:
        expected = peers.adapter_tensors(reference)
        found = load_file(out / store.ADAPTER / peers.WEIGHTS)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name].float(), tensor, atol=2e-5), name


def test_adalora_ends_at_the_mean_rank_that_was_asked_for(done):
    out, result, events = done("adalora")
    tree = json.loads((out / store.ADAPTER / peers.CONFIG).read_text("utf-8"))
    assert tree["target_r"] == 4 and tree["init_r"] == 6
    told = [e for e in events if e.kind == "ranks"]
    last = {name: rank for e in told for name, rank in e.ranks.items()}
    assert sum(last.values()) <= 4 * len(last)
    kept = load_file(out / store.ADAPTER / peers.WEIGHTS)
    assert result["trained_numbers"] == sum(t.numel() for t in kept.values())
    assert len(set(last.values())) > 1


def test_a_step_without_gradients_says_nothing_about_importance(config, tmp_path, model_path):
    model = modelload.load_dense(model_path, torch.float32)
    chosen = replace(config, peer=replace(config.peer, variant="adalora"))
    peft = peers.wrapped(model, chosen, 8, model_path, tmp_path)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, math.nan)
    allocation = Allocation(peft, lambda event: None)
    allocation.after_move(0, False)
    assert all(torch.isfinite(t).all() for t in allocation.tensors().values())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_pissa_begins_as_the_base_and_begins_there_again(
    config, tiny, architecture, tmp_path, logits
):
    chosen = replace(config, peer=replace(config.peer, variant="pissa"))
    path = tiny(architecture)
    plain = logits(modelload.load_dense(path, torch.float32), path)
    told = []
    for _ in range(2):  # the second time from the folder of the first
        model = modelload.load_dense(path, torch.float32)
        before = modelload.linear_targets(model)
        weights = [m.weight.clone() for m in before.values()]
        peft = peers.wrapped(model, chosen, STEPS, path, tmp_path)
        told.append(logits(model, path))
        left = [m.get_base_layer().weight for m in adapted(peft)]
        assert all(a.norm() < b.norm() for a, b in zip(left, weights, strict=True))
    assert torch.allclose(told[0], plain, atol=1e-3)
    assert torch.allclose(told[1], told[0], atol=1e-4)


def adapted(peft):
    return [m for m in peft.modules() if hasattr(m, "lora_A") and hasattr(m, "get_base_layer")]


def test_a_dense_model_is_what_trains(config, model_path):
    """Only the adapter has gradients, whatever the base is stored in."""
    model = modelload.load_dense(model_path, torch.float32)
    student = DenseModel.of(model)
    chosen = replace(config, peer=replace(config.peer, variant="lora"))
    peft = peers.wrapped(model, chosen, STEPS, model_path, model_path)
    trains = [n for n, p in student.model.named_parameters() if p.requires_grad]
    assert trains and all("lora_" in name for name in trains)
    assert sum(p.numel() for p in peft.parameters() if p.requires_grad) == memory.trained_numbers(
        chosen, memory.Shape.of(model_path)
    )
