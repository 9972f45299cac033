"""A class becomes a map: by the engine, by the command line, and again after corrections."""

import json

import pytest

from core import cli
from core.config import DataConfig
from core.data.frozen import load_frozen
from core.data.types import Example
from core.errors import DataError
from core.graph import build, reason, scorer, use
from core.graph.classes import freeze_by_concept
from core.graph.decode import is_acyclic
from core.graph.document import Edit, MapDocument, load
from core.graph.encoder import Encoder, default_model
from core.graph.model import Shape
from core.graph.reason import Settings
from core.graph.scorer import Scorer
from core.runs.operations import OPERATIONS
from core.runs.serve import Request

TEXT = """# Fractions

Numerator: the number above the line of a fraction.
Denominator: the number below the line of a fraction.

A fraction is a part of a whole. A common denominator requires a denominator.
A half is a kind of fraction.
"""


@pytest.fixture(scope="module")
def encoder(tiny):
    return Encoder(tiny("llama"))


@pytest.fixture(scope="module")
def paragraphs(tmp_path_factory):
    from core.graph.material import read_material

    path = tmp_path_factory.mktemp("text") / "unit.md"
    path.write_text(TEXT, "utf-8")
    return read_material(path)


@pytest.fixture(scope="module")
def untrained(encoder):
    """A scorer with random weights: enough to see that its answers are used as they should be."""
    models = {
        name: reason.fit([], Shape(encoder.width, name, hidden=32), Settings(epochs=0))
        for name in ("gcn-gat", "none")
    }
    return Scorer("tiny", "none", models, {"data": "none"})


def made(encoder, examples, paragraphs, which=None, previous=None):
    options = build.Options(name="class")
    material = [("unit.md", paragraphs)] if paragraphs else []
    return build.build(examples, material, encoder, which, options=options, previous=previous)


@pytest.fixture(scope="module")
def first(encoder, examples, paragraphs):
    return made(encoder, examples, paragraphs)


def test_concepts_stand_where_the_map_says(first):
    now = first.current()
    names = {c.name.casefold() for c in now.concepts}
    assert {"numerator", "denominator"} <= names
    assert any("fraction" in n for n in names)
    for c in now.concepts:
        assert c.mentions
        for m in c.mentions:
            said = now.passages[m.passage].text[m.start : m.end]
            assert said and said == said.strip()


def test_relations_that_a_sentence_states_are_found_with_the_sentence(first):
    now = first.current()
    names = {c.id: c.name.casefold() for c in now.concepts}
    told = {(names[r.source], r.kind, names[r.target]): r for r in now.relations}
    key = ("half", "example-of", now.named("fraction").name.casefold())
    evidence = [now.passages[p].text for p in told[key].evidence]
    assert evidence == ["A half is a kind of fraction."]
    assert first.current().metrics["relations"] == {"used": "said", "stated": len(told)}


def test_the_same_class_gives_the_same_map(encoder, examples, paragraphs, first):
    again = made(encoder, examples, paragraphs)
    assert again.current().concepts == first.current().concepts
    assert again.current().relations == first.current().relations


def test_a_scorer_is_used_with_its_marks_and_makes_no_cycle(
    encoder, examples, paragraphs, untrained
):
    now = made(encoder, examples, paragraphs, untrained).current()
    told = now.metrics["relations"]
    assert told["used"] == "none"
    assert set(told["validation"]) == {"gcn-gat", "none"}
    assert told["learned_from"] == 0
    assert is_acyclic(now.relations)


def test_corrections_are_kept_and_learned_from(encoder, examples, paragraphs, first):
    now = first.current()
    gone = next(c for c in now.concepts if c.name.casefold() not in ("numerator", "ratio"))
    kept = now.named("numerator")
    made_so_far = first.edit(Edit("rename", kept.id, text="top number"))
    made_so_far = made_so_far.edit(Edit("remove", gone.id))
    made_so_far = made_so_far.edit(Edit("add", text="closed shape", other="skill"))
    again = made(encoder, examples, paragraphs, previous=made_so_far)
    later = again.current()
    assert later.concept(kept.id).name == "top number"
    assert later.concept(gone.id) is None
    assert later.named("closed shape").kind == "skill"
    assert again.base.named("closed shape").kind == "skill"  # found by itself now
    assert not again.unapplied


def test_enough_corrected_relations_teach_the_scorer(encoder, paragraphs, untrained):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    words += ["eta", "theta", "iota", "kappa", "lambda", "omega"]
    examples = [
        Example.pair(f"What is {a}?", f"{a.capitalize()} is a kind of letter near {b}.", f"row {i}")
        for i, (a, b) in enumerate(zip(words, words[1:] + words[:1], strict=True))
    ]
    made_so_far = made(encoder, examples, paragraphs, untrained)
    now = made_so_far.current()
    ids = [c.id for w in words if (c := now.named(w)) is not None]
    for a in range(len(ids)):
        for b in range(a + 1, min(a + 5, len(ids))):
            made_so_far = made_so_far.edit(Edit("add-relation", ids[a], ids[b], "prerequisite"))
    assert len(made_so_far.edits) >= build.LEAST_LABELS
    again = made(encoder, examples, paragraphs, untrained, made_so_far)
    told = again.current().metrics["relations"]
    assert told["learned_from"] == len(made_so_far.edits)
    assert all(m["pairs"] > 0 for m in told["validation"].values())
    assert is_acyclic(again.current().relations)


