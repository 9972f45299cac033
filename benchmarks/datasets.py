"""The classes that are learned: one of our own, two public ones beside the checkout, or any file.

The public data are for measuring only and not part of the project: they are read from ``shared/``
beside the checkout, and left out with a sentence where that folder is absent. No torch in here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from core.data import frozen
from core.data.ingest import read_isolated
from core.data.split import Split, split
from core.data.types import Example
from core.errors import DataError
from core.home import ASSETS, CHECKOUT

SHARED = CHECKOUT.parent / "shared" / "data"
PUBLIC = {
    "gsm8k": Path("gsm8k", "train.jsonl"),
    "zh": Path("alpaca", "llamafactory_alpaca_zh_demo.jsonl"),
}
OWN = {"english": ASSETS / "samples" / "english.csv", "chinese": ASSETS / "samples" / "chinese.csv"}
EXAMPLES, QUIZ = 280, 40  # of a larger file so many are drawn; so many of them, at most, are asked
QUIZ_SHARE = 0.15
TEMPLATE_TOKENS = 64  # left for what a chat template writes around a question and its answer
SEED = 0  # of the examples drawn and of the quiz: the same for all runs


@dataclass(frozen=True)
class Lesson:
    """Frozen data of one model and one class.

    Attributes:
        name: of the class, for files and tables.
        folder: the frozen data.
        sides: what is learned and what is asked.
        found: examples in the file.
        fitting: how many of them are short enough for the model.
    """

    name: str
    folder: Path
    sides: Split
    found: int
    fitting: int


def path_of(name: str, shared: Path = SHARED) -> Path:
    """Return the file of a class: a name of ours, a public one's, or a path.

    Raises:
        DataError: if it is not there.
    """
    path = shared / PUBLIC[name] if name in PUBLIC else OWN.get(name, Path(name))
    if not path.is_file():
        raise DataError(
            f"The data set {name!r} is not on this machine.",
            where="--datasets",
            action="Put it into shared/data beside the checkout, name that folder with --shared, "
            "or choose another.",
        )
    return path


def label(name: str) -> str:
    """Return the short name of a class: what was asked for, or a file's stem."""
    return name if name in PUBLIC or name in OWN else Path(name).stem


def drawn(
    examples: Sequence[Example], count: Callable[[str], int], max_length: int, number: int
) -> tuple[list[Example], int]:
    """Return at most ``number`` of the examples that fit, in the file's order, and how many fit.

    Args:
        examples: the whole file.
        count: tokens of a text.
        max_length: most tokens of an example, template included.
        number: most examples to draw; by :data:`SEED`.
    """
    room = max_length - TEMPLATE_TOKENS
    fitting = [e for e in examples if sum(count(t.content) for t in e.turns) <= room]
    if len(fitting) <= number:
        return fitting, len(fitting)
    chosen = sorted(random.Random(SEED).sample(range(len(fitting)), number))
    return [fitting[k] for k in chosen], len(fitting)


def prepare(
    name: str,
    model: Path,
    folder: Path,
    *,
    max_length: int,
    number: int = EXAMPLES,
    quiz: int = QUIZ,
    shared: Path = SHARED,
) -> Lesson:
    """Draw examples that fit this model's tokens, hold a quiz out and freeze both.

    Our own samples are taken whole; longer answers are cut there, as in the studio.

    Raises:
        DataError: if the file is absent or holds nothing that fits.
    """
    found = read_isolated(path_of(name, shared)).examples
    examples, fitting = list(found), len(found)
    if name not in OWN:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        examples, fitting = drawn(
            found,
            lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
            max_length,
            number,
        )
    if not examples:
        raise DataError(
            f"No example of {label(name)!r} fits into {max_length} tokens.",
            where="--datasets",
            action="Raise --max-length.",
        )
    sides = split(examples, share=QUIZ_SHARE, largest=quiz, seed=SEED)
    frozen.freeze(examples, sides, folder)
    return Lesson(label(name), folder, sides, len(found), fitting)
