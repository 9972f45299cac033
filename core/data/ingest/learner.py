"""A row under known columns to an example, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

from core.data.ingest.choices import (
    counts_options,
    is_marked,
    joined,
    labelled,
    names_options,
    number_base,
    options_in,
    right_options,
    with_options,
    without_label,
)
from core.data.ingest.columns import Columns
from core.data.ingest.rows import Row
from core.data.messages import Findings
from core.data.types import Example, Turn


class _LeftOutError(Exception):
    """Why a row cannot be learned."""

    def __init__(self, code: str, **values: object) -> None:
        self.code, self.values = code, values
        super().__init__(code)


class Learner:
    """Makes examples of rows, as a choice of columns says."""

    def __init__(
        self, names: Sequence[str], chosen: Columns, sample: Sequence[Sequence[str]]
    ) -> None:
        """Look at a sample of the rows' cells for how answers name options.

        Args:
            names: all columns.
            chosen: the columns of each part.
            sample: cells of some rows.
        """
        at = {name: i for i, name in reversed(list(enumerate(names)))}
        self.at = {part: tuple(at[c] for c in columns) for part, columns in chosen.parts.items()}
        self.plain = self.at.keys() <= {"question", "answer", "system", "topic"}
        self.base, self.numbered = 1, False
        if "options" in self.at and "answer" in self.at:
            answers = [self._joined(row, "answer") for row in sample]
            self.base = number_base(answers)
            pairs = [(a, self._options(r)) for a, r in zip(answers, sample, strict=True)]
            self.numbered = counts_options([p for p in pairs if any(p[1])], chosen.answer)

    def example(self, row: Row, findings: Findings, topic: str = "") -> Example | None:
        """Return the example of a row; ``None`` (and a finding) if it cannot be learned.

        Args:
            row: cells under the columns; one that is left out already is so without a word.
            findings: is told why a row cannot be learned.
            topic: what the row is about if no column says so.
        """
        if row.left_out:
            return None
        try:
            turns = self._turns(row.cells)
        except _LeftOutError as error:
            findings.add(error.code, row.where, **error.values)
            return None
        if "system" in self.at and (system := self._joined(row.cells, "system")).strip():
            turns = [Turn("system", system), *turns]
        if "topic" in self.at:
            topic = " / ".join(self._cells(row.cells, "topic")) or topic
        return Example(tuple(turns), row.where, topic)

    def _turns(self, cells: Sequence[str]) -> list[Turn]:
        question, answer = self._asked(cells)
        if self.plain and question.strip() and answer.strip():
            return [Turn("user", question), Turn("assistant", answer)]
        earlier = [cells[i] for i in self.at.get("earlier", ())]
        pairs = list(zip(earlier[::2], earlier[1::2], strict=False))
        if pairs and not question.strip() and not answer.strip():  # a shorter conversation
            while pairs and not (pairs[-1][0].strip() and pairs[-1][1].strip()):
                pairs.pop()
            if pairs:
                question, answer = pairs.pop()
        self._refuse(cells, question, answer)
        if any(not (a.strip() and b.strip()) for a, b in pairs):
            raise _LeftOutError("table.turn_missing")
        texts = [text for pair in (*pairs, (question, answer)) for text in pair]
        if context := self._joined(cells, "context").strip():
            texts[0] = f"{context}\n\n{texts[0]}"
        return [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]

    def _refuse(self, cells: Sequence[str], question: str, answer: str) -> None:
        rejected = self._joined(cells, "rejected")
        if not question.strip():
            raise _LeftOutError("table.no_question")
        if not answer.strip():
            raise _LeftOutError("table.no_answer")
        if "rejected" in self.at and not rejected.strip():
            raise _LeftOutError("table.no_rejected")
        if "rejected" in self.at and rejected.strip() == answer.strip():
            raise _LeftOutError("table.chosen_is_rejected")

    def _asked(self, cells: Sequence[str]) -> tuple[str, str]:
        """Return what is asked and the answer, both in words."""
        question = self._joined(cells, "question")
        answer = self._joined(cells, "answer")
        if self.plain and not names_options(answer):
            return question, answer
        if question.strip() and (more := self._joined(cells, "input")).strip():
            question = f"{question}\n{more}"
        if not question.strip():
            return question, answer
        if "wrong" in self.at and answer.strip():
            wrong = self._many(cells, "wrong")
            options = sorted({answer.strip(), *wrong})  # so that the place says nothing
            return (with_options(question, options) if wrong else question), answer
        if "options" in self.at:
            return self._chosen(cells, question, answer)
        if names_options(answer) and (inside := labelled(question)[1]):
            right = right_options(answer, inside)
            answer = joined([inside[i] for i in right]) if right else answer
        return question, answer

    def _chosen(self, cells: Sequence[str], question: str, answer: str) -> tuple[str, str]:
        """Return a question with its options, and the right one in words."""
        options = self._options(cells)
        inside = [] if any(options) else labelled(question)[1]
        if "correct" in self.at:
            flags = [cells[i] for i in self.at["correct"]][: len(options)]
            right: list[int] | None = [
                i for i, flag in enumerate(flags) if is_marked(flag) and options[i]
            ]
            if any(options) and not right:
                raise _LeftOutError("choices.none_marked")
        elif not answer.strip():
            raise _LeftOutError("table.no_answer")
        else:
            right = right_options(answer, inside or options, self.base, numbered=self.numbered)
        if not any(options) and not inside:
            return question, answer  # a question of another kind among them
        if right == []:
            raise _LeftOutError("choices.no_such_option", answer=answer.strip())
        text = question if inside else with_options(question, options)
        if right is None:
            return text, answer
        known = inside or options
        return text, joined([known[i] for i in right])

    def _options(self, cells: Sequence[str]) -> list[str]:
        """Return the options of a row without letters; an empty one keeps its place."""
        places = self.at["options"]
        if len(places) == 1:
            return options_in(cells[places[0]])
        return [without_label(cells[i], k) for k, i in enumerate(places)]

    def _many(self, cells: Sequence[str], part: str) -> list[str]:
        """Return the texts of a part's columns, or those that its only column lists."""
        found = self._cells(cells, part)
        return (options_in(found[0]) or found) if len(found) == 1 else found

    def _cells(self, cells: Sequence[str], part: str) -> list[str]:
        return [c.strip() for i in self.at.get(part, ()) if (c := cells[i]).strip()]

    def _joined(self, cells: Sequence[str], part: str) -> str:
        places = self.at.get(part, ())
        return cells[places[0]] if len(places) == 1 else "\n".join(self._cells(cells, part))
