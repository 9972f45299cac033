"""Adapters of PEFT and full fine-tuning, through whole runs on tiny models of the real classes."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core import modelload, pipeline
from core.adapters import peers, store
from core.config import RunConfig
from core.data.chat import ChatFormat
from core.data.frozen import load_frozen
from core.data.packing import Schedule, shared_beginning
from core.data.types import Turn
from core.dense import DenseModel
from core.errors import ConfigError, MemoryBudgetError, ModelError, Stopped
from core.evaluate.marks import marks
from core.export import export
from core.export.load import load_exported
from core.peers import memory
from core.peers.adalora import Allocation
from core.peers.run import RATES
from core.whole import write_whole

STEPS = 6
TREE = {
    "train": {"steps": STEPS, "tokens_per_step": 96, "max_length": 64, "eval_every": 3},
    "adapter": {"rank": 4},
    "quiz": {"generate": False},
}
DENSE = ["peft-lora", "dora", "pissa", "adalora"]
NF4 = ["peft-qlora", "loftq"]
ADAPTERS = [*DENSE, *NF4]


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(16)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return RunConfig.from_json({**TREE, "model": str(tiny("llama")), "data": {"path": str(path)}})


@pytest.fixture(scope="module", autouse=True)
def marked_here():
    """The quiz in this process: starting another costs more than marking a tiny model."""

    def mark_run(out, emit, should_stop):
        write_whole(out / "quiz.json", json.dumps(marks(out, lambda share: None)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "mark_run", mark_run)
        yield


def trained(config, out, should_stop=lambda: ""):
    events = []
    result = pipeline.run(config, out, events.append, should_stop)
    (out / "result.json").write_text(json.dumps(result), "utf-8")  # as the worker leaves it
    return out, result, events


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """Return a function: method -> folder, result and events of a finished run."""
    kept = {}

    def get(method):
        if method in NF4:
            pytest.importorskip("bitsandbytes")
        if method not in kept:
            chosen = replace(config, method=method)
            kept[method] = trained(chosen, tmp_path_factory.mktemp(method) / "run")
        return kept[method]

    return get


def prompt_of(path):
    chat = ChatFormat.of(modelload.load_tokenizer(path))
    return torch.tensor([chat.encode_prompt([Turn("user", "What follows the number 3?")])])


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_a_run_trains_marks_and_says_what_others_say(done, method):
    out, result, events = done(method)
    losses = [e.loss for e in events if e.kind == "step"]
    assert len(losses) == STEPS == result["steps"]
    assert losses[-1] < losses[0]
    assert {"predicted_peak_bytes", "measured_peak_bytes", "adapter_sha256"} <= result.keys()
    assert result["trained_numbers"] > 0 and result["predicted_peak_bytes"] > 0
    assert result["quiz"]["tuned"]["nll"] < result["quiz"]["base"]["nll"]
    assert any(e.kind == "memory" for e in events)
    files = [path.suffix for path in out.rglob("*") if path.is_file()]
    assert not {".bin", ".pt", ".pth", ".pkl"} & set(files)


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_what_is_saved_is_what_trained(done, method):
    """The loaded model's loss on the quiz is that of the best look, but for rounding."""
    _, result, events = done(method)
    best = min(e.nll for e in events if e.kind == "evaluated" and e.which == "tuned")
    assert result["quiz"]["tuned"]["nll"] == pytest.approx(
        best, rel=2e-3 if method == "full" else 1e-4
    )


@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_a_stopped_run_resumes_to_the_same_numbers(done, config, method, tmp_path):
    _, whole, _ = done(method)
    steps = []

    def wish():
        return "stop" if len(steps) == 4 else ""

    chosen, out = replace(config, method=method), tmp_path / "run"
    with pytest.raises(Stopped):
        pipeline.run(chosen, out, lambda e: steps.append(e) if e.kind == "step" else None, wish)
    again = pipeline.resume(out, lambda event: None, lambda: "")
    assert again["adapter_sha256"] == whole["adapter_sha256"]


