"""The benchmarks' numbers: medians, ratios, what is left out; and one pair that really runs."""

import json
import math
import statistics
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import ablation, cost, datasets, our_process, peers, predictions
from benchmarks.chart import Point, chart, frontier, ticks
from benchmarks.settings import HALF, LEAST, OURS, OWN, UNIFORM, UNLIMITED, VARIANTS, Job
from benchmarks.summary import Difference, compared, differences, summary_markdown
from benchmarks.table import Spread, as_json, as_markdown, ratios, reference, summarise
from core.data.frozen import load_frozen
from core.data.types import Example
from core.errors import ConfigError, DataError
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
        "name": "tiny-class",
        "machine": {"cores": 2},
        "settings": {"steps": 3},
        "data": {"model": "tiny", "class": "class"},
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


def bench(folder):
    return peers.Bench("tiny", folder, folder, datasets.Lesson("class", folder, None, 1, 1))


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
        run("qlora-bf16", 0, peak_bytes=600, tokens_per_second=2.0, step_seconds=9.0, nll=0.5),
        run("qlora-fp32", 0, peak_bytes=900, tokens_per_second=40.0, rouge_l=0.75),
    ]
    summary = summarise(runs)
    assert reference(summary) == {
        "peak_bytes": "qlora-bf16",
        "tokens_per_second": "qlora-fp32",
        "step_seconds": "qlora-fp32",
        "nll": "qlora-bf16",
        "rouge_l": "qlora-fp32",
    }
    expected = {"peak_bytes": 0.5, "tokens_per_second": 3.0, "step_seconds": 1.0}
    assert ratios(summary)[OURS] == expected


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
    assert {rates.pop(variant) for variant in OWN} == {0.1}
    assert rates.pop("adalora-fp32") == rates.pop("adalora-bf16") == 0.3
    assert set(rates.values()) == {0.2}


def test_order_of_the_variants_changes_with_the_seed(tmp_path, monkeypatch):
    seen = []
    plan = {"filled_bytes": 1, "checkpointing": "on", "micro_batch": 9}
    found = {"peak_bytes": 100, "plan": plan}
    monkeypatch.setattr(peers, "run_job", lambda j, _: seen.append((j.seed, j.variant)) or found)
    monkeypatch.setattr(peers, "_say", lambda *_: None)
    options = peers.parse(["--seeds", "0", "1", "2"])
    runs = peers.measure(options, bench(tmp_path))
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
    with pytest.raises(ConfigError):
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


# --- memory that follows from another variant ----------------------------------------------------


def memory(arguments, variant, runs):
    return peers.memory(peers.parse(arguments), variant, runs)


def test_budgets_follow_from_the_smaller_qlora_peak_of_the_first_seed():
    runs = [
        run("qlora-bf16", 5, peak_bytes=900),
        run("qlora-fp32", 5, peak_bytes=800),
        run("qlora-fp32", 6, peak_bytes=100),
        {"variant": "qlora-fp32", "seed": 5, "error": "killed"},
    ]
    seeds = ["--seeds", "5", "6"]
    assert memory(seeds, HALF, runs) == {"budget_bytes": 400, "or_least": True}
    shared = memory([*seeds, "--budget", "75%"], OURS, runs)
    assert shared == {"budget_bytes": 600, "or_least": True}
    assert memory([*seeds, "--budget", "2MB"], OURS, runs) == {"budget_bytes": 2_000_000}
    assert memory([*seeds, "--budget", "2MB"], UNLIMITED, runs) == {"budget_bytes": 0}
    assert memory(seeds, LEAST, [])["or_least"]


@pytest.mark.parametrize(("planned", "asked"), [("on", "on"), ("off", "off"), ("part", "auto")])
def test_uniform_bits_get_the_memory_and_the_passes_of_ours(planned, asked):
    plan = {"filled_bytes": 123, "checkpointing": planned, "micro_batch": 77}
    runs = [run(OURS, 0, plan=plan), run(OURS, 1, plan={**plan, "filled_bytes": 9})]
    for variant, bits in UNIFORM.items():
        assert memory([], variant, runs) == {
            "budget_bytes": 123,
            "bits": bits,
            "checkpointing": asked,
            "micro_batch_tokens": 77,
        }


