"""Pair files: which columns, which labels, what is left out, and slices that share no question."""

import csv

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.pairs import (
    SLICES,
    Pair,
    components,
    freeze_pairs,
    label_of,
    load_pairs,
    read_pairs,
    split_pairs,
)
from core.data.split import normalised
from core.errors import DataError

ROWS = [
    (f"What is the capital of land {n}?", f"Which town rules land {n}?", n % 2) for n in range(20)
]


def write(path, header, rows, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **options).writerows([header, *rows])
    return path


@pytest.mark.parametrize(
    "header",
    [
        ("question1", "question2", "label"),
        ("Question 1", "Question 2", "is_duplicate"),
        ("问题1", "问题2", "是否相同"),
        ("sentence1", "sentence2", "same"),
    ],
)
def test_columns_are_known_by_name(tmp_path, header):
    found = read_pairs(write(tmp_path / "p.csv", header, ROWS))
    assert list(found.mapping.values()) == list(header)
    assert [(p.first, p.second, p.same) for p in found.pairs] == ROWS
    assert found.problems == ()


def test_other_names_are_guessed_from_what_the_columns_hold_and_said(tmp_path):
    rows = [(n, a, b, "yes" if same else "no") for n, (a, b, same) in enumerate(ROWS)]
    found = read_pairs(write(tmp_path / "p.csv", ("nr", "left side", "right side", "ok"), rows))
    assert found.mapping == {"first": "left side", "second": "right side", "label": "ok"}
    assert [p.code for p in found.problems] == ["pairs.guessed"]
    assert [p.same for p in found.pairs] == [same for *_, same in ROWS]


def test_a_tab_separated_file_with_quotation_marks(tmp_path):
    rows = [(f'He said "{a}"', b, same) for a, b, same in ROWS]
    path = write(tmp_path / "p.tsv", ("question1", "question2", "label"), rows, delimiter="\t")
    assert [p.first for p in read_pairs(path).pairs] == [a for a, *_ in rows]


def test_a_workbook_is_read_with_places(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["问题1", "问题2", "标签"])
    for a, b, same in ROWS:
        book.active.append([a, b, "是" if same else "否"])
    book.save(tmp_path / "p.xlsx")
    found = read_pairs(tmp_path / "p.xlsx")
    assert found.format == "xlsx"
    assert [p.same for p in found.pairs] == [same for *_, same in ROWS]
    assert found.pairs[0].where == "row 2"


def test_what_cannot_be_used_is_named_by_row(tmp_path):
    bad = [
        ("What is a noun?", "", 1),
        ("What is a noun?", "What are nouns?", "perhaps"),
        ("What is a noun?", "What is a noun?", 1),
        (ROWS[0][1], ROWS[0][0], ROWS[0][2]),
        (ROWS[1][1], ROWS[1][0], 1 - ROWS[1][2]),
    ]
    header = ("question1", "question2", "label")
    found = read_pairs(write(tmp_path / "p.csv", header, [*ROWS, *bad]))
    assert len(found.pairs) == len(ROWS)
    said = {p.code: p.where for p in found.problems}
    assert said == {
        "pairs.empty": "row 22",
        "pairs.label": "row 23",
        "pairs.equal": "row 24",
        "pairs.repeated": "row 25",
        "pairs.contradiction": "row 26",
    }


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([(a, b, 1) for a, b, _ in ROWS], "pairs.one_kind"),
        (ROWS[:6], "pairs.too_few"),
        ([(a, b, int(n == 0)) for n, (a, b, _) in enumerate(ROWS)], "pairs.too_few"),
    ],
)
def test_files_that_teach_nothing_are_refused(tmp_path, rows, code):
    path = write(tmp_path / "p.csv", ("question1", "question2", "label"), rows)
    with pytest.raises(DataError) as told:
        read_pairs(path)
    assert told.value.code == code


