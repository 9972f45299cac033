"""What a trained pair model is asked: two questions, a file of pairs, a class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.config import DataConfig
from core.data.frozen import is_frozen, load_frozen
from core.data.ingest import large, read_isolated
from core.data.pairs import Pair, is_frozen_pairs, load_pairs, read_pairs
from core.errors import ConfigError, DataError
from core.evaluate.binary import marks
from core.pairs.duplicates import MOST_QUESTIONS, document, find_duplicates
from core.pairs.store import Trained
from core.pairs.train import probabilities

Share = Callable[[float], None]


def ask(trained: Trained, first: str, second: str) -> dict[str, Any]:
    """Whether two questions mean the same: ``probability``, ``threshold``, ``same``.

    Raises:
        ConfigError: if one of them is empty.
    """
    if not first.strip() or not second.strip():
        raise ConfigError(
            "Two questions are needed.",
            where="questions",
            action="Write both of them.",
            code="pairs.empty_question",
        )
    p = trained.same(first.strip(), second.strip())
    return {"probability": p, "threshold": trained.threshold, "same": p >= trained.threshold}


def read_labelled(data: DataConfig) -> tuple[Pair, ...]:
    """The pairs of a file; of a run's frozen pairs those that were only marked.

    Raises:
        DataError: if nothing in it can be used.
    """
    path = Path(data.path)
    for folder in (path, path / "data"):
        if is_frozen_pairs(folder):
            return load_pairs(folder).test
    return read_pairs(path, sheet=data.sheet, encoding=data.encoding).pairs


def evaluate(trained: Trained, pairs: tuple[Pair, ...], on_share: Share) -> dict[str, Any]:
    """Marks of a model on labelled pairs, at its own threshold."""
    done = 0

    def hear(count: int) -> None:
        nonlocal done
        done += count
        on_share(done / len(pairs))

    found = probabilities(trained.model, trained.encoder, pairs, hear)
    return {"task": "pairs", **marks([p.same for p in pairs], found, trained.threshold)}


def duplicates(trained: Trained, data: DataConfig, on_share: Share) -> dict[str, Any]:
    """Questions of a class that were asked before (see :mod:`core.pairs.duplicates`).

    Raises:
        DataError: if the class cannot be read, or is larger than can be compared.
    """
    listed = questions_of(data)
    if len(listed) > MOST_QUESTIONS:
        raise DataError(
            f"The class has {len(listed)} questions; at most {MOST_QUESTIONS} are compared.",
            where=Path(data.path).name,
            action="Split the file.",
            code="pairs.too_many",
        )
    questions, where = [q for q, _ in listed], [w for _, w in listed]
    found = find_duplicates(trained, questions, on_share=on_share)
    return document(found, questions, where, trained.threshold)


def questions_of(data: DataConfig) -> list[tuple[str, str]]:
    """The questions of a class and their places.

    Raises:
        DataError: if nothing in it can be used.
    """
    path = Path(data.path)
    if large.is_imported(path):
        return [(e.question, e.where) for e in large.load(path).examples]
    for folder in (path, path / "data"):
        if is_frozen(folder):
            sides = load_frozen(folder)
            return [(e.question, e.where) for e in (*sides.train, *sides.quiz)]
    found = read_isolated(path, **data.reading())
    return [(e.question, e.where) for e in found.examples]
