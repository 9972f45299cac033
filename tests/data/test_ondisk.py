"""A class on disk: split, frozen and encoded as one in memory is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data import frozen
from core.data import split as small
from core.data.arrow import ArrowExamples, Chosen, ExampleWriter, Joined, TextsOf
from core.data.chat import IGNORED, Encoded
from core.data.frozen import freeze, load_frozen
from core.data.ondisk import split_on_disk
from core.data.tokens import TokensOnDisk
from core.data.types import Example

WORDS = [
    *("river", "mountain", "plant", "number", "letter", "planet"),
    *("animal", "metal", "colour", "shape", "poem", "song"),
]


def examples() -> list[Example]:
    made = []
    for i in range(120):
        text = " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9))
        made.append(Example.pair(f"Question {i}: {text}?", f"Answer {i}.", f"row {i + 2}"))
    for i in range(0, 120, 7):  # the same again, and nearly the same
        made.append(Example.pair(made[i].question, "Another answer.", f"row {len(made) + 2}"))
        made.append(Example.pair(made[i].question.upper(), "A third.", f"row {len(made) + 2}"))
    return made


@pytest.fixture
def stored(tmp_path: Path) -> ArrowExamples:
    with ExampleWriter(tmp_path / "e.arrow") as writer:
        for example in examples():
            writer.add(example)
    return ArrowExamples(tmp_path / "e.arrow")


@pytest.mark.parametrize(("share", "largest"), [(0.1, 40), (0.5, 1000), (0.2, 1), (0, 40)])
def test_the_split_is_that_of_the_same_class_in_memory(
    share: float, largest: int, stored: ArrowExamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "MOST_EXACT", 0)
    told: list[float] = []
    for seed in range(3):
        how = {"share": share, "largest": largest, "seed": seed}
        here = small.split(examples(), **how)  # type: ignore[arg-type]
        there = split_on_disk(stored, **how, tick=told.append)  # type: ignore[arg-type]
        assert (tuple(there.train), tuple(there.quiz)) == (here.train, here.quiz)
        assert there.sha256 == here.sha256
        assert there.problems == here.problems
    assert told == [] or max(told) == 1.0


def test_a_small_class_on_disk_is_split_exactly(stored: ArrowExamples) -> None:
    here = small.split(examples(), share=0.2, largest=40, seed=1)
    assert split_on_disk(stored, share=0.2, largest=40, seed=1) == here


def test_what_a_tick_raises_ends_the_work(
    stored: ArrowExamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "MOST_EXACT", 0)

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split_on_disk(stored, share=0.2, largest=40, seed=1, tick=stop)


def test_a_large_class_is_frozen_and_read_a_line_at_a_time(
    stored: ArrowExamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = small.split(examples(), share=0.2, largest=40, seed=1)
    freeze(examples(), here, tmp_path / "small")
    places = {e.where: i for i, e in enumerate(stored)}
    side = Chosen(stored, np.array([places[e.where] for e in here.train]))
    there = small.Split(side, here.quiz)
    freeze(stored, there, tmp_path / "large")
    for name in ("train.jsonl", "quiz.jsonl", "manifest.json"):
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    monkeypatch.setattr(frozen, "MOST_IN_MEMORY", 10)
    read = load_frozen(tmp_path / "large")
    assert isinstance(read.train, frozen.Lines)
    assert (tuple(read.train), tuple(read.quiz)) == (here.train, here.quiz)
    assert [read.train[i] for i in (0, 5, -1)] == [here.train[i] for i in (0, 5, -1)]
    assert read.train[3:5] == list(here.train[3:5])
    with pytest.raises(IndexError):
        read.train[len(here.train)]


def test_two_sides_are_one_sequence() -> None:
    both = Joined(examples()[:3], examples()[3:5])
    assert [both[i] for i in range(-5, 5)] == examples()[:5] * 2
    assert [*both] == [*both[:]] == examples()[:5]
    with pytest.raises(IndexError):
        both[5]


def test_texts_are_made_when_asked_for() -> None:
    texts = TextsOf(examples(), lambda e: e.answer)
    assert len(texts) == len(examples())
    assert [*texts[1:3]] == ["Answer 1.", "Answer 2."]


ENCODED = [
    Encoded([5, 6, 7], [IGNORED, 6, 7]),
    Encoded([8], [IGNORED], cut=True),
    Encoded([9, 1, 2, 3], [IGNORED, IGNORED, 2, 3]),
]


def test_tokens_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    stored = TokensOnDisk(iter(ENCODED), tmp_path)
    assert [*stored] == ENCODED
    assert [stored[i] for i in range(-3, 3)] == ENCODED * 2
    assert stored[1:] == ENCODED[1:]
    with pytest.raises(IndexError):
        stored[3]
    assert len([*tmp_path.iterdir()]) == 1
    del stored
    assert [*tmp_path.iterdir()] == []


def test_no_tokens_are_no_example(tmp_path: Path) -> None:
    assert [*TokensOnDisk([], tmp_path)] == []
