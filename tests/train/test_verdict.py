import pytest

from core.train.verdict import verdict

FALLING = [3.0 - 0.1 * k for k in range(20)]


@pytest.mark.parametrize(
    ("losses", "quiz", "word"),
    [
        (FALLING[:2], [(0, 3.0)], "too_early"),
        (FALLING, [(0, 3.0), (10, 2.0), (20, 1.5)], "learning"),
        (FALLING, [(0, 3.0), (10, 2.0), (20, 2.6)], "memorising"),
        ([3.0] * 20, [(0, 3.0), (20, 3.0)], "not_learning"),
    ],
)
def test_the_curves_have_a_plain_word(losses, quiz, word):
    assert verdict(losses, quiz) == word
