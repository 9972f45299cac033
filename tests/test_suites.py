"""The public suites: what their loaders read, and that no split leaks."""

import json

import pytest

from benchmarks import marks, suites
from benchmarks.suites import LABELS, NUMBER, SPAN, SUITES, Item, held_out, load
from core.data.split import normalised
from core.errors import ConfigError, DataError

IDS = [s.id for s in SUITES]


@pytest.fixture(scope="session")
def material(shared):
    """A function: id -> the suite as read, once; skips where its files are absent."""
    known = {}

    def read(suite_id):
        if suite_id not in known:
            try:
                known[suite_id] = load(suite_id, shared / "data")
            except DataError as error:
                pytest.skip(str(error))
        return known[suite_id]

    return read


def questions(items):
    return {normalised(text) for item in items for text in item.pair}


def write_qqp(folder, rows):
    """The three files of QQP, each with a third of the rows (question, question, label)."""
    (folder / "qqp").mkdir(parents=True)
    for k, name in enumerate(("train", "dev", "test")):
        lines = ["id\tquestion1\tquestion2\tis_duplicate"]
        lines += [f"{n}\t{a}\t{b}\t{same}" for n, (a, b, same) in enumerate(rows[k::3])]
        (folder / "qqp" / f"{name}.tsv").write_text("\n".join(lines), "utf-8")
    return folder


def test_an_unknown_suite_is_refused_with_those_there_are():
    with pytest.raises(ConfigError) as caught:
        suites.suite("mnli")
    assert "sst2" in str(caught.value)


@pytest.mark.parametrize("suite_id", IDS)
def test_a_suite_whose_files_are_absent_is_named(suite_id, tmp_path):
    with pytest.raises(DataError) as caught:
        load(suite_id, tmp_path)
    assert suite_id in str(caught.value)
    assert "--shared" in str(caught.value)


@pytest.mark.parametrize("suite_id", IDS)
def test_every_suite_is_read_whole(suite_id, material):
    found = material(suite_id)
    assert len(found.train) + found.leaked == found.found[0] > 100
    assert len(found.test) == found.found[1] > 50
    for item in (*found.train, *found.test):
        assert item.question.strip()
        assert item.references and all(r.strip() for r in item.references)
    assert all(item.group for item in found.suite.grouped(found.train[:50]))
    assert found.suite.licence and found.suite.main in found.suite.shown


@pytest.mark.parametrize("suite_id", [s.id for s in SUITES if s.kind == LABELS])
def test_the_answer_of_a_label_is_its_word(suite_id, material):
    found = material(suite_id)
    labels = [item.label for item in found.test]
    assert set(labels) == {0, 1}
    for item in (*found.train, *found.test):
        assert item.references == (found.suite.labels[item.label],)
        assert all(item.pair)


@pytest.mark.parametrize("suite_id", IDS)
def test_nothing_of_the_test_is_learned(suite_id, material):
    found = material(suite_id)
    asked = {normalised(item.question) for item in found.test}
    assert not asked & {normalised(item.question) for item in found.train}


def test_qqp_by_clusters_shares_no_question(material):
    found = material("qqp-clusters")
    assert not questions(found.train) & questions(found.test)
    same = [sum(i.label for i in side) / len(side) for side in (found.train, found.test)]
    assert same[0] == pytest.approx(same[1], abs=0.03)


def test_questions_linked_over_several_pairs_stay_together(tmp_path):
    # Chains a-b, b-c, c-d of different length: only whole chains may be dealt to a side.
    rows = [
        (f"What is {chain} {k}?", f"what is {chain}  {k + 1}", (chain + k) % 2)
        for chain in range(12)
        for k in range(1 + chain % 4)
    ]
    found = load("qqp-clusters", write_qqp(tmp_path, rows))
    assert found.test
    assert not questions(found.train) & questions(found.test)
    groups = {}
    for item in found.suite.grouped(found.train):
        for text in item.pair:
            assert groups.setdefault(normalised(text), item.group) == item.group