def test_nothing_is_run_on_the_memory_of_a_run_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "run_job", lambda *_: {"error": "exit code 1: no memory"})
    monkeypatch.setattr(peers, "_say", lambda *_: None)
    options = peers.parse(["--variants", HALF, "qlora-fp32", "--seeds", "0"])
    errors = {r["variant"]: r["error"] for r in peers.measure(options, bench(tmp_path))}
    assert errors == {
        "qlora-fp32": "exit code 1: no memory",
        HALF: "the run that its memory follows from has failed",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--variants", HALF, "lora-fp32"],
        ["--variants", "uniform-4", "qlora-fp32"],
        ["--variants", OURS, "--budget", "60%"],
        ["--budget", "much"],
    ],
)
def test_variant_without_what_it_is_measured_by_is_refused(arguments):
    with pytest.raises(ConfigError):
        peers.parse(arguments)


def test_what_a_variants_memory_follows_from_is_run_before_it():
    options = peers.parse(["--budget", "60%"])
    for seed in range(5):
        order = peers.ordered(options, seed)
        qlora = max(order.index("qlora-bf16"), order.index("qlora-fp32"))
        assert qlora < min(order.index(OURS), order.index(HALF))
        assert order.index(OURS) < min(map(order.index, UNIFORM))


def test_rank_of_uniform_bits_is_the_largest_that_fits(monkeypatch, tmp_path):
    our = pytest.importorskip("benchmarks.our_process")
    asked = []

    def plan_run(config, emit):
        asked.append(config.adapter.rank)
        return type("Plan", (), {"feasible": config.adapter.rank <= 8})

    monkeypatch.setattr(our.pipeline, "plan_run", plan_run)
    config = our.run_config(Job(**{**vars(job("uniform-4", tmp_path)), "bits": 4}))
    assert config.quant.bits == 4
    assert config.adapter.uniform
    assert not config.adapter.dynamic
    assert our.largest_rank(config).adapter.rank == 8
    assert asked == [32, 16, 8]


def test_too_small_a_budget_becomes_the_least_that_works_only_where_it_may(monkeypatch, tmp_path):
    our = pytest.importorskip("benchmarks.our_process")

    def run_or_refuse(config, out, watch, stop):
        out.mkdir(exist_ok=True)
        if config.budget_bytes < 700:
            raise our.MemoryBudgetError("too small", minimum_budget_bytes=700)
        return config.budget_bytes

    monkeypatch.setattr(our.pipeline, "run", run_or_refuse)
    config = our.run_config(Job(**{**vars(job(OURS, tmp_path)), "budget_bytes": 500}))
    assert our.run_within(config, tmp_path / "run", None, or_least=True) == 700
    with pytest.raises(our.MemoryBudgetError):
        our.run_within(config, tmp_path / "run", None, or_least=False)


# --- classes --------------------------------------------------------------------------------------


def test_drawn_examples_fit_and_are_the_same_each_time():
    examples = [Example.pair(f"q{n}", "x" * (n % 7 * 40)) for n in range(90)]
    drawn, fitting = datasets.drawn(examples, len, 264, 20)
    room = 264 - datasets.TEMPLATE_TOKENS
    assert len(drawn) == 20
    assert fitting == sum(len(e.question) + len(e.answer) <= room for e in examples) < 90
    assert all(len(e.question) + len(e.answer) <= room for e in drawn)
    assert drawn == [e for e in examples if e in drawn]
    assert datasets.drawn(examples, len, 264, 20) == (drawn, fitting)
    assert len(datasets.drawn(examples, len, 264, 500)[0]) == fitting


def test_absent_data_set_is_left_out_with_a_sentence(tmp_path, monkeypatch, capsys, tiny):
    monkeypatch.setattr(peers, "run_job", lambda j, _: {"error": "not run"})
    arguments = ["--model", tiny("llama"), "--datasets", "gsm8k", "--shared", tmp_path / "none"]
    assert peers.main([*map(str, arguments), "--results", str(tmp_path)]) == 1
    assert "gsm8k: left out. --datasets: The data set 'gsm8k' is not on" in capsys.readouterr().out
    with pytest.raises(DataError):
        datasets.path_of("nowhere.csv")


