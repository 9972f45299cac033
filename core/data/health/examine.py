"""The whole examination of a class: one pass over its rows, then what needs all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from core.data.health import letters
from core.data.health.languages import Languages
from core.data.health.leaks import leaks
from core.data.health.private import KINDS, has_secret, kinds_in
from core.data.health.repetition import Repetition
from core.data.health.report import Notebook, Report, Tick, quiet
from core.data.split import Split, asked, normalised
from core.data.types import Example
from core.errors import Problem

LONG = 2048  # characters of English that make about 512 tokens
FOREIGN = 3  # a character outside ASCII takes about as many tokens as three within
MOST_NEAR = 10_000  # examples whose near duplicates are looked for while a file is read
_STEP = 256  # examples between two reports of progress

_PLACEHOLDER = re.compile(r"[\s\W_]*(?:todo|tbd|待补充|待定|略|暂无)?[\s\W_]*", re.IGNORECASE)
_SIGNS = {
    "text.control": letters.control,
    "health.bidi": letters.bidi,
    "health.marks": letters.marks,
    "health.mojibake": letters.mojibake,
    "health.html": letters.debris,
    "health.latex": letters.latex,
}
# A teacher looks at what could harm people first, then at what is wrong, then at what is untidy.
ORDER = (
    "health.one_example",
    *(kind.code for kind in KINDS),
    "health.secrets",
    "health.leak",
    "health.contradictions",
    "health.duplicates",
    "health.near_duplicates",
    "health.empty",
    "health.echo",
    "health.long",
    "health.control_words",
    "health.mixed",
    "health.mojibake",
    "health.html",
    "health.latex",
    "health.bidi",
    "health.marks",
    "text.control",
)


def check(examples: Sequence[Example]) -> tuple[dict[str, Any], list[Problem]]:
    """Look through a class while it is read; see :func:`examine`.

    Near duplicates of a large one are left to the whole examination.

    Returns:
        The counts, and the findings as sentences.
    """
    report = examine(examples, near=len(examples) <= MOST_NEAR)
    return report.counts, report.problems(examples)


def examine(
    examples: Sequence[Example],
    *,
    split: Split | None = None,
    tokens: Iterable[str] = (),
    near: bool = True,
    tick: Tick = quiet,
) -> Report:
    """Look through a class of any size; memory grows by about 130 bytes a row.

    Args:
        examples: the class; may lie on disk, each is asked for a few times.
        split: its two sides, to look for questions of the quiz in what is learned.
        tokens: control tokens of the chosen model, beside those that are known.
        near: look for near duplicates.
        tick: is told the share that is done, 0..1; what it raises ends the examination.

    Returns:
        Counts (``examples, distinct, duplicates, near_duplicates, contradictions, empty, echo,
        long, longest, control, bidi, marks, mojibake, control_words, html, latex, mixed, leaks,
        personal{kind}, secrets``), each in examples, ``longest`` in characters; and the findings.
    """
    notes, repetition, languages = Notebook(), Repetition(), Languages()
    words = letters.control_words(tokens)
    personal: Counter[str] = Counter()
    longest = most = 0
    for i, example in enumerate(examples):
        if not i % _STEP:
            tick(0.6 * i / len(examples))
        question, answer = normalised(asked(example)), normalised(example.answer)
        repetition.see(question, answer)
        languages.see(example.question, example.answer)
        _answered(i, example, (question, answer), notes)
        text = "\n".join(t.content for t in example.turns)
        _letters(i, text, words, notes)
        personal.update(_private(i, text, notes))
        longest = max(longest, size := len(text) - len(example.turns) + 1)
        if _weight(text) > LONG:
            notes.add("health.long", i)
            most = max(most, size)
    notes.say("health.long", (), {"characters": most, "kept": LONG})
    if len(examples) == 1:
        notes.add("health.one_example", 0)
    distinct = repetition.finish(
        examples, notes, near=near, tick=lambda share: tick(0.6 + 0.3 * share)
    )
    notes.say("health.mixed", languages.odd(), {})
    if split is not None:
        notes.say("health.leak", leaks(examples, split, lambda s: tick(0.9 + 0.1 * s)), {})
    tick(1.0)
    measures = {"examples": len(examples), "distinct": distinct, "longest": longest}
    return Report({**measures, **_counts(notes), "personal": dict(personal)}, notes.findings(ORDER))


def _counts(notes: Notebook) -> dict[str, int]:
    names = {code: code.split(".")[1] for code in ORDER if code != "health.one_example"}
    names |= {"health.leak": "leaks"}
    kinds = {kind.code for kind in KINDS}
    return {name: notes.count(code) for code, name in names.items() if code not in kinds}


def _answered(i: int, example: Example, said: tuple[str, str], notes: Notebook) -> None:
    """Look whether an answer says anything beyond its question."""
    if _says_nothing(example.answer) or not example.question.strip():
        notes.add("health.empty", i)
    elif said[0] == said[1]:
        notes.add("health.echo", i)


def _says_nothing(answer: str) -> bool:
    """Say whether an answer is blank or holds a place (a mark alone may well be right)."""
    text = answer.strip()
    return not text or (any(map(str.isalpha, text)) and bool(_PLACEHOLDER.fullmatch(text)))


def _letters(i: int, text: str, words: re.Pattern[str], notes: Notebook) -> None:
    for code, finds in _SIGNS.items():
        if sample := finds(text):
            notes.add(code, i, **({} if code in _WITHOUT_SAMPLE else {"sample": sample}))
    if sample := letters.around(words, text):
        notes.add("health.control_words", i, sample=sample)


_WITHOUT_SAMPLE = ("text.control", "health.bidi", "health.marks")


def _private(i: int, text: str, notes: Notebook) -> list[str]:
    """Note possible personal data and secrets; return the kinds of it."""
    found = kinds_in(text)
    for kind in found:
        notes.add(kind.code, i)
    if has_secret(text):
        notes.add("health.secrets", i)
    return [kind.title for kind in found]


def _weight(text: str) -> int:
    """Return about four times as many as the tokens of a text."""
    if text.isascii():
        return len(text)
    return len(text) + (FOREIGN - 1) * sum(not c.isascii() for c in text)