def test_a_class_file_is_no_pair_file(tmp_path):
    path = write(tmp_path / "c.csv", ("question", "answer"), [(a, b) for a, b, _ in ROWS])
    with pytest.raises(DataError, match="question1, question2 and label"):
        read_pairs(path)
    with pytest.raises(DataError, match="no column 'other'"):
        read_pairs(path, first="other")


@pytest.mark.parametrize(
    ("text", "label"), [("1", 1), ("Yes", 1), ("是", 1), ("0", 0), ("不同", 0), ("maybe", None)]
)
def test_labels(text, label):
    assert label_of(text) == label


questions = st.integers(0, 60).map(lambda n: f"question {n}?")
some_pairs = st.lists(st.builds(Pair, questions, questions, st.integers(0, 1)), max_size=80)


@settings(max_examples=60, deadline=None)
@given(some_pairs, st.integers(0, 5))
def test_no_question_of_one_slice_occurs_in_another(pairs, seed):
    sides = split_pairs(pairs, calibration=0.2, test=0.2, seed=seed)
    asked = [
        {normalised(q) for p in getattr(sides, name) for q in (p.first, p.second)}
        for name in SLICES
    ]
    assert not asked[0] & asked[1]
    assert not asked[0] & asked[2]
    assert not asked[1] & asked[2]
    assert sum(len(getattr(sides, name)) for name in SLICES) == len(pairs)


@settings(max_examples=40, deadline=None)
@given(some_pairs)
def test_components_are_those_of_the_graph(pairs):
    """Against a search that walks from pair to pair."""
    left, expected = set(range(len(pairs))), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            asked = {q for i in group for q in (pairs[i].first, pairs[i].second)}
            edge = {i for i in left - group if {pairs[i].first, pairs[i].second} & asked}
        expected.append(sorted(group))
        left -= group
    assert components(pairs) == expected


def test_slices_keep_the_labels_and_depend_on_texts_and_seed_alone():
    pairs = [Pair(a, b, int(n % 3 == 0)) for n, (a, b, _) in enumerate(ROWS * 1)]
    pairs += [Pair(f"{a} now", f"{b} now", int(n % 3 == 0)) for n, (a, b, _) in enumerate(ROWS)]
    sides = split_pairs(pairs, calibration=0.2, test=0.3, seed=0)
    assert (len(sides.calibration), len(sides.test)) == (8, 12)
    assert [p.same for p in sides.test].count(1) == round(12 * 14 / 40)
    again = split_pairs(pairs[::-1], calibration=0.2, test=0.3, seed=0)
    assert set(again.test) == set(sides.test)
    assert set(split_pairs(pairs, calibration=0.2, test=0.3, seed=1).test) != set(sides.test)


def test_frozen_slices_come_back_and_a_change_is_noticed(tmp_path):
    sides = split_pairs([Pair(*row) for row in ROWS], calibration=0.2, test=0.2, seed=0)
    assert freeze_pairs(sides, tmp_path / "data") == sides.sha256
    assert load_pairs(tmp_path / "data") == sides
    file = tmp_path / "data" / "test.jsonl"
    file.write_text(file.read_text("utf-8").replace('"same": 1', '"same": 0', 1), "utf-8")
    with pytest.raises(DataError, match="changed or damaged"):
        load_pairs(tmp_path / "data")


def test_quora_pairs_are_read_and_split_without_a_common_question(shared):
    found = read_pairs(shared / "data" / "qqp" / "dev.tsv")
    assert found.mapping == {
        "first": "question1",
        "second": "question2",
        "label": "is_duplicate",
    }
    assert (len(found.pairs), sum(p.same for p in found.pairs)) == (1000, 369)
    assert found.problems == ()
    sides = split_pairs(found.pairs, calibration=0.15, test=0.2, seed=0)
    assert [len(getattr(sides, name)) for name in SLICES] == [650, 150, 200]
    assert sum(p.same for p in sides.test) == 74
