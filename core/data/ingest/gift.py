"""GIFT, the text format of Moodle: one question a paragraph, its answers in braces.

After Moodle's ``question/format/gift/format.php`` and its documentation "GIFT format". What a
question is called there (MC, TF, Short, Numerical, Matching, Essay, Description) is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from core.data.ingest.choices import joined
from core.data.ingest.markup import plain
from core.data.ingest.questions import Found, Question, match_texts
from core.data.messages import Findings

BLANK = "_____"  # what a missing word is shown as

_TITLE = re.compile(r"\s*::(.*?)(?<!\\)::", re.DOTALL)
_FORMAT = re.compile(r"\s*\[(html|markdown|moodle|plain)\]", re.IGNORECASE)
_WEIGHT = re.compile(r"\s*%(-?\d+(?:\.\d+)?)%")
_TRUTH = re.compile(r"\s*(TRUE|T|FALSE|F)\s*(?=$|(?<!\\)#)", re.IGNORECASE)
_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*(?:(:|\.\.)\s*({_NUMBER}))?\s*$")
_ESCAPED = re.compile(r"\\([~=#{}:\\n])")


@dataclass(frozen=True)
class Choice:
    """An answer: whether ``=`` stands before it, its weight in percent, and its feedback."""

    right: bool
    text: str
    weight: float | None = None
    feedback: str = ""


@dataclass(frozen=True)
class Number:
    """A right number: ``low`` and ``high`` end its range; ``middle`` is empty for ``low..high``."""

    middle: str
    tolerance: str = ""
    low: str = ""
    high: str = ""

    @property
    def text(self) -> str:
        """The number, or its range."""
        return self.middle or f"{self.low} – {self.high}"


@dataclass(frozen=True)
class Gift:
    """A question as GIFT says it; ``line`` is where it starts.

    Attributes:
        kind: MC, TF, Short, Numerical, Matching, Essay or Description.
        title: its name, if it has one.
        format: of its texts: moodle, html, markdown or plain.
        stem: what is asked; a missing word is ``_____``.
        embedded: whether there is text after the answers.
        choices: of MC, Short and Numerical.
        numbers: what the choices of Numerical mean, in the same order.
        pairs: of Matching.
        true: of TF.
        wrong_feedback: of TF, for the other choice; ``right_feedback`` for this one.
        feedback: on the question as a whole.
        topic: category.
    """

    kind: str
    stem: str
    line: int
    title: str = ""
    format: str = "moodle"
    embedded: bool = False
    choices: tuple[Choice, ...] = ()
    numbers: tuple[Number, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    true: bool = False
    wrong_feedback: str = ""
    right_feedback: str = ""
    feedback: str = ""
    topic: str = ""


class GiftError(ValueError):
    """Why a paragraph is no question."""


def read_gift(text: str, findings: Findings) -> Found:
    """Return the questions of a GIFT file; a paragraph that is none is named and left out."""
    questions = []
    for gift in parse_gift(text, findings):
        if gift.kind == "Description":
            findings.add("question.description", f"line {gift.line}")
        else:
            questions.append(_question(gift, findings))
    return Found("gift", tuple(questions))


def looks_like_gift(text: str) -> bool:
    """Say whether most paragraphs of a text are GIFT questions with answers."""
    sample = text[: 1 << 16]
    if not re.search(r"(?<!\\)\{\s*(?:[=~#}]|(?:TRUE|FALSE|T|F)\s*[#}])", sample):
        return False
    told = Findings()
    found = list(parse_gift(sample, told))
    answered = sum(g.kind != "Description" for g in found)
    bad = sum(len(p.where.split(",")) for p in told.problems())
    return answered > 0 and answered * 2 >= len(found) and bad <= answered


def parse_gift(text: str, findings: Findings) -> Iterator[Gift]:
    """Yield what each paragraph says; see :func:`read_gift`."""
    topic = ""
    for line, paragraph in _paragraphs(text):
        if found := re.match(r"\s*\$CATEGORY:\s*(.*)", paragraph):
            steps = [s for s in found[1].strip().split("/") if s and not s.startswith("$")]
            topic = " / ".join(steps)
            paragraph = paragraph[found.end() :]
            if not paragraph.strip():
                continue
        try:
            yield replace(_parsed(paragraph, line), topic=topic)
        except GiftError as error:
            findings.add("question.bad_block", f"line {line}", fault=str(error))


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and their first lines; blank lines inside braces end nothing."""
    lines: list[str] = []
    start, depth = 1, 0
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        if line.lstrip().startswith("//"):
            continue
        if not line.strip() and (depth <= 0 or not lines):
            if lines:
                yield start, "\n".join(lines)
            lines, depth = [], 0
            continue
        if not lines:
            start = number
        if depth > 0 and _starts_anew(line):
            yield start, "\n".join(lines)  # its brace was never closed
            lines, depth, start = [], 0, number
        lines.append(line)
        bare = re.sub(r"\\.", "", line)
        depth += bare.count("{") - bare.count("}")
    if lines:
        yield start, "\n".join(lines)


