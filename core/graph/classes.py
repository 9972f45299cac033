"""Classes that a map is made of, and classes that a map splits. No torch in here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.config import DataConfig
from core.data.frozen import freeze, is_frozen, load_frozen
from core.data.ingest import read_isolated
from core.data.types import Example
from core.errors import DataError
from core.graph import use
from core.graph.types import ConceptMap


def examples_of(data: DataConfig) -> tuple[Example, ...]:
    """All examples of a class file, or of a run's frozen data (both sides).

    Raises:
        DataError: if nothing in it can be used.
    """
    path = Path(data.path)
    for folder in (path, path / "data"):
        if is_frozen(folder):
            sides = load_frozen(folder)
            return (*sides.train, *sides.quiz)
    found = read_isolated(
        path, question=data.question, answer=data.answer, sheet=data.sheet, encoding=data.encoding
    )
    return tuple(found.examples)


def freeze_by_concept(
    found: ConceptMap, data: DataConfig, folder: Path, *, seed: int = 0, weighted: bool = False
) -> dict[str, Any]:
    """Freeze a class whose quiz is about concepts that are not learned; ``train --data`` takes it.

    Args:
        found: the map of the class.
        data: the class; ``quiz_share`` and ``max_quiz`` say how large the quiz is.
        folder: to make; empty, or it holds the very same.
        seed: another seed, another quiz.
        weighted: repeat learned examples by the gaps of their concepts (one to three times).

    Returns:
        ``train`` and ``quiz`` (numbers of examples), ``repeated``, ``held[]`` (names of concepts).

    Raises:
        DataError: if the class cannot be read, no concept can be held out, or the folder holds
            something else.
        OSError: if it cannot be written.
    """
    examples = examples_of(data)
    sides = use.split_by_concept(
        found, examples, share=data.quiz_share, largest=data.max_quiz, seed=seed
    )
    held = use.held_concepts(found, sides)
    if not sides.quiz or not held:
        raise DataError(
            "No concept can be kept for the quiz: each is asked about in too many questions.",
            where="class data",
            action="Raise the share of the quiz, add questions, or use the ordinary quiz.",
            code="graph.no_split",
        )
    before = len(sides.train)
    if weighted:
        weights = use.example_weights(found, sides.train)
        sides = replace(sides, train=tuple(use.repeated(sides.train, weights, seed)))
    freeze((*sides.train, *sides.quiz), sides, folder)
    names = sorted(c.name for c in found.concepts if c.id in held)
    counts = {"train": before, "quiz": len(sides.quiz), "repeated": len(sides.train) - before}
    return {**counts, "held": names}
