"""The benchmark's numbers: medians, ratios, what is left out; and one pair that really runs."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.settings import OURS, UNLIMITED, VARIANTS, Job
from benchmarks.table import Spread, as_json, as_markdown, ratios, reference, summarise
from core.runs.environment import child_environment


def run(variant, seed, **values):
    """A result as a process writes it, with round numbers where a test does not care."""
    result = {
        "peak_bytes": 500_000_000,
        "tokens_per_second": 100.0,
        "step_seconds": 5.0,
        "saved_seconds": 60.0,
        "nll": 1.0,
        "rouge_l": 0.5,
        "trained_numbers": 2_000_000,
        "adapter_bytes": 8_000_000,
    }
    return {"variant": variant, "seed": seed, **result, **values}


def document(runs):
    return {
        "machine": {"cores": 2},
        "settings": {"steps": 3},
        "data": {"file": "class.csv"},
        "base": {"nll": 2.5, "rouge_l": 0.25},
        "runs": runs,
    }


def job(variant, out):
    return Job(
        variant=variant,
        seed=0,
        model="starter",
        data="data",
        out=str(out),
        steps=2,
        rank=4,
        lr=1e-3,
        tokens_per_step=96,
        max_length=64,
        budget_bytes=0,
        questions=1,
        max_new_tokens=4,
    )


def cells(markdown, variant):
    line = next(x for x in markdown.splitlines() if x.startswith(f"| {variant} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_spread_is_the_median_between_the_extremes():
    assert Spread.of([9.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=9.0)
    assert Spread.of([1.0, 2.0, 4.0, 8.0]).median == 3.0


def test_spread_is_not_written_where_all_values_read_the_same():
    assert Spread.of([1.04, 1.0, 1.01]).text(lambda v: f"{v:.1f}") == "1.0"
    assert Spread.of([1.0, 2.0, 4.0]).text(lambda v: f"{v:.1f}") == "2.0 (1.0-4.0)"


def test_failed_runs_do_not_count_but_are_named():
    runs = [run(OURS, 0, nll=1.5), {"variant": OURS, "seed": 1, "error": "exit code -9: killed"}]
    assert summarise(runs)[OURS]["nll"] == Spread(1.5, 1.5, 1.5)
    assert "`adaq`, seed 1: exit code -9: killed" in as_markdown(document(runs))


def test_variant_that_always_failed_has_no_row():
    runs = [run(OURS, 0), {"variant": "lora-fp32", "seed": 0, "error": "exit code 1"}]
    assert list(summarise(runs)) == [OURS]


def test_ratios_are_against_the_better_qlora_in_each_measure():
    runs = [
        run(OURS, 0, peak_bytes=300, tokens_per_second=120.0),
        run("qlora-bf16", 0, peak_bytes=600, tokens_per_second=2.0),
        run("qlora-fp32", 0, peak_bytes=900, tokens_per_second=40.0),
    ]
    summary = summarise(runs)
    assert reference(summary) == {"peak_bytes": "qlora-bf16", "tokens_per_second": "qlora-fp32"}
    assert ratios(summary)[OURS] == {"peak_bytes": 0.5, "tokens_per_second": 3.0}


def test_table_has_a_cell_for_every_title():
    runs = [run(v, seed, nll=1.0 + seed) for v in VARIANTS for seed in (0, 1, 2)]
    markdown = as_markdown(document(runs))
    titles = cells(markdown, "variant")
    for variant in VARIANTS:
        row = dict(zip(titles, cells(markdown, variant), strict=True))
        assert row["peak, MB"] == "500"
        assert row["÷ QLoRA"] == row["× QLoRA"] == "1.00"
        assert row["held-out loss"] == "2.000 (1.000-3.000)"
        assert row["adapter, MB"] == "8.0"
    assert "held-out loss 2.500, ROUGE-L 0.250" in markdown


def test_table_without_qlora_and_without_written_answers_leaves_cells_empty():
    markdown = as_markdown({**document([run(OURS, 0, rouge_l=None)]), "base": {}})
    row = dict(zip(cells(markdown, "variant"), cells(markdown, OURS), strict=True))
    assert row["÷ QLoRA"] == row["× QLoRA"] == row["ROUGE-L"] == ""
    assert "Before training" not in markdown


def test_json_keeps_every_run_beside_the_medians():
    runs = [run(OURS, seed, peak_bytes=100 + seed) for seed in (0, 1, 2)]
    tree = json.loads(json.dumps(as_json(document(runs))))
    assert tree["runs"] == runs
    assert tree["summary"][OURS]["peak_bytes"] == {"median": 101, "low": 100, "high": 102}


def test_peers_get_the_same_threads_but_none_of_our_settings(tmp_path):
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "3", "MALLOC_ARENA_MAX": "7"}
    ours = peers.environment(job(OURS, tmp_path), base)
    theirs = peers.environment(job("lora-fp32", tmp_path), base)
    assert ours["OMP_NUM_THREADS"] == theirs["OMP_NUM_THREADS"] == "3"
    wanted = child_environment({"PATH": "/bin", "OMP_NUM_THREADS": "3"})
    assert ours == {**wanted, "STUDIO_HOME": str(tmp_path / "state")}
    kept = {name for name in wanted if not name.startswith(("MALLOC_", "GOMP_"))}
    assert set(theirs) == kept


def test_each_method_has_its_learning_rate():
    options = peers.parse(["--lr", "0.1", "--peer-lr", "0.2", "--adalora-lr", "0.3"])
    rates = {variant: peers.learning_rate(options, variant) for variant in VARIANTS}
    assert rates.pop(OURS) == rates.pop(UNLIMITED) == 0.1
    assert rates.pop("adalora-fp32") == rates.pop("adalora-bf16") == 0.3
    assert set(rates.values()) == {0.2}


def test_order_of_the_variants_changes_with_the_seed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(peers, "run_job", lambda j, _: seen.append((j.seed, j.variant)) or {})
    monkeypatch.setattr(peers, "_say", lambda _: None)
    options = peers.parse(["--seeds", "0", "1", "2"])
    bench = peers.Bench(tmp_path, tmp_path, tmp_path, None)
    runs = peers.measure(options, bench)
    orders = [[v for s, v in seen if s == seed] for seed in (0, 1, 2)]
    assert all(sorted(order) == sorted(options.variants) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert [(r["seed"], r["variant"]) for r in runs] == seen


def test_finished_run_is_taken_only_for_the_same_settings(tmp_path):
    mine = job("lora-fp32", tmp_path)
    assert peers.finished(mine) is None
    mine.save(tmp_path / "job.json")
    (tmp_path / "result.json").write_text('{"nll": 1.0}', "utf-8")
    assert peers.finished(mine) == {"nll": 1.0}
    with pytest.raises(peers.ConfigError):
        peers.finished(Job(**{**vars(mine), "steps": 9}))


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import sys; print('step 1'); sys.exit('no memory')", "exit code 1: no memory"),
        ("print('all well')", "exit code 0: all well"),
        ("import time; time.sleep(60)", "not done after 1 s"),
    ],
)
def test_process_without_a_result_is_an_error_with_its_last_line(
    program, error, tmp_path, monkeypatch
):
    monkeypatch.setattr(peers, "command", lambda _: [sys.executable, "-c", program])
    assert peers.run_job(job(OURS, tmp_path / "out"), timeout=1) == {"error": error}


def test_nothing_of_an_unfinished_run_is_gone_on_with(tmp_path, monkeypatch):
    left = tmp_path / "out" / "run" / "plan.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}", "utf-8")
    monkeypatch.setattr(peers, "command", lambda _: [sys.executable, "-c", ""])
    peers.run_job(job(OURS, tmp_path / "out"), timeout=10)
    assert not left.exists()


@pytest.mark.slow
def test_ours_and_a_peer_train_the_same_two_steps(tiny, tmp_path):
    pytest.importorskip("trl")
    lesson = tmp_path / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    lesson.write_text("\n".join(["question,answer", *rows]), "utf-8")
    arguments = ["--model", tiny("llama"), "--data", lesson, "--results", tmp_path / "results"]
    arguments += ["--variants", OURS, "lora-fp32", "--seeds", 0, "--steps", 2, "--rank", 4]
    arguments += ["--tokens-per-step", 192, "--max-length", 96]
    arguments += ["--questions", 1, "--max-new-tokens", 4]
    assert peers.main([str(a) for a in arguments]) == 0
    tree = json.loads((tmp_path / "results" / "peers.json").read_text("utf-8"))
    found = {r["variant"]: r for r in tree["runs"]}
    assert set(found) == {OURS, "lora-fp32"}
    for result in found.values():
        assert result["steps"] == 2
        assert result["peak_bytes"] > 50_000_000
        assert result["tokens_per_second"] > 0
        assert 0 < result["step_seconds"] < result["saved_seconds"]
    # Two steps move a model little: both still are what they started from.
    base = tree["base"]["nll"]
    assert all(abs(r["nll"] - base) < 0.2 * base for r in found.values())
    assert str(Path(tmp_path)) not in (tmp_path / "results" / "peers.md").read_text("utf-8")