@pytest.mark.parametrize("method", ADAPTERS)
def test_merged_exports_have_the_logits_of_peft(done, config, method, tmp_path):
    """The reference is PEFT's own loading on the base that the adapter was trained on."""
    from peft import PeftModel

    out, _, _ = done(method)
    found = export(out, "merged", tmp_path / "merged")
    assert found["checked"]["equal"] == found["checked"]["prompts"] > 0
    ids = prompt_of(config.model)
    cpu = torch.device("cpu")
    stored = peers.NF4 if method in NF4 else peers.DENSE
    base = peers.load_base(config.model, stored, torch.float32, cpu)
    expected = logits(PeftModel.from_pretrained(base, out / store.ADAPTER).eval(), ids)
    merged = logits(modelload.load_dense(tmp_path / "merged", torch.float32), ids)
    assert torch.allclose(merged, expected, atol=2e-3)
    plain = logits(modelload.load_dense(config.model, torch.float32), ids)
    assert (merged - plain).abs().max() > 0.01


@pytest.mark.parametrize("method", ["peft-lora", "dora", "adalora", "loftq"])
def test_the_adapter_is_exported_as_it_is_and_opened_again(done, config, method, tmp_path):
    out, _, _ = done(method)
    found = export(out, "peft", tmp_path / "peft")
    assert found["checked"]["equal"] == found["checked"]["prompts"] > 0
    text = (tmp_path / "peft" / "adapter_config.json").read_text("utf-8")
    assert str(config.model) not in text
    tree = {**json.loads(text), "base_model_name_or_path": str(config.model)}
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(tree), "utf-8")
    model, _, _ = load_exported(tmp_path / "peft", str(config.model))
    ids = prompt_of(config.model)
    mine, _, _ = store.load_adapted(out, merged=False)
    assert torch.allclose(logits(model, ids), logits(mine, ids), atol=1e-5)
    with pytest.raises(ConfigError, match="one adapter"):
        export(out, "peft-exact", tmp_path / "exact")


def test_a_wholly_trained_model_is_a_model_like_any_other(done, config, tmp_path):
    out, result, _ = done("full")
    assert not (out / "checkpoints").exists()
    export(out, "merged", tmp_path / "merged")
    ids = prompt_of(config.model)
    mine, _, _ = store.load_adapted(out)
    theirs = modelload.load_dense(tmp_path / "merged", torch.float32)
    assert torch.equal(logits(mine, ids), logits(theirs, ids))
    assert "trained on the class" in (tmp_path / "merged" / "README.md").read_text("utf-8")
    assert result["trained_numbers"] == sum(p.numel() for p in theirs.parameters())
    with pytest.raises(ModelError, match="no adapter"):
        export(out, "peft", tmp_path / "peft")


# --- against plain loops ----------------------------------------------------------------------


