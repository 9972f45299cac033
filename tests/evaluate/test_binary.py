"""Marks of yes-or-no answers: the definitions of scikit-learn, and the threshold."""

import numpy as np
import pytest
from sklearn import metrics

from core.evaluate import binary

CASES = [np.random.default_rng(seed) for seed in range(6)]


def drawn(rng, n=80):
    truth = (rng.random(n) < 0.35).astype(int)
    p = np.clip(0.35 * truth + rng.random(n) * 0.65, 0, 1)
    return truth, np.round(p, 2)  # rounded: ties


@pytest.mark.parametrize("rng", CASES)
def test_marks_equal_those_of_scikit_learn(rng):
    truth, p = drawn(rng)
    said = binary.marks(truth.tolist(), p.tolist(), 0.5)
    verdict = p >= 0.5
    tn, fp, fn, tp = metrics.confusion_matrix(truth, verdict).ravel()
    assert said["confusion"] == {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    expected = {
        "accuracy": metrics.accuracy_score(truth, verdict),
        "f1": metrics.f1_score(truth, verdict),
        "mcc": metrics.matthews_corrcoef(truth, verdict),
        "auc": metrics.roc_auc_score(truth, p),
        "pr_auc": metrics.average_precision_score(truth, p),
        "nll": metrics.log_loss(truth, np.clip(p, 1e-12, 1 - 1e-12)),
    }
    assert {k: said[k] for k in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rng", CASES)
def test_marks_by_their_definitions(rng):
    """What scikit-learn computes cleverly, counted pair by pair: holds without it, too."""
    truth, p = drawn(rng, 30)
    ones, zeros = p[truth == 1], p[truth == 0]
    wins = sum((a > b) + (a == b) / 2 for a in ones for b in zeros)
    assert binary.roc_auc(truth, p) == pytest.approx(wins / (len(ones) * len(zeros)))
    area, before = 0.0, 0.0
    for cut in sorted(set(p), reverse=True):
        hit, named = ((p >= cut) & (truth == 1)).sum(), (p >= cut).sum()
        recall = hit / len(ones)
        area, before = area + (recall - before) * hit / named, recall
    assert binary.pr_auc(truth, p) == pytest.approx(area)
    error = 0.0
    for k in range(10):
        inside = (np.minimum((p * 10).astype(int), 9)) == k
        if inside.any():
            error += inside.mean() * abs(truth[inside].mean() - p[inside].mean())
    assert binary.ece(truth, p) == pytest.approx(error)


def test_a_mark_whose_factor_is_zero_is_zero():
    assert binary.mcc(binary.confusion([1, 1, 0], [1, 1, 1])) == 0.0
    assert binary.f1(binary.confusion([0, 0], [0, 0])) == 0.0


@pytest.mark.parametrize("rng", CASES)
def test_no_threshold_has_a_higher_mcc_than_the_chosen_one(rng):
    truth, p = drawn(rng)
    chosen = binary.mcc(binary.confusion(truth, p >= binary.best_threshold(truth, p)))
    for cut in np.linspace(-0.01, 1.01, 2000):
        assert binary.mcc(binary.confusion(truth, p >= cut)) <= chosen + 1e-12


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_taken():
    assert binary.best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == 0.5
    assert binary.best_threshold([1, 1], [0.2, 0.3]) == 0.5
