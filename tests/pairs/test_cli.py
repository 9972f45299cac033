"""Pairs by the command line: data, train, evaluate, ask, duplicates, export; one JSON each.

The verbs ask the operations of the helper process in this one, but for a first question: its start
takes longer than all of them.
"""

import json
import subprocess
import sys

import pytest

from core import cli
from core.home import CHECKOUT
from core.pairs.store import load_trained
from core.runs.operations import OPERATIONS
from core.runs.serve import Request


@pytest.fixture(autouse=True)
def served(request, monkeypatch):
    def serve(screen, op, **arguments):
        return OPERATIONS[op](Request("1", op, arguments, lambda answer: None))

    if "through_the_helper" not in request.node.name:
        monkeypatch.setattr(cli, "_serve", serve)


def run(capsysbinary, *arguments):
    code = cli.main([*map(str, arguments), "--json"])
    out, _ = capsysbinary.readouterr()
    return code, json.loads(out)


@pytest.fixture(scope="module")
def done(tiny_encoder, pair_file, tmp_path_factory):
    """The folder of a run that the command line made."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    options = ["--method", "pairs", "--model", str(tiny_encoder("bert")), "--data", str(pair_file)]
    options += ["--steps", "3", "--rank", "2", "--max-length", "64", "--out", str(folder)]
    assert cli.main(["train", *options]) == 0
    return folder


@pytest.fixture(scope="module")
def class_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    asked = ["what is a cat?", "what is the sun?", "What is a CAT", "say bird"]
    path.write_text("question,answer\n" + "".join(f"{q},it is\n" for q in asked), "utf-8")
    return path


def test_a_pair_file_is_read_and_counted(capsysbinary, pair_file, class_file):
    code, said = run(capsysbinary, "data", pair_file, "--pairs")
    assert (code, said["examples"], said["health"]["same"]) == (0, 48, 24)
    code, said = run(capsysbinary, "data", class_file, "--pairs")
    assert code == 2
    assert "question1, question2 and label" in said["problems"][0]["action"]


def test_marks_of_a_file_and_of_the_runs_own_test_pairs(capsysbinary, done, pair_file):
    code, said = run(capsysbinary, "evaluate", "--adapter", done, "--data", pair_file)
    assert code == 0
    assert said["examples"] == 48
    assert {"accuracy", "f1", "mcc", "auc"} <= set(said)
    _, own = run(capsysbinary, "evaluate", "--adapter", done, "--data", done)
    kept = json.loads((done / "result.json").read_text("utf-8"))["quiz"]["tuned"]
    assert own["confusion"] == kept["confusion"]


def test_a_question_goes_through_the_helper_process(capsysbinary, done):
    code, said = run(capsysbinary, "pairs", done, "--ask", "what is a cat", "say cat")
    assert code == 0
    expected = load_trained(done).same("what is a cat", "say cat")
    assert said["probability"] == pytest.approx(expected, abs=1e-5)


def test_two_questions_are_compared_in_either_order(capsysbinary, done):
    code, forth = run(capsysbinary, "pairs", done, "--ask", "what is a cat", "say cat")
    _, back = run(capsysbinary, "pairs", done, "--ask", "say cat", "what is a cat")
    assert code == 0
    assert forth == back
    assert forth["same"] == (forth["probability"] >= forth["threshold"])
    code, said = run(capsysbinary, "pairs", done, "--ask", "what is a cat", " ")
    assert (code, said["problems"][0]["code"]) == (2, "pairs.empty_question")


def test_duplicates_of_a_class_are_named_by_row(capsysbinary, done, class_file):
    code, said = run(capsysbinary, "pairs", done, "--duplicates", class_file)
    assert code == 0
    linked = [{a["where"] for a in group} for group in said["groups"]]
    assert any({"row 2", "row 4"} <= group for group in linked)


def test_what_such_a_model_cannot_do_is_one_sentence(capsysbinary, done, pair_file):
    code, said = run(capsysbinary, "chat", "--adapter", done, "--prompt", "hello")
    assert (code, said["problems"][0]["code"]) == (2, "pairs.no_chat")
    code, said = run(capsysbinary, "plan", "--method", "pairs", "--data", pair_file)
    assert (code, said["problems"][0]["code"]) == (2, "pairs.no_plan")
    code, said = run(capsysbinary, "export", done, "--format", "peft", "--out", done / "x")
    assert (code, said["problems"][0]["code"]) == (2, "pairs.export")


def test_the_merged_export_judges_as_the_run_by_the_lines_of_its_readme(
    capsysbinary, done, tmp_path
):
    code, said = run(capsysbinary, "export", done, "--format", "merged", "--out", tmp_path / "out")
    assert code == 0
    assert said["checked"]["equal"] == said["checked"]["prompts"] > 0
    lines = (tmp_path / "out" / "README.md").read_text("utf-8").split("```python\n")[1]
    program = lines.split("```")[0] + "\nprint(json.dumps(same('what is a cat', 'say dog')))\n"
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, check=True
    )
    p, verdict = json.loads(out.stdout)
    trained = load_trained(done)
    assert p == pytest.approx(trained.same("say dog", "what is a cat"), abs=1e-4)
    assert verdict == (p >= trained.threshold)


def test_starting_the_command_line_loads_nothing_of_pairs():
    code = "import sys, core.cli; core.cli.build_parser(); sys.exit('core.pairs' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