def _starts_anew(line: str) -> bool:
    return line.startswith(("::", "$CATEGORY:"))


def _parsed(paragraph: str, line: int) -> Gift:
    title, rest = "", paragraph
    if found := _TITLE.match(rest):
        title, rest = _plain(found[1]), rest[found.end() :]
    style = "moodle"
    if found := _FORMAT.match(rest):
        style, rest = found[1].casefold(), rest[found.end() :]
    opened = _position(rest, "{")
    if opened < 0:
        if _position(rest, "}") >= 0:
            raise GiftError("a brace is closed that was never opened")
        return Gift("Description", _plain(rest), line, title, style)
    closed = _position(rest, "}", opened)
    if closed < 0:
        raise GiftError("the brace of its answers is never closed")
    before, inside, after = rest[:opened], rest[opened + 1 : closed], rest[closed + 1 :]
    if _position(after, "{") >= 0:
        raise GiftError("it has answers in two places")
    embedded = bool(after.strip())
    stem = f"{before.rstrip()} {BLANK} {after.strip()}" if embedded else before
    start = Gift("Essay", _plain(stem), line, title, style, embedded)
    inside, feedback = _split(inside, "####")
    return _answered(replace(start, feedback=_plain(feedback)), inside)


def _answered(start: Gift, inside: str) -> Gift:
    """Return a question with what its braces say."""
    if not inside.strip():
        return start
    if found := _TRUTH.match(inside):
        wrong, right = _split(_split(inside[found.end() :], "#")[1], "#")
        return replace(
            start,
            kind="TF",
            true=found[1].upper().startswith("T"),
            wrong_feedback=_plain(wrong),
            right_feedback=_plain(right),
        )
    if inside.lstrip().startswith("#"):
        return _numerical(start, inside.lstrip()[1:])
    choices = tuple(_choices(inside))
    if not choices:
        raise GiftError("its answers have neither = nor ~ before them")
    if all(c.right for c in choices) and all(_position(c.text, "->") > 0 for c in choices):
        pairs = [_split(c.text, "->") for c in choices]
        return replace(
            start, kind="Matching", pairs=tuple((_plain(a), _plain(b)) for a, b in pairs)
        )
    cleaned = tuple(replace(c, text=_plain(c.text), feedback=_plain(c.feedback)) for c in choices)
    return replace(start, kind="Short" if all(c.right for c in choices) else "MC", choices=cleaned)


def _numerical(start: Gift, inside: str) -> Gift:
    choices = list(_choices(inside))
    if not choices:
        text, feedback = _split(inside, "#")
        choices = [Choice(True, text, None, feedback)]
    numbers = [_number(c.text) if c.right else Number("") for c in choices]
    cleaned = (replace(c, text=_plain(c.text), feedback=_plain(c.feedback)) for c in choices)
    return replace(start, kind="Numerical", choices=tuple(cleaned), numbers=tuple(numbers))


def _number(text: str) -> Number:
    found = _RANGE.match(text)
    if not found:
        raise GiftError(f"{text.strip()!r} is no number")
    if found[2] == "..":
        return Number("", "", found[1], found[3])
    return Number(found[1], found[3] or "")


