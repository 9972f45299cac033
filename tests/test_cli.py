"""The command line's contract: names, exit codes, one JSON document, settings in one place."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import cli
from core.config import RunConfig
from core.data.ingest import large
from core.errors import ConfigError, MemoryBudgetError

CHECKOUT = Path(__file__).resolve().parents[1]


def run(capsysbinary, *arguments):
    code = cli.main(arguments)
    out, err = capsysbinary.readouterr()
    return code, out.decode("utf-8"), err.decode("utf-8")


def configured(*arguments):
    return cli.configure(cli.build_parser().parse_args(["plan", *arguments]))


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "class.csv"
    path.write_text("question,answer\nWhat is 2 + 2?,4\nWhat is 3 + 3?,6\n", "utf-8")
    return path


def test_starting_loads_nothing_heavy():
    code = (
        "import sys, core.cli; core.cli.build_parser();"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'gradio', 'openpyxl', 'jinja2'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("plan",),
        ("train", "--data", "class.csv"),
        ("plan", "--data", "missing.csv"),
        ("data", "missing.csv"),
        ("resume", "nowhere"),
        ("export", "nowhere", "--format", "merged", "--out", "x"),
        ("chat", "--prompt", "x", "--adapter", "nowhere"),
        ("plan", "--rank", "many"),
        ("data", "x.csv", "--map", "frage=A"),
        ("compare",),
        ("compare", "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(capsysbinary, arguments):
    code, out, err = run(capsysbinary, *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    code, out, _ = run(capsysbinary, *arguments, "--json")
    document = json.loads(out)
    assert code == document["exit_code"] == 2
    assert document["problems"][0]["what"]


def test_every_setting_has_an_option(csv):
    tree = RunConfig().to_json()
    groups = {k: v for k, v in tree.items() if isinstance(v, dict)}
    leaves = {f"{g}.{k}" for g, group in groups.items() for k in group} | (set(tree) - set(groups))
    assert {path for path, _, _ in cli.settings()} == leaves - set(cli._OWN_OPTIONS)
    options = cli.build_parser().parse_args(["plan"])
    assert all(hasattr(options, path) for path, _, _ in cli.settings())


def test_settings_come_from_the_file_and_options_go_before_them(csv, tmp_path):
    saved = RunConfig(budget_bytes=7, data=dataclasses.replace(RunConfig().data, path=str(csv)))
    saved = dataclasses.replace(saved, train=dataclasses.replace(saved.train, steps=40, seed=3))
    saved.save(tmp_path / "config.json")
    from_file = configured("--config", str(tmp_path / "config.json"))
    assert from_file == saved
    config = configured(
        *("--config", str(tmp_path / "config.json"), "--budget", "1.5GB", "--rank", "4"),
        *("--no-dynamic", "--lr", "1e-4", "--epochs", "2", "--max-new-tokens", "9"),
    )
    assert (config.budget_bytes, config.adapter.rank) == (1_500_000_000, 4)
    assert (config.adapter.dynamic, config.train.lr, config.train.seed) == (False, 1e-4, 3)
    assert (config.train.epochs, config.train.steps) == (2.0, 0)
    assert config.quiz.max_new_tokens == 9


def test_paths_become_absolute_because_the_child_works_elsewhere(csv, monkeypatch):
    monkeypatch.chdir(csv.parent)
    (csv.parent / "models" / "mine").mkdir(parents=True)
    config = configured("--data", csv.name, "--model", "models/mine")
    assert config.data.path == str(csv.resolve())
    assert config.model == str((csv.parent / "models" / "mine").resolve())
    assert configured("--data", csv.name, "--model", "starter").model == "starter"


def test_columns_are_named_even_with_commas(csv):
    config = configured("--data", str(csv), "--map", "question=Frage, kurz,answer=A=B")
    assert (config.data.question, config.data.answer) == ("Frage, kurz", "A=B")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rank", "0"), "adapter.rank = 0 is out of range"),
        (("--budget", "lots"), "not a size"),
        (("--steps", "3", "--epochs", "1"), "not both"),
    ],
)
def test_a_setting_out_of_range_is_named(csv, arguments, words):
    with pytest.raises(ConfigError, match=words):
        configured("--data", str(csv), *arguments)


def test_a_budget_that_is_too_small_is_code_3_with_the_smallest(capsysbinary, csv, monkeypatch):
    def refuse(*_, **__):
        raise MemoryBudgetError("It does not fit.", minimum_budget_bytes=440_000_000)

    monkeypatch.setattr(cli, "_serve", refuse)
    code, out, err = run(capsysbinary, "plan", "--data", str(csv), "--budget", "1MB", "--json")
    document = json.loads(out)
    assert code == 3
    assert (document["feasible"], document["minimum_budget_bytes"]) == (False, 440_000_000)
    assert "It does not fit." in err


def test_a_bug_is_a_number_and_no_traceback(capsysbinary, csv, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError("a secret")

    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "_serve", fail)
    code, out, err = run(capsysbinary, "plan", "--data", str(csv), "--json")
    assert code == json.loads(out)["exit_code"] == 4
    assert "secret" not in out + err
    assert "ZeroDivisionError: a secret" in (tmp_path / "home" / "cli.log").read_text("utf-8")


def test_models_and_doctor_print_what_the_contract_names(capsysbinary):
    code, out, _ = run(capsysbinary, "models", "--json")
    names = {"id", "source", "path", "parameters", "architecture", "licence"}
    assert code == 0
    assert names <= set(json.loads(out)["models"][0])
    code, out, _ = run(capsysbinary, "doctor", "--json")
    assert code == 0
    assert {"device", "memory_bytes", "versions", "problems"} <= set(json.loads(out))


def test_a_large_file_is_imported_into_a_folder(capsysbinary, csv, tmp_path):
    code, out, err = run(
        capsysbinary, "data", str(csv), "--import", str(tmp_path / "big"), "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["examples"] > 0
    assert document["columns"] == ["question", "answer"]
    assert large.is_imported(tmp_path / "big")
    assert len(large.load(tmp_path / "big").examples) == document["examples"]


def test_chinese_survives_a_terminal_that_cannot_show_it(csv):
    arguments = [sys.executable, "-m", "core.cli", "data", "没有.csv", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    done = subprocess.run(
        arguments, cwd=CHECKOUT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert "没有.csv" in json.loads(done.stdout.decode("utf-8"))["problems"][0]["what"]


@pytest.fixture
def folders(tmp_path):
    """Run folders of two methods, two seeds each; their losses are in the names."""
    found = []
    for method, losses in (("adaq", (0.5, 0.4)), ("qlora", (0.7, 0.62))):
        for seed, nll in enumerate(losses):
            folder = tmp_path / f"{method}-{seed}"
            folder.mkdir()
            train = dataclasses.replace(RunConfig().train, seed=seed)
            RunConfig(method=method, train=train).save(folder / "config.json")
            frozen = {"kind": "data", "sha256": str(seed)}
            (folder / "events.jsonl").write_text(json.dumps(frozen) + "\n", "utf-8")
            result = {"quiz": {"tuned": {"nll": nll}}, "measured_peak_bytes": 5}
            (folder / "result.json").write_text(json.dumps(result), "utf-8")
            found.append(str(folder))
    return found


def test_runs_are_compared_and_the_comparison_is_written(capsysbinary, folders, tmp_path):
    table, report = tmp_path / "table.csv", tmp_path / "report.html"
    code, out, err = run(
        capsysbinary, "compare", *folders, "--json", "--csv", str(table), "--report", str(report)
    )
    first, second = json.loads(out)["rows"]
    assert code == 0
    assert first["cells"]["nll"]["median"] == pytest.approx(0.45)
    assert second["cells"]["nll"]["difference"]["mean"] == pytest.approx(0.21)
    assert second["cells"]["nll"]["difference"]["n"] == 2
    assert "QLoRA" in err
    assert table.read_bytes().startswith(b"\xef\xbb\xbf")
    assert report.read_text("utf-8").startswith("<!doctype html>")


def test_the_reference_of_a_comparison_can_be_chosen(capsysbinary, folders):
    code, out, _ = run(capsysbinary, "compare", *folders, "--reference", folders[2], "--json")
    found = json.loads(out)
    assert (code, found["reference"]) == (0, 1)
    assert found["rows"][0]["cells"]["nll"]["difference"]["mean"] == pytest.approx(-0.21)


def test_a_comparison_that_cannot_be_written_is_a_sentence(capsysbinary, folders, tmp_path):
    target = tmp_path / "nowhere" / "table.csv"
    code, _, err = run(capsysbinary, "compare", *folders, "--csv", str(target))
    assert code == 2
    assert "table.csv" in err


def test_a_class_is_checked_as_a_whole_for_a_model(capsysbinary, csv, monkeypatch):
    mail = {"where": "row 3", "what": "Possible.", "action": "Look.", "severity": "warning"}
    tokens = {"tokens": 40, "answer_tokens": 4, "longest": 20, "limit": 512}
    found = {"findings": [mail], "tokens": tokens, "model_problem": None, "refusal": None}
    asked = []

    def serve(screen, op, **arguments):
        asked.append((op, RunConfig.from_json(arguments["config"])))
        return found

    monkeypatch.setattr(cli, "_serve", serve)
    code, out, err = run(capsysbinary, "data", str(csv), "--model", "starter", "--json")
    document = json.loads(out)
    assert (code, document["examples"], document["check"]) == (0, 2, found)
    assert "warning: row 3: Possible. Look." in err
    assert "512 are kept" in err
    assert asked[0][0] == "health"
    assert (asked[0][1].model, asked[0][1].data.path) == ("starter", str(csv))


def test_other_parts_are_mapped_by_name_and_joined(csv):
    mapped = "question=Frage,question=Zusatz, kurz,system=Rolle,answer=A"
    data = configured("--data", str(csv), "--map", mapped).data
    assert data.parts == {
        "question": ("Frage", "Zusatz, kurz"), "system": ("Rolle",), "answer": ("A",)
    }  # fmt: skip
    assert data.question == ""