@pytest.mark.parametrize("name", datasets.PUBLIC)
def test_public_classes_have_240_examples_to_learn_and_40_to_ask(name, shared, starter, tmp_path):
    lesson = datasets.prepare(
        name, starter, tmp_path / "data", max_length=384, shared=shared / "data"
    )
    assert (len(lesson.sides.train), len(lesson.sides.quiz)) == (240, 40)
    assert lesson.found >= lesson.fitting > 280
    assert load_frozen(lesson.folder).sha256 == lesson.sides.sha256


# --- summary --------------------------------------------------------------------------------------


def test_interval_of_a_difference_is_students():
    values = [0.5, 0.25, 0.75]
    found = Difference.of(values)
    half = 4.303 * statistics.stdev(values) / math.sqrt(3)
    assert found == Difference(0.5, 0.5 - half, 0.5 + half)
    assert Difference.of([2.0]) == Difference(2.0, None, None)


@pytest.mark.parametrize(
    ("values", "less", "more"),
    [
        ([-0.5, -0.51, -0.49], "better", "worse"),
        ([0.5, 0.51, 0.49], "worse", "better"),
        ([-0.5, 0.5, 0.1], "no difference seen", "no difference seen"),
        ([-0.5], "", ""),
    ],
)
def test_a_difference_counts_only_beyond_its_interval(values, less, more):
    assert Difference.of(values).verdict("less") == less
    assert Difference.of(values).verdict("more") == more


def test_differences_are_between_runs_of_the_same_seed():
    runs = [run(OURS, s, nll=s + 1.0) for s in (0, 1, 2)]
    runs += [run("qlora-fp32", 2, nll=0.5), run("qlora-fp32", 0, nll=0.25)]
    runs += [{"variant": "qlora-fp32", "seed": 1, "error": "killed"}]
    assert differences(runs, OURS, "qlora-fp32", "nll") == [0.75, 2.5]


def test_summary_has_a_row_for_each_of_ours_in_each_pair():
    runs = [run(v, s) for v in (OURS, HALF, "qlora-fp32", "lora-fp32") for s in (0, 1, 2)]
    documents = [{**document(runs), "name": name} for name in ("a-b", "c-d")]
    text = summary_markdown(documents, ["peers-a-b", "peers-c-d"])
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith(("| a", "| c"))]
    assert rows == [[f"| {name}", v] for name in ("a-b", "c-d") for v in (OURS, HALF)]
    assert "[peers-c-d](peers-c-d.md)" in text
    assert compared(document([run(OURS, 0)])) == []


def test_budget_below_the_least_is_said(tmp_path):
    plan = {"average_bits": 3.25, "average_rank": 4.0, "checkpointing": "on"}
    runs = [run(HALF, 0, budget_bytes=600_000_000, asked_bytes=450_000_000, plan=plan)]
    assert "600 MB, 3.25 bits" in as_markdown(document(runs))
    assert "450 MB were asked for, less than it needs" in as_markdown(document(runs))


# --- chart ----------------------------------------------------------------------------------------


def test_frontier_is_what_no_other_beats():
    at = {"a": (1, 9), "b": (2, 5), "c": (3, 6), "d": (4, 1), "e": (2, 7)}
    points = [Point(name, x, y, y, y, False) for name, (x, y) in at.items()]
    assert [p.label for p in frontier(points)] == ["a", "b", "d"]


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.9), (512, 3060), (1.0, 1.0), (0.299, 0.301)])
def test_ticks_are_round_and_cover_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1] + 1e-9
    assert 2 <= len(found) <= 9
    steps = {f"{b - a:.9g}" for a, b in pairwise(found)}
    assert len(steps) == 1


def test_chart_has_every_variant_inside_the_picture_and_no_labels_over_each_other():
    runs = [run(v, s, nll=1.0 + 0.1 * s) for v in VARIANTS for s in (0, 1, 2)]
    tree = ET.fromstring(chart(document(runs)))
    space = "{http://www.w3.org/2000/svg}"
    width, height = map(float, tree.get("viewBox").split()[2:])
    assert len(tree.findall(f"{space}circle")) == len(VARIANTS)
    labels = {t.text: t for t in tree.findall(f"{space}text")}
    assert set(VARIANTS) <= set(labels)
    rows = sorted(float(labels[v].get("y")) for v in VARIANTS)
    assert all(b - a >= 15 for a, b in pairwise(rows))
    for circle in tree.findall(f"{space}circle"):
        assert 0 < float(circle.get("cx")) < width
        assert 0 < float(circle.get("cy")) < height


