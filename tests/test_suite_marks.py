"""Marks of the suites, against reference implementations and examples worked by hand."""

from fractions import Fraction

import numpy as np
import pytest
from nltk.translate import nist_score
from sklearn import metrics

from benchmarks import marks


@pytest.mark.parametrize("seed", range(4))
def test_label_marks_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, p = rng.integers(0, 2, 60), rng.random(60)
    found, said = marks.label_marks(truth.tolist(), p.tolist()), p >= 0.5
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))


def test_label_marks_of_counts_worked_by_hand():
    truth, p = [1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.1, 0.7, 0.2, 0.2, 0.1, 0.4]
    found = marks.label_marks(truth, p)
    assert found["confusion"] == {"tp": 2, "fp": 1, "tn": 4, "fn": 1}
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["mcc"] == pytest.approx((2 * 4 - 1 * 1) / (3 * 3 * 5 * 5) ** 0.5)


@pytest.mark.parametrize(
    ("answer", "reference", "em", "f1"),
    [
        # What evaluate-v1.1.py of SQuAD does: lower case, then punctuation, then articles, spaces.
        ("The Eiffel  Tower!", "eiffel tower", 1.0, 1.0),
        ("in the city of Paris", "Paris", 0.0, 2 * 0.25 * 1 / 1.25),
        ("U.S.", "us", 1.0, 1.0),
        ("a theory", "an theory", 1.0, 1.0),
        ("well-known", "well known", 0.0, 0.0),  # the hyphen goes, no space comes
        ("cat cat dog", "cat dog dog", 0.0, 2 / 3),  # counted with multiplicity
        ("London", "Paris", 0.0, 0.0),
        ("", "Paris", 0.0, 0.0),
    ],
)
def test_english_spans_are_marked_as_squad_does(answer, reference, em, f1):
    found = marks.span_marks([answer], [[reference]], "en")
    assert found == {"em": pytest.approx(em), "f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("answer", "reference", "em", "f1"),
    [
        ("罗洛。", "罗洛", 1.0, 1.0),
        ("北京大学", "北京", 0.0, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("“法兰克人”", "法兰克人", 1.0, 1.0),
        ("光荣和ω-force", "光荣", 0.0, 2 * (2 / 4) / (2 / 4 + 1)),  # 光 荣 和 ωforce
        ("在 1998 年", "在1998年", 1.0, 1.0),
        ("the Party", "a party", 0.0, 0.5),  # no articles are taken out of Chinese answers
    ],
)
def test_chinese_spans_are_marked_by_character(answer, reference, em, f1):
    found = marks.span_marks([answer], [[reference]], "zh")
    assert found == {"em": pytest.approx(em), "f1": pytest.approx(f1)}


def test_a_span_counts_with_its_best_reference():
    found = marks.span_marks(["Rollo", "no"], [["the Viking", "Rollo"], ["yes", "never"]], "en")
    assert found == {"em": 0.5, "f1": 0.5}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $18 every day.\n#### 18", 18),
        ("#### 1,080", 1080),
        ("It costs 3 dollars, so 5 cost 15 dollars.", 15),
        ("10-3", 3),  # a subtraction, not minus three
        ("the change is -7", -7),
        ("#### -7", -7),
        ("答案是9。", 9),
        ("答案是１２", 12),  # full width
        ("2/6", Fraction(1, 3)),
        ("一共3.50元", Fraction(7, 2)),
        ("about 50%", 50),
        ("#### none, but 4 before", 4),
        ("first 8, then\n####", 8),
        ("1/0", 1),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_final_number_of_an_answer(text, number):
    assert marks.final_number(text) == number


def test_an_answer_is_right_by_value_and_an_absent_number_is_wrong():
    answers, references = ["#### 1080", "1/3", "?", "6"], [["#### 1,080"], ["2/6"], ["3"], ["7"]]
    assert marks.number_marks(answers, references) == {"exact": 0.5}


TEXTS = ["The Eagle is a cheap pub by the river .", "Cocum serves English food in the centre ."]
KNOWN = [
    ["The Eagle is a cheap riverside pub.", "There is a cheap pub by the river, The Eagle."],
    ["Cocum serves English food."],
]


def test_bleu_is_that_of_sacrebleu_without_case():
    import sacrebleu

    firsts = [known[0] for known in KNOWN]
    theirs = sacrebleu.corpus_bleu(TEXTS, [firsts], lowercase=True).score
    assert marks.bleu(TEXTS, [[r] for r in firsts]) == pytest.approx(theirs)
    assert marks.bleu([t.upper() for t in TEXTS], [[r] for r in firsts]) == pytest.approx(theirs)


def test_items_may_have_different_numbers_of_references():
    repeated = [KNOWN[0], KNOWN[1] * 2]  # the same reference twice says no more than once
    assert marks.bleu(TEXTS, KNOWN) == pytest.approx(marks.bleu(TEXTS, repeated))
    assert marks.bleu(TEXTS, KNOWN) > marks.bleu(TEXTS, [known[:1] for known in KNOWN])
    assert marks.text_marks(TEXTS, KNOWN)["rouge_l"] == pytest.approx(
        marks.text_marks(TEXTS, repeated)["rouge_l"]
    )


def test_bleu_cuts_chinese_into_characters():
    assert marks.bleu(["今天天气很好"], [["今天天气很好"]]) == pytest.approx(100)


def test_nist_is_that_of_nltk_on_lower_case_tokens():
    tokens = [t.lower().split() for t in TEXTS]
    known = [[r.lower().replace(".", " .").replace(",", " ,").split() for r in k] for k in KNOWN]
    assert marks.nist(TEXTS, KNOWN) == pytest.approx(nist_score.corpus_nist(known, tokens))


def test_nist_of_answers_that_are_too_short_is_zero():
    assert marks.nist(["", "pub"], [["a pub in the city centre"], ["a pub"]]) == 0.0


def test_nist_is_left_out_where_its_library_is_absent(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(marks.importlib, "import_module", absent)
    assert "nist" not in marks.text_marks(TEXTS, KNOWN, with_nist=True)


def test_character_errors_are_those_to_the_nearest_reference():
    found = marks.text_marks(["abcd", "abcd"], [["abcx", "zzzz"], ["abcd"]])
    assert found["cer"] == pytest.approx((1 / 4 + 0) / 2)