def test_questions_of_a_pair_model_are_one_group(encoder, examples):
    options = build.Options(same=((0, 1), (1, 2)))
    found = build.build(examples, [], encoder, None, options=options).current()
    groups = [q.group for q in found.questions]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_nothing_to_read_is_said(encoder):
    with pytest.raises(DataError, match="no text"):
        made(encoder, [], None)
    with pytest.raises(DataError, match="No concept"):
        made(encoder, [Example.pair("1 + 1?", "2")], None)


def test_a_scorer_comes_back_from_its_files(untrained, tmp_path):
    scorer.save(untrained, tmp_path)
    back = scorer.load("tiny", tmp_path)
    for name, fitted in untrained.models.items():
        assert back.models[name].calibration == fitted.calibration
        for key, value in back.models[name].model.state_dict().items():
            wanted = fitted.model.state_dict()[key]
            assert (value - wanted).abs().max() <= 1e-3 * wanted.abs().max() + 1e-4
    path = tmp_path / "scorer-tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="damaged"):
        scorer.load("tiny", tmp_path)
    assert scorer.load("unknown", tmp_path) is None


@pytest.mark.parametrize("name", ["starter", "all-MiniLM-L6-v2"])
def test_the_scorers_that_come_along_are_whole_and_name_their_source(name):
    found = scorer.load(name)
    assert found.used in found.models
    best = {n: f.marks["auc"] for n, f in found.models.items()}
    assert best[found.used] == max(best.values())
    assert found.facts["licence"] == "CC BY-SA 3.0"
    assert set(found.blind) == set(found.models)


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def run(capsysbinary, monkeypatch, tiny):
    def serve(screen, op, **arguments):
        return OPERATIONS[op](Request("1", op, arguments, lambda answer: None))

    monkeypatch.setattr(cli, "_serve", serve)

    def call(*arguments):
        code = cli.main([*map(str, arguments), "--json"])
        return code, json.loads(capsysbinary.readouterr()[0])

    return call


@pytest.fixture(scope="module")
def class_file(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = "".join(f'"{e.question}","{e.answer}"\n' for e in examples)
    path.write_text("question,answer\n" + rows, "utf-8")
    return path


def test_the_verb_makes_corrects_and_writes_a_map(run, class_file, tiny, tmp_path):
    text = tmp_path / "unit.md"
    text.write_text(TEXT, "utf-8")
    saved = tmp_path / "map.json"
    options = ["--encoder", tiny("llama"), "--material", text, "--save", saved]
    code, told = run("graph", class_file, *options)
    assert code == 0
    assert {"entities", "relations", "gaps", "metrics"} <= told.keys()
    assert told["questions"] == 8
    name = told["entities"][0]["name"]
    edits = ["--edit", f"rename:{name}:my name", "--edit", "add:a new one"]
    code, told = run("graph", saved, *edits, "--save", saved)
    assert (code, told["version"]) == (0, 2)
    assert {"my name", "a new one"} <= {e["name"] for e in told["entities"]}
    code, told = run("graph", saved, "--undo", "--format", "csv", "--out", tmp_path / "out")
    assert (told["version"], told["files"]) == (1, ["concepts.csv", "relations.csv"])
    assert (tmp_path / "out" / "concepts.csv").read_bytes().count(b"\r\n") > 1
    assert isinstance(load(saved), MapDocument)


def test_the_class_is_frozen_with_a_quiz_of_concepts_that_are_not_learned(
    small, examples, class_file, tmp_path
):
    data = DataConfig(path=str(class_file), quiz_share=0.4)
    told = freeze_by_concept(small.current(), data, tmp_path / "split", weighted=True)
    sides = load_frozen(tmp_path / "split")
    assert len(sides.quiz) == told["quiz"]
    assert len(sides.train) == told["train"] + told["repeated"]
    assert told["train"] + told["quiz"] == len(examples)
    assert told["repeated"] > 0
    learned = set().union(*use.concepts_of_examples(small.current(), sides.train))
    assert not {small.current().concept(c).name for c in learned} & set(told["held"])
    with pytest.raises(DataError, match="No concept can be kept"):
        freeze_by_concept(
            small.current(), DataConfig(path=str(class_file), quiz_share=0), tmp_path / "none"
        )


def test_a_text_alone_is_mapped_too(run, tiny, tmp_path):
    text = tmp_path / "unit.md"
    text.write_text(TEXT, "utf-8")
    code, told = run("graph", text, "--encoder", tiny("llama"))
    assert (code, told["questions"]) == (0, 0)
    assert told["entities"]


@pytest.mark.parametrize(
    ("edit", "said"), [("explode:x", "no correction"), ("remove:nobody", "no concept")]
)
def test_a_wrong_correction_is_refused(run, small, tmp_path, edit, said):
    from core.graph.document import save

    save(small, tmp_path / "map.json")
    code, told = run("graph", tmp_path / "map.json", "--edit", edit)
    assert code == 2
    assert said in told["problems"][0]["what"]


def test_without_a_name_the_best_encoder_that_is_there_is_taken():
    assert default_model() in ("starter", "all-MiniLM-L6-v2")