def test_chart_of_nothing_says_so():
    assert "No run succeeded." in chart(document([]))


# --- cost and predictions -------------------------------------------------------------------------


def test_cost_changes_one_thing_at_a_time():
    middle = vars(cost.Case())
    for case in cost.cases():
        shape = (case.hidden, case.blocks) != (middle["hidden"], middle["blocks"])
        changed = [shape, case.length != middle["length"], case.rows != middle["rows"]]
        assert sum(changed) <= 1
        assert case.hidden % 64 == 0


def test_examples_of_the_cost_benchmark_have_exactly_the_asked_length(tmp_path):
    from core import modelload
    from core.data.chat import ChatFormat

    cost.make_model(cost.Case(hidden=64, blocks=1), tmp_path / "model")
    cost.make_class(64, tmp_path / "data")
    chat = ChatFormat.of(modelload.load_tokenizer(tmp_path / "model"))
    sides = load_frozen(tmp_path / "data")
    assert len(sides.train) == cost.EXAMPLES - cost.QUIZ
    assert {len(chat.encode(e, 64).ids) for e in sides.train} == {64}


def test_failed_measurement_of_the_cost_is_named():
    rows = [{**vars(cost.Case()), "variant": UNLIMITED, "error": "exit code 1: no"}]
    text = cost.as_markdown({"machine": {"cores": 2}, "steps": 3, "rows": rows})
    assert "| failed |" in text
    assert f"- {UNLIMITED}: exit code 1: no" in text


def prediction(**values):
    plan = {"average_bits": 4.0}
    found = {"predicted_peak_bytes": 900, "peak_bytes": 1000, "budget_bytes": 0, "plan": plan}
    case = vars(predictions.cases("tiny", "class")[0])
    return {**case, **found, **values}


def test_predictions_say_the_worst_and_how_many_budgets_were_passed():
    rows = [
        prediction(),
        prediction(predicted_peak_bytes=1100),
        prediction(predicted_peak_bytes=1300, budget_bytes=999),
        {**prediction(), "error": "killed"},
    ]
    found = predictions.summary(rows)
    assert found == {
        "configurations": 4,
        "finished": 3,
        "median_error_percent": pytest.approx(10.0),
        "worst_error_percent": pytest.approx(30.0),
        "most_above_prediction_percent": pytest.approx(10.0),
        "over_budget": 1,
    }
    document = {"machine": {}, "steps": 3, "profile": "kept", "summary": found, "rows": rows}
    assert "-10.0 %" in predictions.as_markdown(document)
    assert "Budgets passed: 1." in predictions.as_markdown(document)
    assert predictions.summary([])["worst_error_percent"] is None


def test_predictions_are_24_or_more_over_two_models_and_classes():
    names = {c.name for m in "ab" for d in "xy" for c in predictions.cases(m, d)}
    assert len(names) >= 24


def test_predictions_go_on_where_they_were_left(tmp_path, tiny, monkeypatch, capsys):
    budgets = []

    def run_job(told, timeout, state):
        budgets.append((told.budget_bytes, told.or_least))
        out = Path(told.out)
        out.mkdir(parents=True)
        told.save(out / "job.json")
        budget = 1000 if told.or_least else told.budget_bytes
        result = {**prediction(), "budget_bytes": budget, "threads": 1, "instructions": "AVX2"}
        (out / "result.json").write_text(json.dumps(result), "utf-8")
        return result

    monkeypatch.setattr(predictions, "run_job", run_job)
    lesson = tmp_path / "class.csv"
    rows = [f"Number {n}?,Next is {n + 1}." for n in range(24)]
    lesson.write_text("\n".join(["question,answer", *rows]), "utf-8")
    arguments = ["--models", tiny("llama"), "--datasets", lesson, "--work", tmp_path / "work"]
    arguments = [*map(str, arguments), "--results", str(tmp_path)]
    assert predictions.main([*arguments, "--most", "2"]) == 0
    assert budgets == [(1, True), (1500, False)]
    assert predictions.main(arguments) == 0
    assert len(budgets) == len(predictions.cases("m", "d"))
    tree = json.loads((tmp_path / "predictions.json").read_text("utf-8"))
    assert tree["summary"]["finished"] == len(budgets)
    assert predictions.main(arguments) == 0
    assert len(budgets) == len(tree["rows"])