def test_a_pair_of_the_test_is_not_learned_in_the_other_order(tmp_path):
    rows = [(f"Question {n}?", f"Other {n}?", n % 2) for n in range(30)]
    rows[3] = ("Other 5?", "question 5", 1)  # in train; its like is in test
    found = load("qqp", write_qqp(tmp_path, rows))
    assert found.leaked == 1
    assert not [item for item in found.train if item.pair[0] == "Other 5?"]


def test_e2e_keeps_all_references_of_a_meaning_together(material, shared):
    found = material("e2e")
    lines = (shared / "data/e2e_nlg/test_w_refs.csv").read_text("utf-8").count("\n")
    assert sum(len(item.references) for item in found.test) == pytest.approx(lines - 1, abs=1)
    assert len({item.group for item in found.test}) == len(found.test)
    assert not {item.group for item in found.train} & {item.group for item in found.test}


@pytest.mark.parametrize("suite_id", [s.id for s in SUITES if s.kind == SPAN])
def test_answers_are_in_the_text_and_articles_on_one_side(suite_id, material):
    found = material(suite_id)
    inside = [any(r in i.question for r in i.references) for i in (*found.train, *found.test)]
    assert sum(inside) > 0.99 * len(inside)
    assert not {item.group for item in found.train} & {item.group for item in found.test}


@pytest.mark.parametrize("suite_id", [s.id for s in SUITES if s.kind == NUMBER])
def test_every_problem_has_a_final_number(suite_id, material):
    found = material(suite_id)
    for item in (*found.train, *found.test):
        assert marks.final_number(item.references[0]) is not None
        assert "<<" not in item.references[0]
    answers = [item.references[0] for item in found.test]
    assert found.suite.marks(found.test, answers) == {"exact": 1.0}


@pytest.mark.parametrize("suite_id", ["e2e", "squad", "squad-zh", "alpaca", "alpaca-zh"])
def test_the_references_themselves_have_full_marks(suite_id, material):
    found = material(suite_id)
    items = found.test[:6]
    got = found.suite.marks(items, [item.references[0] for item in items])
    best = {"em": 1.0, "f1": 1.0, "rouge_l": 1.0, "bleu": 100.0, "cer": 0.0}
    assert {k: v for k, v in got.items() if k in best} == {
        k: pytest.approx(best[k]) for k in got if k in best
    }
    assert set(found.suite.shown) >= set(got)


def test_quotes_of_glue_are_text_and_those_of_qqp_are_not(tmp_path):
    (tmp_path / "glue/cola").mkdir(parents=True)
    for name in ("train", "dev_in_domain", "dev_out_of_domain"):
        lines = ["source\tlabel\tauthor_mark\tsentence", f'x\t1\t\t"Guess, {name}']
        (tmp_path / f"glue/cola/{name}.tsv").write_text("\n".join(lines), "utf-8")
    assert load("cola", tmp_path).train[0].pair[0] == '"Guess, train'
    rows = [('"What is ""love""?"', f'"And ""that"" {n}?"', n % 2) for n in range(12)]
    assert load("qqp", write_qqp(tmp_path, rows)).test[0].pair[0] == 'What is "love"?'


def items_in_groups(sizes):
    return [
        Item(f"question {group} {k}", ("answer",), group=f"g{group}")
        for group, size in enumerate(sizes)
        for k in range(size)
    ]


def test_a_slice_takes_whole_groups_and_does_not_depend_on_the_order():
    items = items_in_groups([1, 5, 2, 3, 4, 1, 2])
    rest, held = held_out(items, 6)
    assert 0 < len(held) <= 6
    assert not {i.group for i in rest} & {i.group for i in held}
    assert sorted(map(str, [*rest, *held])) == sorted(map(str, items))
    assert {i.group for i in held_out(items[::-1], 6)[1]} == {i.group for i in held}
    assert any(held_out(items, 6, seed=seed)[1] != held for seed in range(1, 6))


def test_a_slice_that_is_too_small_for_any_group_has_the_smallest():
    rest, held = held_out(items_in_groups([4, 3, 5]), 2)
    assert {i.group for i in held} == {"g1"}
    assert len(rest) == 9


def test_items_survive_being_written():
    item = Item("q", ("a", "b"), 1, ("x", "y"), "g")
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
