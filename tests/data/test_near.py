from __future__ import annotations

import random

import pytest

from core.data.near import likely_pairs
from core.data.split import DisjointSets, near_pairs

WORDS = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(400)]


def class_of(n: int, seed: int) -> list[str]:
    """Distinct texts of 8 to 25 words, a third of them a changed copy of an earlier one."""
    random_ = random.Random(seed)
    texts: list[str] = []
    while len(texts) < n:
        if texts and random_.random() < 0.33:
            words = random_.choice(texts).split()
            words[random_.randrange(len(words))] = random_.choice(WORDS)
        else:
            words = random_.choices(WORDS, k=random_.randint(8, 25))
        if (text := " ".join(words)) not in texts:
            texts.append(text)
    return sorted(texts)


def groups(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    joined = DisjointSets(n)
    for a, b in pairs:
        joined.join(a, b)
    return [joined.find(i) for i in range(n)]


def test_nearly_all_pairs_of_the_exact_search_are_found_and_no_others() -> None:
    texts = class_of(1500, 1)
    exact, likely = list(near_pairs(texts)), list(likely_pairs(texts))
    assert len(exact) > 100
    assert set(likely) <= set(exact)
    apart = groups(len(texts), likely)
    missed = [pair for pair in exact if apart[pair[0]] != apart[pair[1]]]
    assert len(missed) <= 0.01 * len(exact)


def test_the_search_is_the_same_every_time_and_each_pair_is_named_once() -> None:
    texts = class_of(300, 2)
    found = list(likely_pairs(texts))
    assert found == list(likely_pairs(texts))
    assert len(set(found)) == len(found)
    assert all(a < b for a, b in found)


def test_other_numbers_make_other_questions() -> None:
    long = "please work out without a calculator the following sum and write it down"
    texts = [f"{long} {n} + {n + 1}" for n in range(50)]
    assert list(likely_pairs(texts)) == []


def test_an_instruction_that_all_rows_share_makes_none_alike() -> None:
    common = "read the text below carefully and then answer in one short sentence of your own"
    texts = [f"{common} {a} {b}" for a, b in zip(WORDS[:60], WORDS[100:160], strict=True)]
    assert list(likely_pairs(texts)) == []


@pytest.mark.parametrize("texts", [[], ["one"], ["", "?"], ["a"] * 1])
def test_few_and_empty_texts(texts: list[str]) -> None:
    assert list(likely_pairs(texts)) == []
