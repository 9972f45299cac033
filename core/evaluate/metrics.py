"""Marks for written answers, in English and Chinese. No torch in here.

ROUGE-L, exact match and the character error rate are shares 0..1; BLEU is 0..100 as ``sacrebleu``
prints it. Chinese is cut into words by jieba; other languages at everything that is no letter or
digit. What text is Chinese is judged by its characters.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from core.home import cache_folder

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_WORD = re.compile(r"[^\W_]+")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.,](?=\d)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
CHINESE_SHARE = 0.3  # of the letters; technical terms in Chinese text are often Latin


def language(text: str) -> str:
    """Return ``zh`` if a good part of the letters are Chinese characters, otherwise ``en``."""
    letters = sum(c.isalpha() for c in text)
    return "zh" if letters and len(_HAN.findall(text)) >= CHINESE_SHARE * letters else "en"


def words(text: str, lang: str = "") -> list[str]:
    """Cut text into the units that ROUGE-L compares, lower case, without punctuation.

    Args:
        text: any text.
        lang: ``zh`` or ``en``; empty: judged by the text.
    """
    lowered = text.lower()
    if (lang or language(text)) != "zh":
        return _WORD.findall(lowered)
    return [w for w in _segmenter().lcut(lowered) if _WORD.search(w)]


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    import jieba

    jieba.setLogLevel(logging.ERROR)  # it reports on standard error how long its dictionary took
    segmenter = jieba.Tokenizer()
    # Its cache is read with marshal; in the shared temporary folder anyone could have put it there.
    segmenter.tmp_dir = str(cache_folder())
    return segmenter


def rouge_l(hypothesis: str, reference: str) -> float:
    """Return the ROUGE-L F1 (0..1): the longest common subsequence of words."""
    lang = language(reference)
    ours, theirs = words(hypothesis, lang), words(reference, lang)
    common = longest_common_subsequence(ours, theirs)
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if x == y else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def bleu4(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU-4 (0..100) of ``sacrebleu``, one reference per answer.

    Its ``zh`` tokenizer is used if most references are Chinese, its ``13a`` otherwise.

    Raises:
        ValueError: if there are not as many answers as references, or none.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(hypotheses) != len(references) or not references:
        raise ValueError("BLEU needs one reference for each answer")
    chinese = sum(language(text) == "zh" for text in references) * 2 > len(references)
    metric = BLEU(tokenize="zh" if chinese else "13a")
    return float(metric.corpus_score(list(hypotheses), [list(references)]).score)


def normalised(text: str) -> str:
    """Return text without what a teacher would not count: case, punctuation, articles, spaces.

    Points and commas inside numbers stay: 3.14 is not 314.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = _BETWEEN_DIGITS.sub(lambda m: f"\ue000{ord(m[0]):x}\ue001", plain)
    plain = "".join(c if c.isalnum() or c in "\ue000\ue001" else " " for c in plain)
    if language(text) == "zh":
        return "".join(plain.split())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(hypothesis: str, reference: str) -> bool:
    """Tell whether two answers are the same once :func:`normalised`."""
    return normalised(hypothesis) == normalised(reference)


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the Levenshtein distance: insertions, deletions, replacements."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above = row[j]
            row[j] = min(above + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal = above
    return row[-1]


def cer(hypothesis: str, reference: str) -> float:
    """Return the character error rate: edit distance per character of the reference.

    0 is equal; more than 1 is possible for long answers. White space at the ends does not count.
    """
    hypothesis, reference = hypothesis.strip(), reference.strip()
    return edit_distance(hypothesis, reference) / max(len(reference), 1)


def bootstrap_interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    share: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean.

    Paired comparison: pass one difference per question, so that a resample draws questions.

    Args:
        values: one number per question (with ``weights``: a sum per question).
        weights: what each value is a sum over, e.g. tokens; the mean is then
            ``sum(values) / sum(weights)`` of a resample.
        share: probability that the interval covers.
        resamples: how often questions are drawn anew, with replacement.
        seed: of the drawing.

    Raises:
        ValueError: if there is no value.
    """
    sums = np.asarray(values, dtype=np.float64)
    if not sums.size:
        raise ValueError("a bootstrap needs at least one value")
    counts = np.ones_like(sums) if weights is None else np.asarray(weights, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, sums.size, (resamples, sums.size))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
