"""Marks against the usual libraries and values counted by hand."""

import subprocess
import sys

import jieba
import numpy as np
import pytest
from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from core.evaluate import metrics

ENGLISH = [
    ("the cat sat on the mat", "a cat was on the mat"),
    ("Photosynthesis turns light into sugar.", "Plants turn light, water and CO2 into sugar!"),
    ("", "something"),
    ("no common words here", "entirely different"),
    ("It's 3.14", "it s 3 14"),
]
CHINESE = [
    ("光合作用把光能转化为化学能", "光合作用将光能转变成化学能"),
    ("北京是中国的首都", "中国的首都是北京"),
    ("三角形内角和是一百八十度", "三角形的内角和等于一百八十度"),
]


@pytest.mark.parametrize(("hypothesis", "reference"), ENGLISH)
def test_english_rouge_l_equals_rouge_score(hypothesis: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, hypothesis)["rougeL"].fmeasure
    assert metrics.rouge_l(hypothesis, reference) == pytest.approx(expected)


@pytest.mark.parametrize(("hypothesis", "reference"), CHINESE)
def test_chinese_rouge_l_equals_rouge_chinese(hypothesis: str, reference: str) -> None:
    cut = [" ".join(jieba.lcut(text)) for text in (hypothesis, reference)]
    expected = Rouge(metrics=["rouge-l"]).get_scores(*cut)[0]["rouge-l"]["f"]
    assert metrics.rouge_l(hypothesis, reference) == pytest.approx(expected, abs=1e-6)


def test_rouge_l_by_hand() -> None:
    # 3 of 4 words in order, 3 of 6: precision 0.75, recall 0.5
    assert metrics.rouge_l("one two nine three", "one two x y z three") == pytest.approx(0.6)
    assert metrics.rouge_l("The answer!", "the ANSWER") == 1.0
    assert metrics.rouge_l("你好，世界。", "你好世界") == 1.0


def test_bleu_equals_sacrebleu() -> None:
    ours, theirs = [h for h, _ in ENGLISH], [r for _, r in ENGLISH]
    assert metrics.bleu4(ours, theirs) == corpus_bleu(ours, [theirs]).score
    ours, theirs = [h for h, _ in CHINESE], [r for _, r in CHINESE]
    expected = corpus_bleu(ours, [theirs], tokenize="zh").score
    assert metrics.bleu4(ours, theirs) == expected > 0
    assert metrics.bleu4(theirs, theirs) == pytest.approx(100)


def test_bleu_needs_a_reference_for_each_answer() -> None:
    with pytest.raises(ValueError, match="one reference"):
        metrics.bleu4(["a"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", "en"),
        ("你好", "zh"),
        ("用 Python 写一个函数，返回列表的长度", "zh"),
        ("The word 学习 means to study and to learn", "en"),
        ("Größe", "en"),
        ("42", "en"),
        ("", "en"),
    ],
)
def test_language_by_characters(text: str, expected: str) -> None:
    assert metrics.language(text) == expected


@pytest.mark.parametrize(
    ("hypothesis", "reference", "equal"),
    [
        ("Paris.", "paris", True),
        ("The Eiffel  Tower", "eiffel tower!", True),
        ("3.14", "314", False),
        ("1,000", "1000", False),
        ("Ａ１", "a1", True),
        ("北京。", " 北京", True),
        ("北京", "南京", False),
        ("", "x", False),
    ],
)
def test_exact_match_ignores_what_a_teacher_ignores(
    hypothesis: str, reference: str, equal: bool
) -> None:
    assert metrics.exact_match(hypothesis, reference) is equal


def test_edit_distance_by_hand() -> None:
    assert metrics.edit_distance("kitten", "sitting") == 3
    assert metrics.edit_distance("", "abc") == metrics.edit_distance("abc", "") == 3
    assert metrics.cer("abcd", "abxd") == 0.25
    assert metrics.cer(" 你好 ", "你们好") == pytest.approx(1 / 3)
    assert metrics.cer("x", "") == 1.0


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = metrics.bootstrap_interval(rng.normal(0.3, 1, 60), seed=trial, resamples=400)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_weighs_questions_by_their_tokens() -> None:
    sums, tokens = [10.0, 1.0, 1.0], [10, 1, 1]
    assert metrics.bootstrap_interval(sums, tokens) == (1.0, 1.0)
    assert metrics.bootstrap_interval([1.0, 2.0]) == metrics.bootstrap_interval([1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        metrics.bootstrap_interval([])


def test_marks_need_no_torch() -> None:
    code = "import sys, core.evaluate.metrics as m; m.rouge_l('你好', '你'); m.bleu4(['a'], ['a'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and done.stderr == ""