def _choices(inside: str) -> Iterator[Choice]:
    """Yield the answers: each begins with ``=`` or ``~``."""
    starts = [m.start() for m in re.finditer(r"\\.|[=~]", inside, re.DOTALL) if m[0] in "=~"]
    if starts and inside[: starts[0]].strip():
        raise GiftError(f"{inside[: starts[0]].strip()[:40]!r} stands before the answers")
    for at, end in pairwise([*starts, len(inside)]):
        body, feedback = _split(inside[at + 1 : end], "#")
        weight = None
        if found := _WEIGHT.match(body):
            weight, body = float(found[1]), body[found.end() :]
        yield Choice(inside[at] == "=", body, weight, feedback)


def _position(text: str, mark: str, start: int = 0) -> int:
    """Return where a mark stands that no backslash takes its meaning from; -1 if nowhere."""
    for found in re.compile(rf"\\.|{re.escape(mark)}", re.DOTALL).finditer(text, start):
        if found[0] == mark:
            return found.start()
    return -1


def _split(text: str, mark: str) -> tuple[str, str]:
    at = _position(text, mark)
    return (text, "") if at < 0 else (text[:at], text[at + len(mark) :])


def _plain(text: str) -> str:
    """Return a text without escapes, its line breaks as spaces; an escaped ``n`` makes one."""
    spaced = re.sub(r"\s+", " ", text).strip()
    return _ESCAPED.sub(lambda m: "\n" if m[1] == "n" else m[1], spaced)


def _question(gift: Gift, findings: Findings) -> Question:
    where = f"line {gift.line}"

    def shown(text: str) -> str:
        return text if gift.format in ("markdown", "plain") else plain(text, findings, where)

    stem = re.sub(rf"(?<=[.。!?？:：]) {BLANK} [.。]$", "", gift.stem)  # a stop after the braces
    start = Question(shown(stem), "", where, explanation=_said(gift, shown), topic=gift.topic)
    right = _right(gift)
    if gift.kind == "TF":
        return replace(start, answer="True" if gift.true else "False")
    if gift.kind == "Matching":
        pairs = [(shown(a), shown(b)) for a, b in gift.pairs]
        known, extra = [p for p in pairs if p[0]], [b for a, b in pairs if not a]
        text, answer = match_texts(start.text, known, extra)
        return replace(start, text=text, answer=answer)
    if gift.kind == "MC":
        options = tuple(shown(c.text) for c in gift.choices)
        return replace(start, answer=joined([shown(c.text) for c in right]), options=options)
    names = {c: shown(n) for c, n in zip(gift.choices, _names(gift), strict=True)}
    answers = list(dict.fromkeys(names[c] for c in right))
    partly = [c for c in gift.choices if c.right and c not in right and c.weight]
    others = [*answers[1:], *_tolerances(gift), *(f"{names[c]} ({c.weight:g}%)" for c in partly)]
    return replace(start, answer="".join(answers[:1]), others=tuple(others))


def _said(gift: Gift, shown: Callable[[str], str]) -> str:
    """Return the feedback: on what is right, on the question, on each wrong answer by its name."""
    right, names = _right(gift), dict(zip(gift.choices, _names(gift), strict=False))
    said = [gift.right_feedback or gift.wrong_feedback, *(c.feedback for c in right), gift.feedback]
    texts = [shown(s) for s in said]
    for choice in gift.choices:
        if choice not in right and choice.feedback:
            named = f"{shown(names[choice])}: {shown(choice.feedback)}"
            texts.append(named.removeprefix(": "))
    return "\n".join(dict.fromkeys(filter(None, texts)))


def _tolerances(gift: Gift) -> list[str]:
    """Return by how much right numbers may be missed."""
    right = _right(gift)
    return [
        f"{number.middle} ± {number.tolerance}"
        for choice, number in zip(gift.choices, gift.numbers, strict=False)
        if choice in right and number.tolerance.strip("0.")
    ]


def _right(gift: Gift) -> list[Choice]:
    """Return the choices that are right: those with ``=``, else all that add to the mark."""
    marked = [c for c in gift.choices if c.right]
    if not marked:
        return [c for c in gift.choices if (c.weight or 0) > 0]
    best = max(100.0 if c.weight is None else c.weight for c in marked)
    return [c for c in marked if (100.0 if c.weight is None else c.weight) == best and best > 0]


def _names(gift: Gift) -> list[str]:
    if gift.kind == "Numerical":
        return [n.text for n in gift.numbers]
    return [c.text for c in gift.choices]
