"""Cards and trivia as text: Quizlet's ``term---definition``, OpenTriviaQA's ``#Q`` and ``^``."""

from __future__ import annotations

import re

from core.data.ingest.questions import Found, Question
from core.data.messages import Findings, data_error

SEPARATORS = ("---", " :: ", "::", " – ", " — ", " - ", " = ")  # tabs are read as a table
_SURE = 3  # the first separators hardly ever stand in a text of another kind
SAMPLE_LINES = 200
LONGEST_TERM = 8  # words, where the separator stands in sentences too


def card_separator(text: str) -> str:
    """Return what parts term and definition in a list of cards; empty if it is no such list.

    Nearly every line must hold the separator exactly once; that of a weaker kind must leave terms
    of a few words, since sentences have dashes too.
    """
    lines = [line for line in text[: 1 << 16].splitlines() if line.strip()][:SAMPLE_LINES]
    for i, separator in enumerate(SEPARATORS):
        parted = [line.split(separator) for line in lines]
        good = [p for p in parted if len(p) == 2 and p[0].strip() and p[1].strip()]
        if len(good) < 2:
            continue
        terms = all(len(p[0].split()) <= LONGEST_TERM for p in good)
        weak = len(good) >= 0.95 * len(lines) and terms and not _is_regular(lines)
        if weak or (i < _SURE and len(good) >= 0.6 * len(lines)):
            return separator
    return ""


def _is_regular(lines: list[str]) -> bool:
    """Say whether lines are rows of a table: as many commas (or the like) in each."""
    return any(0 not in (n := {line.count(d) for line in lines}) and len(n) == 1 for d in ",;\t|")


def read_cards(text: str, findings: Findings) -> Found:
    """Return each term with its definition; a line without a separator goes on with the last one.

    Raises:
        DataError: if no line has a separator.
    """
    separator = card_separator(text)
    if not separator:
        raise data_error("question.none")
    cards: list[tuple[str, list[str], str]] = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        term, mark, definition = line.partition(separator)
        if mark and term.strip():
            cards.append((term.strip(), [definition.strip()], f"line {number}"))
        elif line.strip() and cards:
            cards[-1][1].append(line.strip())
        elif line.strip():
            findings.add("question.stray", f"line {number}")
    return Found("quizlet", tuple(Question(t, "\n".join(d).strip(), w) for t, d, w in cards))


def looks_like_trivia(text: str) -> bool:
    """Say whether a text has OpenTriviaQA's questions and right answers."""
    sample = text[: 1 << 16]
    return bool(re.search(r"^#Q .*", sample, re.M) and re.search(r"^\^ ?\S", sample, re.M))


def read_trivia(text: str, findings: Findings) -> Found:
    """Return OpenTriviaQA's questions: ``#Q`` question, ``^`` answer, ``A`` .. ``D`` options."""
    questions = []
    blocks = re.split(r"^#Q[ \t]*", text.lstrip("\ufeff"), flags=re.MULTILINE)
    line = 1 + blocks[0].count("\n")
    if blocks[0].strip():
        findings.add("question.stray", "line 1")
    for block in blocks[1:]:
        questions.append(_trivia(block, f"line {line}", findings))
        line += block.count("\n")
    return Found("opentriviaqa", tuple(questions))


def _trivia(block: str, where: str, findings: Findings) -> Question:
    stem: list[str] = []
    options: list[str] = []
    answer: str | None = None
    for line in block.splitlines():
        option = re.match(r"([A-Z]) (.*)", line)
        if answer is None and line.startswith("^"):
            answer = line[1:].strip()
        elif answer is not None and option and ord(option[1]) - 65 == len(options):
            options.append(option[2].strip())
        elif answer is None:
            stem.append(line.rstrip())
        elif line.strip() and options:
            options[-1] = f"{options[-1]} {line.strip()}"
        elif line.strip():
            answer = f"{answer}\n{line.strip()}".strip()
    if answer and options and answer not in options:
        near = [o for o in options if o.casefold() == answer.casefold()]
        if not near:
            findings.add("question.bad_answer", where, answer=answer)
        answer = near[0] if near else ""
    return Question("\n".join(stem).strip(), answer or "", where, tuple(options))
