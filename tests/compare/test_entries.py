"""What a comparison takes from a run: what is there, once, and nothing that was not measured."""

import pytest

from core.compare.entries import (
    MEASURES,
    entry_of,
    grouped,
    made_bytes,
    measured,
    one_a_seed,
    settings_of,
)
from core.compare.folders import read_entry
from core.config import RunConfig


def test_a_finished_run_says_what_it_measured(make_entry):
    entry = make_entry()
    assert entry.measures == {
        "nll": 0.5,
        "rouge_l": 0.6,
        "exact_match": 0.25,
        "peak_bytes": 800_000_000.0,
        "seconds": 90.0,
        "tokens_per_second": 100.0,
        "trained_numbers": 4096.0,
        "file_bytes": 1234.0,
    }
    assert entry.base_nll == 0.75
    assert entry.curve == ((0, 1.0), (4, 0.2))


@pytest.mark.parametrize("status", ["queued", "running", "paused", "stopped", "failed"])
def test_a_run_that_is_not_done_has_a_curve_but_no_figures(make_entry, status):
    entry = make_entry(status=status)
    assert entry.measures == {}
    assert entry.curve


def test_without_a_quiz_there_is_no_quality_but_the_cost_is_there(make_entry):
    entry = make_entry(nll=None)
    assert not {"nll", "rouge_l", "exact_match"} & set(entry.measures)
    assert entry.measures["peak_bytes"] == 800_000_000.0


def test_values_that_are_missing_or_no_numbers_are_left_out(tmp_path):
    assert measured({}, tmp_path) == {}
    odd = {"measured_peak_bytes": None, "seconds": None, "quiz": {"tuned": {"nll": "low"}}}
    assert measured(odd, tmp_path) == {}


def test_the_loss_of_pairs_is_another_quantity(tmp_path):
    quiz = {"task": "pairs", "base": {"nll": 1.0}, "tuned": {"nll": 0.3, "f1": 0.8}}
    assert measured({"quiz": quiz}, tmp_path) == {"f1": 0.8}
    entry = entry_of("r", "r", "done", {"method": "pairs"}, {"quiz": quiz}, [], tmp_path)
    assert entry.base_nll is None


def test_the_file_of_a_student_that_trained_whole_is_its_model(tmp_path):
    assert made_bytes(tmp_path) == 0
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x" * 10)
    assert made_bytes(tmp_path) == 10


def test_a_resumed_run_has_each_step_once_and_no_time(make_entry):
    again = (
        {"kind": "status", "status": "running"},
        {"kind": "evaluated", "step": 4, "nll": 0.15, "which": "tuned"},
    )
    entry = make_entry(events=again)
    assert entry.curve == ((0, 1.0), (4, 0.15))
    assert entry.interrupted
    assert "seconds" not in entry.measures


def test_why_a_run_failed_is_kept_only_while_it_has_failed(make_entry):
    failed = ({"kind": "failed", "what": "It does not fit.", "action": "Use 900 MB."},)
    assert make_entry(status="failed", events=failed).problem.sentence() == (
        "It does not fit. Use 900 MB."
    )
    assert make_entry(status="done", events=failed).problem is None


def test_runs_that_differ_in_seed_and_name_alone_belong_together(make_entry):
    a, b = make_entry(seed=0, name="first"), make_entry(seed=1, name="second")
    other = make_entry(adapter={"rank": 4})
    assert grouped([a, other, b]) == [[a, b], [other]]


def test_a_method_and_the_same_settings_written_out_are_not_told_apart_by_what_it_fixes():
    chosen = RunConfig(method="qlora").to_json()
    composed = settings_of(chosen)
    assert composed["quant.scheme"] == "nf4"
    tree = RunConfig(method="qlora").to_json()
    tree["quant"]["bits"] = 4
    assert settings_of(tree) == composed


def test_settings_of_another_version_are_taken_as_they_stand():
    odd = {"method": "tomorrow", "train": {"seed": 3, "unknown": 1}}
    assert settings_of(odd) == {"method": "tomorrow", "train.seed": 3, "train.unknown": 1}


def test_a_repeat_of_a_seed_is_no_new_evidence(make_entry):
    first, again = make_entry(nll=0.5), make_entry(nll=0.4)
    assert one_a_seed([first, again]) == [again]
    assert one_a_seed([first, make_entry(status="failed")]) == [first]


def test_a_folder_is_read_as_far_as_it_got(tmp_path):
    RunConfig(name="Class 8b").save(tmp_path / "config.json")
    entry = read_entry(tmp_path)
    assert (entry.name, entry.status, entry.measures) == ("Class 8b", "stopped", {})
    lines = '{"kind": "status", "status": "failed"}\n{"kind": "failed", "what": "No."}\n{"ki'
    (tmp_path / "events.jsonl").write_text(lines, "utf-8")
    entry = read_entry(tmp_path)
    assert (entry.status, entry.problem.what) == ("failed", "No.")
    (tmp_path / "result.json").write_text('{"trained_numbers": 5}', "utf-8")
    entry = read_entry(tmp_path)
    assert (entry.status, entry.measures) == ("done", {"trained_numbers": 5.0})


def test_every_measure_can_be_written():
    for measure in MEASURES:
        assert measure.text(1234.5)
    clock = next(m for m in MEASURES if m.form == "seconds")
    assert (clock.text(61), clock.text(3725)) == ("1:01", "1:02:05")