# --- really run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_adapter_started_as_loftq_cancels_part_of_the_rounding_error(tiny, tmp_path):
    pytest.importorskip("trl")
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft import get_peft_model
    from peft.tuners.lora import Linear4bit

    from benchmarks import peer_process
    from benchmarks.settings import PEERS
    from core.adapters.peers import start_as_loftq
    from core.modelload import Weights

    path, peer = Path(tiny("llama")), PEERS["loftq-fp32"]
    config = peer_process.adapter_config(peer, job("loftq-fp32", tmp_path))
    model = get_peft_model(peer_process.load_base(path, peer), config)
    dense = Weights(path)
    start_as_loftq(model, dense)
    layers = {n: x for n, x in model.named_modules() if isinstance(x, Linear4bit)}
    assert layers
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        rounded = dequantize_4bit(weight.data, weight.quant_state).float()
        error = dense[f"{name.removeprefix('base_model.model.')}.weight"].float() - rounded
        left = error - layer.get_delta_weight("default").detach()
        tail = torch.linalg.svdvals(error)[layer.r["default"] :].norm()
        assert left.norm() == pytest.approx(tail.item(), rel=1e-3)
        assert left.norm() < 0.95 * error.norm()


@pytest.mark.slow
def test_ours_and_a_peer_train_the_same_two_steps(tiny, tmp_path):
    pytest.importorskip("trl")
    lesson = tmp_path / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(24)]
    lesson.write_text("\n".join(["question,answer", *rows]), "utf-8")
    arguments = ["--model", tiny("llama"), "--data", lesson, "--results", tmp_path / "results"]
    arguments += ["--variants", OURS, "lora-fp32", "--seeds", 0, "--steps", 2, "--rank", 4]
    arguments += ["--tokens-per-step", 192, "--max-length", 160]
    arguments += ["--questions", 1, "--max-new-tokens", 4]
    assert peers.main([str(a) for a in arguments]) == 0
    (found,) = (tmp_path / "results").glob("peers-*-class.json")
    tree = json.loads(found.read_text("utf-8"))
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
    for written in (tmp_path / "results").iterdir():
        assert str(Path(tmp_path)) not in written.read_text("utf-8")


# --- ablation -------------------------------------------------------------------------------------


def part(name, seed, nll, **values):
    plan = {"average_bits": 4.0, "average_rank": 8.0}
    told = {"part": name, "seed": seed, "nll": nll, "start_nll": nll, "peak_bytes": 7e8}
    return {**told, "plan": plan, **values}


def test_a_part_is_compared_with_the_whole_of_the_same_seed():
    rows = [part("whole", 0, 1.0), part("whole", 1, 2.0), part("start", 1, 2.5)]
    rows.append({"part": "start", "seed": 0, "error": "exit code 1: no"})
    assert ablation.differences(rows, "start", "nll") == [0.5]
    text = ablation.as_markdown({"rows": rows, "settings": {"steps": 3}, "machine": {"cores": 2}})
    assert "| +0.500 |" in text
    assert "start, seed 0 failed: exit code 1: no" in text


def test_every_part_changes_the_setting_that_it_names(tmp_path):
    options = ablation.parse(["--budget", "640MB"])
    whole = our_process.run_config(
        ablation.make_job(ablation.WHOLE, 0, options, tmp_path, tmp_path)
    )
    assert whole.budget_bytes == 640_000_000
    for each in ablation.PARTS:
        job = ablation.make_job(each, 0, options, tmp_path, tmp_path)
        tree, plain = our_process.run_config(job).to_json(), whole.to_json()
        for name, value in each.changes.items():
            group, _, setting = name.partition(".")
            assert plain[group][setting] != value
            plain[group][setting] = value
        assert tree == plain