def plain_loop(config, data, rates, variant):
    """The same examples one by one, in a loop of torch and PEFT alone; returns PEFT's model."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    model = modelload.load_dense(config.model, torch.float32)
    chat = ChatFormat.of(modelload.load_tokenizer(config.model))
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
def test_a_run_is_a_plain_loop_of_torch_and_peft(config, method, tmp_path):
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


def test_a_step_without_gradients_says_nothing_about_importance(config, tmp_path):
    model = modelload.load_dense(config.model, torch.float32)
    chosen = replace(config, peer=replace(config.peer, variant="adalora"))
    peft = peers.wrapped(model, chosen, 8, config.model, tmp_path)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, math.nan)
    allocation = Allocation(peft, lambda event: None)
    allocation.after_move(0, False)
    assert all(torch.isfinite(t).all() for t in allocation.tensors().values())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_pissa_begins_as_the_base_and_begins_there_again(config, tiny, architecture, tmp_path):
    chosen = replace(config, peer=replace(config.peer, variant="pissa"))
    path = tiny(architecture)
    ids = prompt_of(path)
    plain = logits(modelload.load_dense(path, torch.float32), ids)
    told = []
    for _ in range(2):  # the second time from the folder of the first
        model = modelload.load_dense(path, torch.float32)
        before = modelload.linear_targets(model)
        weights = [m.weight.clone() for m in before.values()]
        peft = peers.wrapped(model, chosen, STEPS, path, tmp_path)
        told.append(logits(model, ids))
        left = [m.get_base_layer().weight for m in adapted(peft)]
        assert all(a.norm() < b.norm() for a, b in zip(left, weights, strict=True))
    assert torch.allclose(told[0], plain, atol=1e-3)
    assert torch.allclose(told[1], told[0], atol=1e-4)


def adapted(peft):
    return [m for m in peft.modules() if hasattr(m, "lora_A") and hasattr(m, "get_base_layer")]


# --- memory and refusals ----------------------------------------------------------------------


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


def test_full_fine_tuning_says_how_large_a_model_may_be(config):
    shape = memory.Shape.of(config.model)
    wide = replace(config, peer=replace(config.peer, variant="full"), budget_bytes=10**9)
    large = replace(shape, parameters=135_000_000)
    assert memory.trained_numbers(wide, large) * memory.TRAINED == 16 * 135_000_000
    least = memory.estimated(wide, large, 64, recompute=True, process=200_000_000)
    error = memory._too_large(wide, large, least, 10**9)
    assert "135 million weights" in error.what
    assert "at most" in error.action


def test_rows_become_shorter_and_blocks_recomputed_before_a_budget_is_refused(config):
    chosen = replace(config, method="peft-lora", peer=replace(config.peer, variant="lora"))
    free = memory.chosen(chosen, config.model, 4096, 64)
    assert (free.row_tokens, free.recompute) == (4096, False)
    tight = memory.chosen(replace(chosen, budget_bytes=free.total - 1), config.model, 4096, 64)
    assert (tight.row_tokens, tight.recompute) == (4096, True)
    tighter = memory.chosen(replace(chosen, budget_bytes=tight.total - 1), config.model, 4096, 64)
    assert (tighter.row_tokens, tighter.recompute) == (64, False)


def test_recomputed_blocks_change_no_loss(done, config, tmp_path):
    _, plain, _ = done("peft-lora")
    train = replace(config.train, checkpointing="on")
    _, result, _ = trained(replace(config, method="peft-lora", train=train), tmp_path / "run")
    expected = plain["quiz"]["tuned"]["nll"]
    assert result["quiz"]["tuned"]["nll"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"train": {"optimizer": "sgd"}}, "AdamW"),
        ({"train": {"direction": "anchor"}}, "AdamW"),
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


def test_there_is_no_plan_and_no_variant_without_its_method(config):
    with pytest.raises(ConfigError, match="no plan"):
        pipeline.plan_run(replace(config, method="full"), lambda event: None)
    other = replace(config, peer=replace(config.peer, variant="dora"))
    with pytest.raises(ConfigError, match="no adapter of PEFT"):
        pipeline.plan_run(other, lambda event: None)


def test_transposed_weights_train_dense_and_are_refused_in_nf4(config, tiny, tmp_path):
    short = replace(config.train, steps=2)
    other = replace(config, model=str(tiny("gpt2")), train=short)
    out, _, _ = trained(replace(other, method="dora"), tmp_path / "dora")
    export(out, "merged", tmp_path / "merged")
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match="transposed"):
        trained(replace(other, method="peft-qlora"), tmp_path / "nf4")


def test_a_dense_model_is_what_trains(config):
    """Only the adapter has gradients, whatever the base is stored in."""
    model = modelload.load_dense(config.model, torch.float32)
    student = DenseModel.of(model)
    chosen = replace(config, peer=replace(config.peer, variant="lora"))
    peft = peers.wrapped(model, chosen, STEPS, config.model, config.model)
    trains = [n for n, p in student.model.named_parameters() if p.requires_grad]
    assert trains and all("lora_" in name for name in trains)
    assert sum(p.numel() for p in peft.parameters() if p.requires_grad) == memory.trained_numbers(
        chosen, memory.Shape.of(config.model)
    )
