"""What method pairs is compared with: full tuning, LoRA and AdaLoRA of PEFT on the same head."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import pair_process as process
from benchmarks.settings import PAIR_PEERS, Job
from core.data.pairs import Pair, freeze_pairs, load_pairs
from core.data.pairs import PairSplit as Sides
from core.layers.lora import adapter_layers


@pytest.fixture
def job(tmp_path, tiny_encoder, pair_rows):
    pairs = [Pair(*row) for row in pair_rows]
    freeze_pairs(
        Sides(tuple(pairs[:32]), tuple(pairs[32:40]), tuple(pairs[40:])), tmp_path / "data"
    )
    (tmp_path / "out").mkdir()
    return Job(
        variant="lora-head",
        seed=0,
        model=str(tiny_encoder("bert")),
        data=str(tmp_path / "data"),
        out=str(tmp_path / "out"),
        steps=3,
        rank=2,
        lr=1e-3,
        tokens_per_step=128,
        max_length=64,
        budget_bytes=0,
        questions=0,
        max_new_tokens=0,
        method="lora-head",
        suite="qqp",
        items="test.json",
    )


@pytest.mark.parametrize("method", PAIR_PEERS)
def test_a_peer_trains_and_is_marked_on_the_test(job, method):
    found = process.train_and_mark(replace(job, method=method))
    assert sum(found["confusion"].values()) == 8
    assert found["steps"] == 3 and found["peak_bytes"] > 0 and found["file_bytes"] > 0
    assert 0 <= found["accuracy"] <= 1 and -1 <= found["mcc"] <= 1


@pytest.mark.parametrize("method", PAIR_PEERS)
def test_only_what_belongs_to_the_peer_moves(job, method):
    torch.manual_seed(0)
    job = replace(job, method=method)
    peer = process.build(job)
    named = dict(peer.model.inner.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    head = peer.model.head.detach().clone()
    process.fit(peer, load_pairs(Path(job.data)), job)
    moved = {name for name, p in named.items() if not torch.equal(p, before[name])}
    assert moved
    assert not torch.equal(head, peer.model.head)
    if method == "full-head":
        assert len(moved) > len(named) / 2
        assert peer.numbers() == sum(p.numel() for p in named.values()) + head.numel()
    elif method == "svd-head":
        assert {name.rpartition(".")[2] for name in moved} == {"c", "d"}
        layers = adapter_layers(peer.model.inner)
        assert peer.numbers() == head.numel() + sum(
            min(x.out_features, x.in_features) + x.out_features for x in layers.values()
        )
    else:
        assert all("lora_" in name for name in moved)
        assert peer.numbers() < sum(p.numel() for p in named.values())


def test_untrained_adapters_answer_as_the_base_model_does(job):
    logits = []
    for method in ("full-head", "lora-head", "svd-head"):
        torch.manual_seed(0)
        peer = process.build(replace(job, method=method))
        with torch.no_grad():
            peer.model.head.fill_(0.01)
            peer.model.head[1].mul_(torch.linspace(-1, 1, peer.model.width))
            logits.append(peer.model.scores(peer.encoder, [("what is cat", "say dog")]))
    assert torch.allclose(logits[0], logits[1], atol=1e-6)
    assert torch.allclose(logits[0], logits[2], atol=1e-4)  # what is left of W is kept in float16


def test_singular_values_have_a_rate_of_their_own(job):
    peer = process.build(replace(job, method="svd-head"))
    shares = {id(p): g["share"] for g in peer.groups() for p in g["params"]}
    assert len(shares) == len(peer.trained)
    for layer in adapter_layers(peer.model.inner).values():
        assert (shares[id(layer.d)], shares[id(layer.c)]) == (5.0, 1.0)
    assert shares[id(peer.model.head)] == 1.0


def test_an_arm_may_have_a_rank_of_its_own(job):
    peers = [process.build(replace(job, changes=x)) for x in ({}, {"adapter.rank": 1})]
    numbers = [peer.numbers() - peer.model.head.numel() for peer in peers]
    assert numbers[0] == 2 * numbers[1]


def test_the_rate_warms_up_and_falls_to_a_tenth():
    rates = [process.rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 6)
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates[5:] == sorted(rates[5:], reverse=True)
