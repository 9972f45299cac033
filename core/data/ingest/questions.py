"""Questions of whatever format in one shape, and the table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.data.ingest.choices import joined, with_options
from core.data.ingest.table import Row
from core.data.messages import Findings, data_error
from core.data.types import Example

GAP = "____"


@dataclass(frozen=True)
class Question:
    """A question with its right answer in words.

    Attributes:
        text: what is asked, without its options.
        answer: the right answer; empty if the file does not say it.
        where: its place in the teacher's words (``question 3, line 12``).
        options: what a multiple-choice question offers, in order.
        explanation: feedback of its author.
        others: further answers that count as right.
        topic: category of its author.
        more: further columns, such as the fields of a note.
        told: whether it was said already why there is no answer.
    """

    text: str
    answer: str
    where: str
    options: tuple[str, ...] = ()
    explanation: str = ""
    others: tuple[str, ...] = ()
    topic: str = ""
    more: tuple[tuple[str, str], ...] = ()
    told: bool = False

    @property
    def asked(self) -> str:
        """The question with its options below it, each with a letter."""
        return with_options(self.text, self.options)


@dataclass(frozen=True)
class Found:
    """What a reader found: questions, or conversations of several turns, or rows of a table."""

    format: str
    questions: tuple[Question, ...] = ()
    examples: tuple[Example, ...] = ()
    rows: tuple[Row, ...] = ()


def numbered(answers: Sequence[str]) -> str:
    """Return the contents of gaps: one as it is, several as ``(1) first`` lines."""
    if len(answers) == 1:
        return answers[0]
    return "\n".join(f"({i}) {a}" for i, a in enumerate(answers, 1))


def gap(number: int, of: int, choices: Sequence[str] = ()) -> str:
    """Return how a gap of a text is shown: numbered if there are several, with its choices."""
    mark = GAP if of == 1 else f"({number}) {GAP}"
    return f"{mark} [{' / '.join(choices)}]" if choices else mark


def match_texts(
    text: str, pairs: Sequence[tuple[str, str]], extra: Sequence[str] = ()
) -> tuple[str, str]:
    """Return a matching question in words and its answer.

    Args:
        text: what is asked above the pairs.
        pairs: what belongs together.
        extra: answers that belong to nothing.
    """
    pairs = list(dict.fromkeys(pairs))
    choices = sorted({b for _, b in pairs} | set(extra), key=str.casefold)
    asked = [text, *(f"- {a}" for a, _ in pairs), f"[{' / '.join(choices)}]"]
    return "\n".join(filter(None, asked)), "\n".join(f"{a} → {b}" for a, b in pairs)


def question_rows(questions: Sequence[Question], findings: Findings) -> list[Row]:
    """Return questions as rows below a header; those without an answer are marked as left out.

    Raises:
        DataError: if there is no question, or none has an answer.
    """
    if not questions:
        raise data_error("question.none")
    if not any(q.answer.strip() for q in questions):
        raise data_error("question.none_answered", count=len(questions))
    names = ["question", "answer"]
    cells = [{"question": q.asked, "answer": q.answer, **_extras(q)} for q in questions]
    for more in cells:
        names += [name for name in more if name not in names]
    rows = [Row(tuple(names), "header")]
    for question, values in zip(questions, cells, strict=True):
        answered = bool(question.answer.strip())
        if not answered and not question.told:
            findings.add("question.no_answer", question.where)
        row = tuple(values.get(name, "") for name in names)
        rows.append(Row(row, question.where, left_out=not answered))
    return rows


def _extras(question: Question) -> dict[str, str]:
    found = {
        "explanation": question.explanation,
        "also right": joined(question.others) if question.others else "",
        "topic": question.topic,
        **{n: v for n, v in question.more if n not in ("question", "answer")},
    }
    return {name: value for name, value in found.items() if value.strip()}
