"""Texts with gaps: Moodle's embedded answers (cloze), numbered gaps, and gaps in brackets.

The syntax is that of Moodle's documentation, "Embedded Answers (Cloze) question type":
``{1:SHORTANSWER:=right#feedback~wrong~%50%half}``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.data.ingest.questions import gap, numbered

_SHORT = ("SHORTANSWER", "SA", "MW", "SHORTANSWER_C", "SAC", "MWC")
_NUMERIC = ("NUMERICAL", "NM")
_KIND = re.compile(r"\{\d{0,5}:([A-Z_]{2,20}):")
_WEIGHT = re.compile(r"%(-?\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Gap:
    """A gap: what belongs into it, what it offers, and what its author says about it."""

    answer: str
    choices: tuple[str, ...] = ()
    feedback: str = ""


def read_cloze(text: str) -> tuple[str, str, str]:
    """Return a cloze text with gaps instead of its answers, the answers, and the feedback.

    A gap without a right answer makes the answer empty.
    """
    pieces: list[str] = []
    gaps: list[Gap] = []
    at = 0
    while found := _KIND.search(text, at):
        end = _end(text, found.end())
        if end < 0:
            break
        pieces.append(text[at : found.start()])
        gaps.append(_gap(found[1], text[found.end() : end]))
        at = end + 1
    pieces.append(text[at:])
    return filled(pieces, gaps)


def filled(pieces: Sequence[str], gaps: Sequence[Gap]) -> tuple[str, str, str]:
    """Put gaps between pieces of text; returns the text, the answers and the feedback."""
    if not gaps:
        return "".join(pieces).strip(), "", ""
    marks = [gap(i, len(gaps), g.choices) for i, g in enumerate(gaps, 1)]
    text = "".join(p + m for p, m in zip(pieces, [*marks, ""], strict=True)).strip()
    answers = [g.answer for g in gaps]
    feedback = "\n".join(g.feedback for g in gaps if g.feedback)
    return text, numbered(answers) if all(answers) else "", feedback


def numbered_gaps(text: str, words: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return a text whose gaps are ``[[1]]``, ``[[2]]``, the numbers of words, and the answers.

    Args:
        text: with the gaps.
        words: each word and its group; the words of a gap's group are its choices.
    """
    pieces = re.split(r"\[\[(\d{1,3})\]\]", text)
    gaps = []
    for number in map(int, pieces[1::2]):
        word, group = words[number - 1] if 0 < number <= len(words) else ("", "")
        choices = tuple(dict.fromkeys(w for w, g in words if g == group)) if word else ()
        gaps.append(Gap(word, choices if len(choices) > 1 else ()))
    shown, answer, _ = filled(pieces[::2], gaps)
    return shown, answer


def bracketed_gaps(
    text: str, brackets: str, wrong: Sequence[str], *, offered: bool, patterns: bool
) -> tuple[str, str]:
    """Return a text whose gaps hold their answers in brackets (``The cat [sat]``), and the answers.

    Args:
        text: with the gaps; ``[a|b]`` counts both as right, ``[!!]`` is one to leave empty.
        brackets: the two characters around an answer.
        wrong: further words to choose from.
        offered: whether the words are shown.
        patterns: whether answers are regular expressions; a word that fits is shown for them.
    """
    left, right = map(re.escape, brackets)
    pieces = re.split(f"{left}([^{left}{right}]{{1,500}}){right}", text)
    answers: list[str] = []
    for inside in pieces[1::2]:
        words = [_word(w) if patterns else w.strip() for w in inside.split("|")]
        words = [w for w in words if w != "!!"] or ["–"]
        # where several gaps take the same words, each gets another one
        answers.append(next((w for w in words if w not in answers or len(words) == 1), words[0]))
    shown, answer, _ = filled(pieces[::2], [Gap(a) for a in answers])
    if offered and answers:
        choices = sorted({*answers, *(w for w in wrong if w)} - {"–"}, key=str.casefold)
        shown = f"{shown}\n[{' / '.join(choices)}]"
    return shown, answer


def _word(pattern: str) -> str:
    """Return a word that a simple regular expression stands for (``colou?r`` is ``colour``)."""
    spaced = re.sub(r"\\s[+*?]?", " ", pattern.strip())
    certain = re.sub(r"(?<=\w)\?", "", spaced)
    return re.sub(r"\\(\W)", r"\1", certain)


def _end(text: str, start: int) -> int:
    """Return where the brace that closes a gap stands; -1 if none does."""
    at = start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "}":
            return at
        at += 1
    return -1


def _gap(kind: str, inside: str) -> Gap:
    answers: list[tuple[float, str, str]] = []
    for piece in re.split(r"(?<!\\)~", inside):
        body = piece.strip()
        weight = 100.0 if body.startswith("=") else 0.0
        body = body.removeprefix("=")
        if found := _WEIGHT.match(body):
            weight, body = float(found[1]), body[found.end() :]
        answer, _, feedback = _split(body)
        answers.append((weight, answer, feedback))
    best = max(answers, key=lambda a: a[0])
    right = best[1] if best[0] > 0 else ""
    if kind in _NUMERIC:
        right = right.partition(":")[0].strip()
    offered = kind not in (*_SHORT, *_NUMERIC)
    multiple = kind.startswith(("MULTIRESPONSE", "MR"))
    if multiple:
        right = ", ".join(a for w, a, _ in answers if w > 0)
    choices = tuple(a for _, a, _ in answers if a) if offered else ()
    return Gap(right, choices, best[2] if best[0] > 0 else "")


def _split(body: str) -> tuple[str, str, str]:
    answer, mark, feedback = re.sub(r"(?<!\\)#", "\0", body, count=1).partition("\0")
    return _unescaped(answer), mark, _unescaped(feedback)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([{}#~/\"\\=])", r"\1", text).strip()
