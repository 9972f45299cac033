"""Methods on suites: equal tuning on data that is not reported, and the table of what came out."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import arms, methods, methods_table, peers, suites
from benchmarks.arms import ARMS, PAIR_PEERS, TABLES, Arm
from benchmarks.methods import TUNING_SEED, tune
from benchmarks.methods_table import as_markdown, steps_to, summary_of, target_of, with_summary
from benchmarks.settings import Job
from core.config import OPTIMIZERS, RunConfig
from core.data.frozen import load_frozen
from core.data.pairs import load_pairs
from core.data.split import normalised
from core.errors import ConfigError, DataError
from core.methods import METHODS, composed
from core.runs.folder import write_json

PLACES = ("pub", "hotel", "school", "garden", "harbour", "market", "museum", "station")


@pytest.fixture
def data(tmp_path):
    """A folder like ``shared/data`` with small files of E2E and QQP in their forms."""
    folder = tmp_path / "data"
    (folder / "e2e_nlg").mkdir(parents=True)
    for name, few in (("train", 40), ("test_w_refs", 10)):
        lines = ["mr,ref"]
        for n in range(few):
            k = n % (few // 2)  # every meaning has two texts
            text = f"The {PLACES[k % 8]} number {k}, variant {n}."
            lines.append(f'"name[{name} {k}], area[{PLACES[k % 8]}]","{text}"')
        (folder / f"e2e_nlg/{name}.csv").write_text("\n".join(lines), "utf-8")
    (folder / "qqp").mkdir()
    for name, few in (("train", 60), ("dev", 4), ("test", 20)):
        lines = ["id\tquestion1\tquestion2\tis_duplicate"]
        for n in range(few):
            pair = f"{name} where is the {PLACES[n % 8]} {n}\t{name} find {PLACES[n // 2 % 8]} {n}"
            lines.append(f"{n}\t{pair}\t{n % 2}")
        (folder / f"qqp/{name}.tsv").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def options(data, tiny, tmp_path):
    """A function: further arguments -> options for small runs on the folder above."""

    def make(*more):
        given = ["--models", tiny("llama"), "--shared", data, "--results", tmp_path / "results"]
        given += ["--work", tmp_path / "work", "--steps", 2, "--tokens-per-step", 128]
        return methods.parse([str(x) for x in [*given, *more]])

    return make


class Fake:
    """Takes the place of the processes: notes every job, and gives a loss that its rate decides."""

    def __init__(self, loss=lambda job: abs(math.log10(job.lr / 1e-3))):
        self.jobs, self.loss = [], loss

    def __call__(self, job, timeout=0, state=None):
        self.jobs.append(job)
        result = {"nll": self.loss(job), "bleu": 10.0 * job.seed, "f1": 0.5, "peak_bytes": 10**8}
        result |= {"trained_numbers": 1000, "file_bytes": 4000, "seconds": 3.0}
        result |= {"step_seconds": 1.0, "looks": [], "threads": 1, "instructions": "none"}
        Path(job.out).mkdir(parents=True, exist_ok=True)
        job.save(Path(job.out) / "job.json")
        write_json(Path(job.out) / "result.json", result)
        return result


def measured(options, suite_id, work, run):
    bench = methods.prepare(options, suite_id, options.models[0], work)
    return bench, methods.measure(options, bench, run, {})


# --- arms ---------------------------------------------------------------------------------------


def test_every_method_family_can_be_compared():
    assert {m.id for m in METHODS} <= set(ARMS)
    assert {f"lora/{name}" for name in OPTIMIZERS} <= set(ARMS)
    assert len(TABLES["s6"].arms) == 10


@pytest.mark.parametrize("name", [n for n, a in ARMS.items() if a.method not in PAIR_PEERS])
def test_the_settings_of_every_arm_make_a_run(name):
    from benchmarks.method_process import config_of

    arm = ARMS[name]
    rates = {k: v * 0.3 for k, v in arm.rates().items()}
    base = dict(seed=1, model="m", data="d", out="o", steps=3, rank=4, tokens_per_step=96)
    more = dict(max_length=64, budget_bytes=0, questions=0, max_new_tokens=4, method=arm.method)
    lr = rates.pop("train.lr")
    job = Job(variant=name, lr=lr, changes={**arm.settings, **rates}, **base, **more)
    config = composed(config_of(job))
    assert config.method == arm.method
    assert config.train.lr == pytest.approx(arm.rates()["train.lr"] * 0.3)
    assert not config.train.stop_early and not config.quiz.generate
    for dotted, value in arm.settings.items():
        group, _, field = dotted.partition(".")
        if not dotted.endswith("lr"):
            assert getattr(getattr(config, group), field) == value


def test_the_grid_moves_all_rates_of_a_method_together():
    defaults, rates = RunConfig(), ARMS["svd"].rates()
    assert rates["train.lr"] == defaults.train.lr
    assert rates["train.diagonal_lr"] == defaults.train.diagonal_lr
    own = Arm("x", "svd", {"train.diagonal_lr": 0.5})
    assert own.rates()["train.diagonal_lr"] == 0.5


def test_what_this_version_lacks_is_left_out_with_a_sentence(monkeypatch):
    table = replace(TABLES["s2"], arms=("lora", "no-such-method"))
    monkeypatch.setitem(TABLES, "s2", table)
    found = methods.parse(["--table", "s2"])
    assert [a.name for a in found.arms] == ["lora"]
    assert any("no-such-method" in sentence for sentence in found.left_out)


@pytest.mark.parametrize("table", list(TABLES))
def test_every_table_has_suites_methods_and_a_reference(table):
    found = methods.parse(["--table", table])
    assert len(found.arms) > 1
    assert found.against in [a.name for a in found.arms]
    assert len(found.seeds) >= 3
    assert found.suites


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--methods", "lora"],
        ["--methods", "nothing", "--suites", "sst2"],
        ["--table", "s2", "--suites", "mnli"],
        ["--table", "s2", "--against", "full-head"],
        ["--table", "s2", "--seeds", "0", str(TUNING_SEED)],
        ["--table", "s2", "--factors", "0"],
    ],
)
def test_what_cannot_be_compared_is_refused(arguments):
    with pytest.raises(ConfigError):
        methods.parse(arguments)


# --- tuning -------------------------------------------------------------------------------------


def grid(*factors):
    return dict.fromkeys(factors, None)


def test_the_rate_with_the_smallest_loss_is_taken_and_failures_are_not():
    losses = iter([{"nll": 2.0}, {"nll": math.nan}, {"nll": 1.0}, {"error": "exit code 1"}])
    found = tune(grid(0.1, 0.3, 1.0, 3.0), lambda job: next(losses))
    assert found.factor == 1.0
    assert found.losses == {0.1: 2.0, 0.3: None, 1.0: 1.0, 3.0: None}
    assert found.errors == {3.0: "exit code 1"}
    assert not found.at_edge


def test_a_best_rate_at_the_edge_of_the_grid_is_said():
    losses = iter([{"nll": 1.0}, {"nll": 2.0}])
    assert tune(grid(0.3, 1.0), lambda job: next(losses)).at_edge


def test_no_rate_is_taken_where_all_fail():
    assert tune(grid(0.3, 1.0), lambda job: {"error": "x"}).factor is None


def test_a_single_rate_needs_no_run():
    assert tune(grid(1.0), None).factor == 1.0


def test_all_methods_have_the_same_tuning_budget_and_never_see_the_test(options, tmp_path):
    fake = Fake()
    chosen = options("--methods", "lora", "svd", "lora/sgd", "--suites", "e2e", "--seeds", 0, 1)
    bench, part = measured(chosen, "e2e", tmp_path, fake)
    tuning = [j for j in fake.jobs if j.seed == TUNING_SEED]
    final = [j for j in fake.jobs if j.seed != TUNING_SEED and j.method != "before"]
    for name in ("lora", "svd", "lora/sgd"):
        assert len([j for j in tuning if j.variant == name]) == len(chosen.factors)
        assert sorted(j.seed for j in final if j.variant == name) == [0, 1]
    assert {j.items for j in tuning} == {""}
    assert {j.items for j in final} == {str(bench.items)}
    assert {j.steps for j in fake.jobs} == {chosen.steps}
    assert all("tuning" in Path(j.data).name for j in tuning)
    assert not any("tuning" in Path(j.data).name for j in final)
    sides = load_frozen(bench.data(ARMS["lora"], tuning=True))
    seen = {normalised(e.question) for e in (*sides.train, *sides.quiz)}
    test = {normalised(x["question"]) for x in json.loads(bench.items.read_text("utf-8"))["items"]}
    assert test and not seen & test
    learned = load_frozen(bench.data(ARMS["lora"], tuning=False)).train
    assert seen == {normalised(e.question) for e in learned}
    assert {r["variant"] for r in part["runs"]} == {"lora", "svd", "lora/sgd"}


def test_the_slice_for_tuning_shares_no_group_with_what_is_learned(options, tmp_path):
    bench, _ = measured(
        options("--methods", "lora", "--suites", "e2e", "--seeds", 0), "e2e", tmp_path, Fake()
    )
    sides = load_frozen(bench.data(ARMS["lora"], tuning=True))
    # The question of E2E is its meaning; all texts of a meaning are one group.
    assert sides.quiz
    assert not {e.question for e in sides.train} & {e.question for e in sides.quiz}


def test_each_method_is_reported_at_its_own_best_rate(options, tmp_path):
    best = {"lora": 3e-3, "svd": 3e-4}
    fake = Fake(lambda job: abs(math.log10(job.lr / best.get(job.variant, 1e-3))))
    chosen = options("--methods", "lora", "svd", "--suites", "e2e", "--seeds", 0)
    _, part = measured(chosen, "e2e", tmp_path, fake)
    assert part["arms"]["lora"]["tuning"]["factor"] == 3.0
    assert part["arms"]["svd"]["tuning"]["factor"] == 0.3
    final = {j.variant: j for j in fake.jobs if j.seed == 0 and j.method != "before"}
    assert final["lora"].lr == pytest.approx(3e-3)
    assert final["svd"].changes["train.diagonal_lr"] == pytest.approx(0.3 * 5e-3)


def test_a_method_whose_every_rate_fails_does_not_stop_the_others(options, tmp_path):
    class Broken(Fake):
        def __call__(self, job, timeout=0, state=None):
            good = super().__call__(job)
            return {"error": "exit code 1"} if job.variant == "svd" else good

    chosen = options("--methods", "lora", "svd", "--suites", "e2e", "--seeds", 0)
    _, part = measured(chosen, "e2e", tmp_path, Broken())
    assert {r["variant"] for r in part["runs"]} == {"lora"}
    assert part["arms"]["svd"]["tuning"]["factor"] is None


def test_a_pair_model_chooses_its_threshold_on_pairs_of_their_own(options, tmp_path):
    fake = Fake()
    chosen = options("--methods", "pairs", "lora-head", "lora", "--suites", "qqp", "--seeds", 0)
    bench, _ = measured(chosen, "qqp", tmp_path, fake)
    final = load_pairs(bench.data(ARMS["pairs"], tuning=False))
    tuning = load_pairs(bench.data(ARMS["lora-head"], tuning=True))
    assert final.calibration == tuning.calibration
    texts = [
        {normalised(q) for p in side for q in (p.first, p.second)}
        for side in (final.train, final.calibration, final.test)
    ]
    assert all(texts)
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert set(final.train) == {*tuning.train, *tuning.test}
    assert len(final.test) == len(json.loads(bench.items.read_text("utf-8"))["items"])


def test_what_cannot_do_a_suite_is_left_out_with_a_sentence(options, tmp_path):
    chosen = options("--methods", "lora", "pairs", "--suites", "e2e", "--seeds", 0)
    bench, part = measured(chosen, "e2e", tmp_path, Fake())
    assert list(part["arms"]) == ["lora"]
    assert "pairs" in part["left_out"][0]
    reader = replace(bench, writes=False)
    assert [a.name for a in methods.applicable(chosen, reader)[0]] == []


# --- pieces -------------------------------------------------------------------------------------


def test_a_benchmark_goes_on_where_it_was_ended(options, monkeypatch, capsys, tmp_path):
    fake = Fake()
    monkeypatch.setattr(peers, "run_job", fake)
    arguments = ("--methods", "lora", "svd", "--suites", "e2e", "--seeds", 0, 1)
    parsed = iter([options(*arguments, "--most", 9), options(*arguments)])
    monkeypatch.setattr(methods, "parse", lambda given: next(parsed))
    assert methods.main([]) == 0
    assert len(fake.jobs) == 9
    assert "goes on" in capsys.readouterr().out
    assert methods.main([]) == 0
    assert len(fake.jobs) == 1 + 2 * 3 + 2 * 2
    assert len({j.out for j in fake.jobs}) == len(fake.jobs)
    document = json.loads((tmp_path / "results/methods-e2e.json").read_text("utf-8"))
    assert len(document["parts"][0]["runs"]) == 4


def test_results_hold_no_text_of_the_suite_and_no_path(options, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "run_job", Fake())
    chosen = options("--methods", "lora", "--suites", "e2e", "--seeds", 0)
    methods.run_all(chosen, tmp_path / "work")
    items = suites.load("e2e", chosen.shared).test
    for file in (tmp_path / "results").iterdir():
        text = file.read_text("utf-8")
        assert str(tmp_path) not in text
        assert not [item for item in items if item.references[0] in text]


def test_runs_with_other_settings_are_not_taken(options, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "run_job", Fake())
    arguments = ("--methods", "lora", "--suites", "e2e", "--seeds", 0)
    methods.run_all(options(*arguments), tmp_path / "work")
    for other in (("--steps", 3), ("--train", 20)):
        with pytest.raises(ConfigError):
            methods.run_all(options(*arguments, *other), tmp_path / "work")


def test_a_suite_that_is_not_here_is_left_out_with_a_sentence(options, capsys, tmp_path):
    assert methods.run_all(options("--methods", "lora", "--suites", "sst2"), tmp_path) == []
    assert "sst2: left out." in capsys.readouterr().out


def test_nothing_fits_is_an_error_and_not_an_empty_table(options, monkeypatch, tmp_path):
    short = replace(suites.suite("e2e"), max_length=66)
    monkeypatch.setattr(suites, "SUITES", (short,))
    with pytest.raises(DataError):
        measured(options("--methods", "lora", "--suites", "e2e"), "e2e", tmp_path, Fake())


# --- table --------------------------------------------------------------------------------------


def run(arm, seed, **values):
    return {"variant": arm, "seed": seed, "trained_numbers": 1000, **values}


def document(runs, main="f1", against="lora", before=None):
    told = {"note": "", "method": "x", "settings": {}, "rates": {}}
    tuning = {"factor": 1.0, "losses": {"0.3": 2.0, "1": None}, "errors": {}, "edge": True}
    names = dict.fromkeys(r["variant"] for r in runs)
    part = {"model": "tiny", "data": {"learned": 5}, "left_out": [], "before": before or {}}
    part |= {"arms": {name: {**told, "tuning": tuning} for name in names}, "runs": runs}
    suite = {"id": "qqp", "title": "QQP", "licence": "none", "note": "A sample."}
    suite |= {"kind": "labels", "shown": ["accuracy", "f1", "mcc"]}
    top = {"title": "Methods", "main": main, "against": against, "machine": {}, "settings": {}}
    return with_summary({**top, "suite": suite, "left_out": ["full: absent."], "parts": [part]})


def row_of(markdown, arm):
    head = next(x for x in markdown.splitlines() if x.startswith("|  |"))
    line = next(x for x in markdown.splitlines() if x.startswith(f"| `{arm}` |"))
    cells = [[c.strip() for c in x.strip("|").split("|")] for x in (head, line)]
    return dict(zip(*cells, strict=True))


def test_the_table_shows_medians_intervals_and_paired_differences():
    runs = [run("lora", s, f1=0.5 + 0.1 * s) for s in range(3)]
    runs += [run("svd", s, f1=0.4 + 0.1 * s, trained_numbers=50) for s in range(3)]
    page = as_markdown(document(runs))
    row = row_of(page, "svd")
    assert row["F1"].startswith("0.500 (0.2")  # 0.5 -+ 4.303 x 0.1 / sqrt(3)
    assert row["F1, difference"].startswith("-0.100 (-0.100 to -0.100), worse")
    assert row_of(page, "lora")["F1, difference"] == ""
    assert "`svd`: 83.3 % of the F1 of `lora`, with 5 % of its trained numbers." in page
    assert "edge of the grid" in page and "x1 failed" in page
    assert "full: absent." in page


def test_less_is_better_where_it_is():
    runs = [run("lora", s, nll=1.0 + 0.1 * s) for s in range(3)]
    runs += [run("svd", s, nll=0.5 + 0.1 * s) for s in range(3)]
    assert row_of(as_markdown(document(runs, "nll")), "svd")["loss, difference"].endswith("better")


def test_failed_runs_are_named_and_do_not_count():
    runs = [run("lora", 0, f1=0.5), {"variant": "lora", "seed": 1, "error": "exit code 9: killed"}]
    page = as_markdown(document(runs))
    assert row_of(page, "lora")["seeds"] == "1"
    assert "`lora`, seed 1: exit code 9: killed" in page


def test_marks_before_training_stand_below_the_table():
    found = document([run("lora", 0, f1=0.5)], before={"f1": 0.25, "accuracy": 0.5})
    assert "Before training: F1 0.250." in as_markdown(found)


def test_steps_to_a_loss_are_read_between_two_looks():
    looks = [[0, 3.0], [10, 2.0], [20, 1.0]]
    assert steps_to(looks, 1.5) == 15
    assert steps_to(looks, 2.0) == 10
    assert steps_to(looks, 3.5) == 0
    assert steps_to(looks, 0.5) is None


def test_the_fixed_loss_is_one_that_every_seed_of_the_reference_reaches():
    runs = [
        run("lora", 0, looks=[[0, 3.0], [5, 1.0], [9, 1.2]]),
        run("lora", 1, looks=[[0, 3.0], [5, 2.0], [9, 1.4]]),
        run("svd", 0, looks=[[0, 3.0], [5, 2.2], [9, 1.8]]),
    ]
    assert target_of(runs, "lora") == 1.4
    assert target_of([run("lora", 0, looks=[[0, 3.0], [9, 1.0]])], "lora") is None
    part = {"arms": {"lora": {}, "svd": {}}, "runs": runs}
    found = summary_of(part, "nll", "lora")["arms"]
    assert found["lora"]["steps_to"]["never"] == 0
    assert found["svd"]["steps_to"] == {"never": 1, "median": None}


def test_every_mark_of_every_suite_has_a_column():
    for suite in suites.SUITES:
        assert set(suite.shown) <= set(methods_table.MARKS)
    assert {t.main for t in TABLES.values()} - {""} <= set(methods_table.MARKS)


# --- the processes ------------------------------------------------------------------------------


def test_a_label_is_chosen_by_the_likelihood_of_its_words(tiny):
    torch = pytest.importorskip("torch")
    from benchmarks.method_process import label_marks
    from core import modelload
    from core.data.chat import IGNORED, ChatFormat
    from core.data.types import Example

    path = Path(tiny("llama"))
    model, tokenizer = modelload.load_dense(path, torch.float32), modelload.load_tokenizer(path)
    chat, suite = ChatFormat.of(tokenizer), suites.suite("qqp")
    items = [
        suites.Item(f"Is {a} like {b}?", (suite.labels[n % 2],), n % 2, (a, b))
        for n, (a, b) in enumerate(pairwise(PLACES))
    ]

    def nll(item, word):
        one = chat.encode(Example.pair(item.question, word), 256)
        with torch.no_grad():
            logits = model(torch.tensor([one.ids])).logits[0, :-1].double()
        wanted = torch.tensor(one.labels[1:])
        kept = wanted != IGNORED
        return torch.nn.functional.cross_entropy(logits[kept], wanted[kept], reduction="sum")

    said = [int(nll(item, suite.labels[1]) < nll(item, suite.labels[0])) for item in items]
    found = label_marks(model, tokenizer, chat, suite, items, 256)
    right = sum(s == item.label for s, item in zip(said, items, strict=True))
    assert found["accuracy"] == pytest.approx(right / len(items))
    assert found["marked"] == len(items) and found["left_out"] == 0
    short = label_marks(
        model, tokenizer, chat, suite, [*items, replace(items[0], question="x" * 600)], 64
    )
    assert short["left_out"] >= 1


@pytest.mark.slow
def test_one_method_is_tuned_trained_and_marked_in_processes_of_its_own(options, tmp_path):
    chosen = options(
        "--methods", "lora", "--suites", "e2e", "--seeds", 0, "--factors", 0.3, 1, "--test", 3
    )  # fmt: skip
    (found,) = methods.run_all(chosen, tmp_path / "work")
    (one,) = found["parts"][0]["runs"]
    assert "error" not in one, one
    assert one["steps"] == 2 and one["marked"] == 3 and one["left_out"] == 0
    assert one["trained_numbers"] > 0 and one["file_bytes"] > 0 and one["seconds"] > 0
    assert one["peak_bytes"] > 50_000_000
    assert 0 <= one["rouge_l"] <= 1 and 0 <= one["bleu"] <= 100
    assert found["parts"][0]["before"]["nll"] == pytest.approx(one["nll"], rel=0.2)
    assert all(loss for loss in found["parts"][0]["arms"]["lora"]["tuning"]["losses"].values())
    assert (tmp_path / "results/methods-e2e.md").is_file()
    assert not list((tmp_path / "work").glob("*/*/run"))


def test_arms_that_are_asked_for_twice_or_unknown(monkeypatch):
    with pytest.raises(ConfigError) as caught:
        arms.chosen(["lora", "lroa"])
    assert "lroa" in str(caught.value)
