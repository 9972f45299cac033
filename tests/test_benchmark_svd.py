"""The table of singular values against low-rank adapters, from made-up outcomes."""

import json

import pytest

from benchmarks import svd
from benchmarks.svd import Outcome, best, difference, table


def outcome(variant, factor, seed, nats, *, tokens=(2, 6)):
    losses = list(zip(nats, tokens, strict=True))
    return Outcome(variant, factor, seed, 1000, 4000, 10**9, 2.0, 1.5, losses)


def test_loss_is_a_mean_over_tokens_not_over_questions():
    assert outcome("svd", 1, 0, [1.0, 7.0]).nll == 1.0


def test_the_rate_is_chosen_with_the_first_seed_alone():
    runs = [
        outcome("svd", 1, 0, [1.0, 2.0]),
        outcome("svd", 4, 0, [2.0, 2.0]),
        outcome("svd", 1, 1, [9.0, 9.0]),
        outcome("lora r=8", 4, 0, [0.0, 0.0]),
    ]
    assert [(o.factor, o.seed) for o in best(runs, "svd")] == [(1, 0), (1, 1)]


def test_differences_are_paired_by_question_and_seeds_are_averaged():
    a = [outcome("svd", 1, s, n) for s, n in enumerate([[1.0, 3.0], [3.0, 5.0]])]
    b = [outcome("lora r=8", 1, 0, [1.0, 1.0])]
    mean, low, high = difference(a, b)
    assert mean == pytest.approx((1.0 + 3.0) / 8)
    assert low == pytest.approx(0.5)  # both questions lose 0.5 nats a token: no spread
    assert high == pytest.approx(0.5)


def test_the_table_compares_each_variant_at_its_best_rate():
    runs = [
        outcome("lora r=8", 1, 0, [1.0, 7.0]),
        outcome("svd", 1, 0, [2.0, 8.0]),
        outcome("svd", 4, 0, [9.0, 9.0]),
    ]
    text = table(runs, "lora r=8")
    assert "| lora r=8 | x1 | 1 | 1,000 | 4 | 1.000 |  |" in text
    assert "| svd | x1 | 1 | 1,000 | 4 | 1.250 | +0.250" in text
    assert "1.500 nats" in text


def test_a_finished_run_is_read_and_not_repeated(tmp_path, monkeypatch):
    folder = tmp_path / "lora-r=8-x1-s0"
    (folder / "adapter").mkdir(parents=True)
    (folder / svd.FILE).write_bytes(b"x" * 77)
    quiz = {"base": {"nll": 3.0}, "tuned": {"losses": [{"nll": 1.0, "tokens": 2}, None]}}
    figures = {"trained_numbers": 5, "measured_peak_bytes": 9, "steps": 4}
    result = {**figures, "seconds": {"train": 8.0}, "quiz": quiz}
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    monkeypatch.setattr(svd.subprocess, "run", None)
    options = svd.argparse.Namespace(work=tmp_path)
    found = svd.measured("lora r=8", 1.0, 0, options)
    assert (found.file_bytes, found.numbers, found.seconds) == (77, 5, 2.0)
    assert found.losses == [(1.0, 2)]
