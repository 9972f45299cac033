"""Marks of the evaluation suites, each as its task's own scorer counts it. No torch in here.

All are shares 0..1, except BLEU (0..100, ``sacrebleu``) and NIST (``nltk``, no upper bound).
"""

from __future__ import annotations

import importlib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from core.evaluate import binary, metrics

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile(r"[\u4e00-\u9fa5]")
# A minus that follows a digit or a bracket is a subtraction, not a sign.
_NUMBER = re.compile(r"(?:(?<![\d)])-)?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
FINAL = "####"  # what GSM8K writes before its final number

# --- labels -------------------------------------------------------------------------------------


def label_marks(truth: Sequence[int], p: Sequence[float], threshold: float = 0.5) -> dict[str, Any]:
    """``accuracy``, ``f1`` and ``mcc`` of probabilities (n,) of label 1, truth (n,) of 0 and 1."""
    found = binary.confusion(truth, [float(x >= threshold) for x in p])
    return {
        "accuracy": binary.accuracy(found),
        "f1": binary.f1(found),
        "mcc": binary.mcc(found),
        "confusion": found,
    }


# --- spans --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _signs() -> frozenset[str]:
    """Every punctuation character of Unicode, and those of ASCII."""
    # 0x110000 characters take half a second once; only Chinese answers need them.
    listed = (chr(i) for i in range(0x110000))
    return frozenset(c for c in listed if unicodedata.category(c)[0] == "P") | frozenset(
        string.punctuation
    )


def span_tokens(text: str, language: str) -> list[str]:
    """Cut an answer as the official scorers do.

    English as SQuAD v1.1's: lower case, without ASCII punctuation and articles, at spaces. Chinese
    as that of MLQA and XTREME, which marks XQuAD: without any punctuation, each Chinese character a
    token, what stands between them at spaces.

    Args:
        text: an answer.
        language: ``en`` or ``zh``.
    """
    lowered = text.lower()
    if language != "zh":
        plain = "".join(c for c in lowered if c not in string.punctuation)
        return _ARTICLES.sub(" ", plain).split()
    plain = "".join(c for c in lowered if c not in _signs())
    return _HAN.sub(lambda m: f" {m[0]} ", plain).split()


def span_f1(answer: str, reference: str, language: str) -> float:
    """F1 of the tokens that two answers have in common, counted with multiplicity."""
    ours, theirs = span_tokens(answer, language), span_tokens(reference, language)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def span_marks(
    answers: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, float]:
    """``em`` and ``f1``: of each answer that with its best reference, then the mean."""

    def equal(answer: str, reference: str) -> float:
        return float(span_tokens(answer, language) == span_tokens(reference, language))

    def overlap(answer: str, reference: str) -> float:
        return span_f1(answer, reference, language)

    return {
        "em": _best_mean(equal, answers, references),
        "f1": _best_mean(overlap, answers, references),
    }


# --- numbers ------------------------------------------------------------------------------------


def final_number(text: str) -> Fraction | None:
    """The number that an answer ends with; None where there is none.

    What follows the last ``####`` counts if there is a number, else the last one of the whole text.
    Commas between digits, currency and percent signs do not count, 0.5 is 1/2.
    """
    plain = unicodedata.normalize("NFKC", text)
    _, marked, after = plain.rpartition(FINAL)
    found = (_NUMBER.findall(after)[:1] if marked else []) or _NUMBER.findall(plain)
    if not found:
        return None
    over, _, under = found[-1].partition("/")
    value = Fraction(over.replace(",", ""))
    return value / int(under) if under and int(under) else value


def number_marks(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``exact``: the share of answers whose final number is that of the (first) reference."""
    pairs = zip(answers, references, strict=True)
    right = [
        (found := final_number(answer)) is not None and found == final_number(known[0])
        for answer, known in pairs
    ]
    return {"exact": sum(right) / len(right)}


# --- texts --------------------------------------------------------------------------------------


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 (0..100) with any number of references each, case ignored.

    As the E2E challenge's scorer: tokens of ``13a`` (``zh`` for Chinese), no smoothing but
    ``sacrebleu``'s own for absent n-grams.
    """
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references))
    streams = [[known[k] if k < len(known) else None for known in references] for k in range(most)]
    chinese = sum(metrics.language(known[0]) == "zh" for known in references) * 2 > len(references)
    metric: Any = BLEU(lowercase=True, tokenize="zh" if chinese else "13a")
    return float(metric.corpus_score(list(answers), streams).score)


def nist(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """Corpus NIST-5 of ``nltk``, case ignored, on ``13a`` tokens; None where it is not installed.

    Unlike the challenge's ``mteval-v13a`` it takes, for every answer and length of n-gram, the one
    reference that fits best. 0 where no answer has five tokens.
    """
    try:
        score = importlib.import_module("nltk.translate.nist_score").corpus_nist
    except ImportError:
        return None
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    kind: Any = Tokenizer13a
    cut = kind()

    def tokens(text: str) -> list[str]:
        return list(cut(text.lower()).split())

    try:
        found = score(
            [[tokens(r) for r in known] for known in references], list(map(tokens, answers))
        )
    except ZeroDivisionError:  # no answer is as long as the longest n-gram
        return 0.0
    return float(found)


def text_marks(
    answers: Sequence[str], references: Sequence[Sequence[str]], *, with_nist: bool = False
) -> dict[str, float]:
    """``bleu``, ``rouge_l`` (F1), ``cer`` and, if asked for and installed, ``nist``.

    ROUGE-L and the character error rate are those with the best reference, then the mean.
    """
    found = {
        "bleu": bleu(answers, references),
        "rouge_l": _best_mean(metrics.rouge_l, answers, references),
        "cer": -_best_mean(lambda a, r: -metrics.cer(a, r), answers, references),
    }
    if with_nist and (value := nist(answers, references)) is not None:
        found["nist"] = value
    return found


def _best_mean(
    score: Callable[[str, str], float],
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    best = [
        max(score(answer, reference) for reference in known)
        for answer, known in zip(answers, references, strict=True)
    ]
    return sum(best) / len(best)
