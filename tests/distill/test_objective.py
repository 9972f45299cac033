"""A student that is its teacher has nothing to learn; hooks hear what the blocks say."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core import modelload
from core.config import DistillConfig
from core.data.packing import Row
from core.dense import DenseModel
from core.distill.objective import Distiller, start_projection
from core.distill.taps import Taps, projections
from core.distill.teacher import cached

CPU = torch.device("cpu")
ALONE = DistillConfig(
    answer_weight=0.0, output_weight=1.0, feature_weight=1.0, attention_weight=1.0
)


def made(folder, config=ALONE, *, noise=0.0, cache=None):
    student = DenseModel.load(folder, torch.float32, CPU, trained=True)
    generator = torch.Generator().manual_seed(1)
    for p in student.model.parameters():
        p.data += noise * torch.randn(p.shape, generator=generator)
    layers, width = len(student.blocks), student.model.config.hidden_size
    return Distiller(
        student,
        student.head,
        config,
        steps=10,
        own=lambda step: False,
        layer_map=list(range(layers)),
        load_teacher=lambda: DenseModel.load(folder, torch.float32, CPU),
        cache=cache,
        vocabulary=student.head.vocabulary,
        projection=nn.Parameter(start_projection(width, width, 0)),
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "phi3", "gpt2", "gemma2"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_student_that_is_its_teacher_learns_nothing(deep, encoded, architecture, beta):
    found = made(deep(architecture), replace(ALONE, jsd_beta=beta))
    loss, told = found.loss(encoded[2][0], 0, 1.0)
    loss.backward()
    assert set(found._values) == {"output", "features", "relations", "answers"}
    for name in ("output", "features", "relations"):
        assert abs(found._values[name]) < 1e-5
    assert told == pytest.approx(found._values["answers"])
    gradients = [p.grad for p in found.student.model.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in gradients) < 1e-4
    assert found.projection.grad.abs().max() < 1e-5


def test_each_term_pulls_another_student_towards_the_teacher(deep, encoded):
    for name in ("output_weight", "feature_weight", "attention_weight"):
        none = dict.fromkeys(("output_weight", "feature_weight", "attention_weight"), 0.0)
        config = replace(ALONE, **{**none, name: 1.0})
        found = made(deep("llama"), config, noise=0.02)
        parameters = list(found.student.model.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss, _ = found.loss(encoded[2][0], 0, 1.0)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0], name
        found.close()


def test_the_answers_alone_are_the_models_own_loss(deep, encoded):
    weights = dict.fromkeys(("output_weight", "feature_weight", "attention_weight"), 0.0)
    found = made(deep("llama"), DistillConfig(answer_weight=1.0, **weights))
    row: Row = encoded[2][0]
    loss, told = found.loss(row, 0, 1.0)
    tensors = (torch.tensor(x) for x in (row.ids, row.position_ids, row.labels))
    wanted = found.student.loss(*tensors)
    assert torch.allclose(loss, wanted)
    assert told == pytest.approx(float(wanted.detach()))


def test_what_is_kept_of_the_teacher_says_no_more_than_the_teacher(
    deep, encoded, tmp_path, monkeypatch
):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    config = replace(ALONE, feature_weight=0.0, attention_weight=0.0)
    live = made(deep("llama"), config, noise=0.05)
    examples, shared, rows = encoded
    values = []
    for k in (4, 64, 298):
        live.cache = cached(
            live.load_teacher,
            deep("llama"),
            examples,
            shared=shared,
            k=k,
            temperature=config.soft_temperature,
            vocabulary=live.vocabulary,
            row_tokens=96,
        )
        values.append(float(live.loss(rows[0], 0, 1.0)[0].detach()))
    live.cache = None
    whole = float(live.loss(rows[0], 0, 1.0)[0].detach())
    assert values == sorted(values)
    assert values[-1] <= whole * 1.01
    assert values[-1] == pytest.approx(whole, rel=0.02)


def test_a_cached_teacher_is_not_loaded_where_only_its_outputs_count(
    deep, encoded, tmp_path, monkeypatch
):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    config = replace(ALONE, feature_weight=0.0, attention_weight=0.0)
    found = made(deep("llama"), config)
    examples, shared, rows = encoded
    found.cache = cached(
        found.load_teacher,
        deep("llama"),
        examples,
        shared=shared,
        k=8,
        temperature=2.0,
        vocabulary=300,
        row_tokens=96,
    )
    found.load_teacher = None
    loss, _ = found.loss(rows[0], 0, 1.0)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2", "glm4", "gemma3"])
def test_hooks_hear_what_the_model_itself_reports(deep, architecture):
    model = DenseModel.load(deep(architecture), torch.float32, CPU)
    ids, positions = torch.randint(0, 200, (9,)), torch.arange(9)
    taps = Taps(model.blocks, model.model.config, hidden=range(4), relations=3)
    with torch.no_grad(), taps.listen() as heard:
        model.hidden(ids, positions)
    with torch.no_grad():
        wanted = model.inner(input_ids=ids[None], output_hidden_states=True).hidden_states
    for layer in range(3):  # the last that is reported comes after the final norm
        assert torch.allclose(heard.hidden[layer], wanted[layer + 1][0], atol=1e-5)
    config = model.model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    assert [x.shape[-1] for x in heard.relations] == [heads * size, groups * size, groups * size]
    taps.remove()
    with taps.listen() as silent:
        model.hidden(ids, positions)
    assert not silent.hidden
    assert not silent.qkv


def test_an_unknown_block_has_no_projections(deep):
    config = modelload.load_config(deep("llama"))
    assert projections(nn.Sequential(nn.Linear(4, 4)), config) == []


@pytest.mark.parametrize(("student", "teacher"), [(8, 16), (16, 8), (8, 8)])
def test_the_projection_begins_orthogonal(student, teacher):
    P = start_projection(student, teacher, 0)
    assert P.shape == (teacher, student)
    small = P.t() @ P if student <= teacher else P @ P.t()
    assert torch.allclose(small, torch.eye(min(student, teacher)), atol=1e-5)
    assert torch.equal(P, start_projection(student, teacher, 0))
