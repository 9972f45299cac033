"""Which column holds what: guessed from names and cells, with how sure the guess is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.data.ingest.choices import is_marked, names_options, options_in
from core.data.ingest.names import (
    ANSWER,
    CONTEXT,
    EXPLANATION,
    INPUT,
    OPTIONS,
    QUESTION,
    REJECTED,
    SYSTEM,
    TOPIC,
    WRONG,
    column_letter,
    flag_columns,
    normal_name,
    option_columns,
    turn_columns,
    whole_name,
    wrong_columns,
)
from core.data.messages import data_error

__all__ = ["PARTS", "Columns", "choose_columns", "names_pair", "normal_name"]

# What a column can be in an example. Several columns of question, answer, context and system are
# joined; those of earlier are turns before the question, user and assistant in alternation.
PARTS = (
    "question", "answer", "input", "system", "context", "topic", "options", "correct", "wrong",
    "explanation", "rejected", "earlier",
)  # fmt: skip
SEVERAL = {"question", "answer", "context", "system", "topic", "options", "correct", "wrong",
           "explanation", "earlier"}  # fmt: skip

# How sure a guess is: our own scale, from a teacher's choice down to "the next column".
CHOSEN, EXACT, CONTAINED, CONTENT, PLACE = 1.0, 0.9, 0.7, 0.5, 0.3
SAMPLE = 200  # rows that a guess looks at
LONGEST_NAME = 60  # characters of a header's cell
LONGEST_WORD = 8  # mean characters of the questions in a list of words
CLEARLY = 3  # times as long

_NO_TEXT = re.compile(
    r"\b(id|no|nr|type|index|number|date|time|count|length)\b|编号|序号|类型|题型|日期|分数|分值|难度"
)


@dataclass(frozen=True)
class Columns:
    """Columns by their part in an example.

    Attributes:
        parts: the names of every part's columns, in order; see :data:`PARTS`.
        confidence: how sure each part is, 0..1; 1 is the teacher's choice.
        guessed: whether question or answer were found by content or place only.
    """

    parts: Mapping[str, tuple[str, ...]]
    confidence: Mapping[str, float] = field(default_factory=dict)
    guessed: bool = False

    @property
    def question(self) -> str:
        """The (first) column of the questions."""
        return self.parts["question"][0]

    @property
    def answer(self) -> str:
        """The (first) column of the answers; of flagged options the first flag."""
        return next(self.parts[p][0] for p in ("answer", "correct", "options") if self.parts.get(p))

    def names(self) -> dict[str, str]:
        """Return the first column of every part that has one."""
        return {part: names[0] for part, names in self.parts.items() if names}

    @property
    def kind(self) -> str:
        """``alpaca``, ``preference`` or empty."""
        if self.parts.get("rejected"):
            return "preference"
        names = normal_name(self.question), normal_name(self.answer)
        return "alpaca" if names == ("instruction", "output") else ""


def names_pair(cells: Sequence[str]) -> bool:
    """Say whether the cells of a row name columns: of questions, and of answers or options."""
    names = [normal_name(c) if len(c) <= LONGEST_NAME else "" for c in cells]
    question = _exact(names, QUESTION)
    answer = _exact(names, ANSWER)
    if question is not None and answer is not None and question != answer:
        return True
    short = [c if len(c) <= LONGEST_NAME else "" for c in cells]
    options = option_columns(short) or wrong_columns(short)
    stems = [
        "" if i in options or cells[i].rstrip().endswith(("?", "？", ".", "。")) else n
        for i, n in enumerate(names)
    ]
    return bool(options) and _recognised(stems, QUESTION) is not None


class _Guess:
    """The parts found so far; no column has two."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], named: bool) -> None:
        self.columns, self.all, self.rows = columns, rows, rows[:SAMPLE]
        names = [normal_name(c) for c in columns]
        # a column without a single text is not what anyone means, nor one that has no name but
        # Excel's letter for it
        self.full = [
            n if named and c != column_letter(i) and self.is_used(i) else ""
            for i, (n, c) in enumerate(zip(names, columns, strict=True))
        ]
        self.names = names
        self.parts: dict[str, tuple[int, ...]] = {}
        self.sure: dict[str, float] = {}

    def is_used(self, column: int) -> bool:
        return not self.all or any(column < len(r) and r[column].strip() for r in self.all)

    def cells(self, column: int) -> list[str]:
        """Return the cells of a column that are not empty."""
        texts = (r[column].strip() for r in self.rows if column < len(r))
        return [t for t in texts if t]

    def taken(self) -> set[int]:
        return {i for places in self.parts.values() for i in places}

    def put(self, part: str, places: Iterable[int], sure: float) -> None:
        places = tuple(places)
        if places and part not in self.parts:
            self.parts[part], self.sure[part] = places, sure

    def give_way(self, wanted: int) -> None:
        """Take guessed parts back until as many columns are free as question and answer need.

        Raises:
            DataError: if the teacher's choice leaves none for them.
        """
        for part in ("correct", "options", "wrong"):
            if len(self.columns) - len(self.taken()) >= wanted:
                return
            if self.sure.get(part, CHOSEN) < CHOSEN:
                del self.parts[part], self.sure[part]
        if len(self.columns) == len(self.taken()):
            raise data_error("table.one_column", columns=", ".join(self.columns))

    def free(self) -> list[str]:
        taken = self.taken()
        return [n if i not in taken else "" for i, n in enumerate(self.full)]

    def one(self, part: str, known: Sequence[str]) -> None:
        """Give a part the free column of a known name."""
        if (place := _exact(self.free(), known)) is not None:
            self.put(part, (place,), EXACT)


def choose_columns(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    question: str = "",
    answer: str = "",
    *,
    named: bool = True,
    chosen: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """Return the columns to learn from.

    Args:
        columns: names of all columns.
        rows: the cells below them, to prefer columns that hold text.
        question: the teacher's choice; empty: guessed.
        answer: the teacher's choice; empty: guessed.
        named: whether the names come from the file.
        chosen: the teacher's columns of every part; where given, no part is guessed but question
            and answer. A part may be given no columns.

    Raises:
        DataError: if a chosen column or part does not exist, columns are chosen twice, or there is
            only one column.
    """
    if len(columns) < 2:
        raise data_error("table.one_column", columns=", ".join(columns))
    guess = _Guess(columns, rows, named)
    asked, told = _place(question, columns), _place(answer, columns)
    if asked is not None and asked == told:
        listed = ", ".join(columns)
        raise data_error("table.same_column", column=columns[asked], columns=listed)
    for part, names in _chosen(chosen or {}, columns).items():
        guess.put(part, names, CHOSEN)
    guess.put("question", () if asked is None else (asked,), CHOSEN)
    guess.put("answer", () if told is None else (told,), CHOSEN)
    if chosen is None:
        _guess_choices(guess, named)
        _guess_turns(guess)
    _guess_pair(guess)
    if chosen is None:
        _guess_others(guess)
    parts = {p: tuple(columns[i] for i in guess.parts[p]) for p in PARTS if guess.parts.get(p)}
    least = min(guess.sure.get(p, CHOSEN) for p in ("question", "answer"))
    unsure = (least < CONTAINED or not named) and least < CHOSEN
    return Columns(parts, {p: guess.sure[p] for p in parts}, unsure)


def _chosen(
    chosen: Mapping[str, Sequence[str]], columns: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for part, names in chosen.items():
        if part not in PARTS or (len(names) > 1 and part not in SEVERAL):
            raise data_error("table.unknown_part", part=part, parts=", ".join(PARTS))
        places = tuple(p for n in names if (p := _place(n, columns)) is not None)
        twice = next((p for i, p in enumerate(places) if p in seen or p in places[:i]), None)
        if twice is not None:
            listed = ", ".join(columns)
            raise data_error("table.column_twice", column=columns[twice], columns=listed)
        seen.update(places)
        found[part] = places
    return found


def _guess_choices(guess: _Guess, named: bool) -> None:
    """Find options: in columns of their own, in one cell, or around a column of letters."""
    taken = guess.taken()
    free = [c if named and i not in taken else "" for i, c in enumerate(guess.columns)]
    flags = tuple(i for i in flag_columns(free) if _holds_flags(guess.cells(i)))
    left = [c if i not in flags else "" for i, c in enumerate(free)]
    options = option_columns(left)
    others = [n if i not in (*options, *flags) else "" for i, n in enumerate(guess.full)]
    answered = "answer" in guess.parts or _exact(others, ANSWER) is not None
    if options and not answered:
        answered = _recognised(others, ANSWER) is not None
    if len(options) > 1 and len(flags) == len(options):
        guess.put("options", options, EXACT)
        guess.put("correct", flags, EXACT)
    elif options and answered and not turn_columns(guess.columns):
        guess.put("options", options, EXACT)
    elif (wrong := wrong_columns(left)) and answered:
        guess.put("wrong", wrong, EXACT)
    elif answered and (place := _exact(guess.free(), OPTIONS)) is not None:
        held = guess.cells(place)
        if 2 * sum(len(options_in(c)) > 1 for c in held) > len(held):
            guess.put("options", (place,), EXACT)
    elif answered and (place := _exact(guess.free(), WRONG)) is not None:
        guess.put("wrong", (place,), EXACT)
    elif not named or _exact(guess.free(), (*QUESTION, *ANSWER)) is None:
        _guess_letters(guess)


def _holds_flags(cells: Sequence[str]) -> bool:
    return all(len(c) <= 8 or is_marked(c) for c in cells)


def _guess_letters(guess: _Guess) -> None:
    """Find question, options and letter by their cells: a text, texts, a letter in each row."""
    width = len(guess.columns)
    if len(guess.rows) < 2 or guess.parts:
        return
    for at in range(width - 1, 2, -1):
        cells = guess.cells(at)
        if not cells or 5 * sum(map(names_options, cells)) < 4 * len(cells):
            continue
        shown = unicodedata.normalize("NFKC", "".join(cells)).upper()
        last = max((ord(c) for c in shown if c.isascii() and c.isalpha()), default=ord("A"))
        before = [i for i in range(at) if guess.is_used(i)]
        if len(before) < max(3, last - ord("A") + 2):
            continue
        stem = max(before[: len(before) - 2], key=lambda i: _mean_length(guess.cells(i)))
        options = [i for i in before if i > stem]
        if len(options) >= max(2, last - ord("A") + 1):
            guess.put("question", (stem,), CONTENT)
            guess.put("options", options, CONTENT)
            guess.put("answer", (at,), CONTENT)
            return


def _mean_length(cells: Sequence[str]) -> float:
    return sum(map(len, cells)) / max(1, len(cells))


def _guess_turns(guess: _Guess) -> None:
    """Find a conversation in a row: its last question and answer, and the turns before."""
    if guess.parts:
        return
    if turns := turn_columns(guess.columns):
        guess.put("question", turns[-1][:1], EXACT)
        guess.put("answer", turns[-1][1:], EXACT)
        guess.put("earlier", (i for turn in turns[:-1] for i in turn), EXACT)


def _guess_pair(guess: _Guess) -> None:
    """Find question and answer by name, or else by their cells."""
    for part, known in (("question", QUESTION), ("answer", ANSWER)):
        if part in guess.parts or (part == "answer" and "correct" in guess.parts):
            continue
        free = guess.free()
        if part == "question":  # "q" may also be a quantity
            free = ["" if _only_numbers(guess.cells(i)) else n for i, n in enumerate(free)]
        if part == "answer" and guess.sure.get("question", 0) < CONTAINED:
            free = ["" if n == "a" else n for n in free]  # no answer without a question beside it
        exact = _exact(free, known)
        place = exact if exact is not None else _recognised(free, known)
        if place is not None:
            guess.put(part, (place,), EXACT if exact is not None else CONTAINED)
    if "question" not in guess.parts:
        guess.give_way(1 if {"answer", "correct"} & guess.parts.keys() else 2)
        guess.put("question", (_next_text(guess, after=-1),), PLACE)
    if "answer" not in guess.parts and "correct" not in guess.parts:
        guess.give_way(1)
        guess.put("answer", (_answer_by_content(guess),), PLACE)


def _answer_by_content(guess: _Guess) -> int:
    """Return the next column of texts; of a list of words the one with the longest texts.

    In lists of words (our interpretation: what is asked has one word or two) further columns hold
    how a word is said, its kind, its root; what explains it is the longest.
    """
    asked = guess.parts["question"][-1]
    following = _next_text(guess, after=asked)
    if len(guess.parts["question"]) > 1 or not 0 < _mean_length(guess.cells(asked)) <= LONGEST_WORD:
        return following
    free = [i for i in range(len(guess.columns)) if i not in guess.taken() and guess.is_used(i)]
    longest = max(free, key=lambda i: _mean_length(guess.cells(i)), default=following)
    clear = _mean_length(guess.cells(longest)) >= CLEARLY * _mean_length(guess.cells(following))
    return longest if clear else following


def _only_numbers(cells: Sequence[str]) -> bool:
    """Say whether there are cells and all of them are numbers."""
    return bool(cells) and all(c.strip().replace(".", "", 1).isdecimal() for c in cells)


def _guess_others(guess: _Guess) -> None:
    question = guess.names[guess.parts["question"][0]]
    answer = guess.names[guess.parts["answer"][0]] if "answer" in guess.parts else ""
    if question in ("instruction", "指令"):
        guess.one("input", INPUT)
    if answer == "chosen":
        guess.one("rejected", REJECTED)
    guess.one("system", SYSTEM)
    guess.one("context", CONTEXT)
    guess.one("topic", TOPIC)
    if {"options", "correct", "wrong"} & guess.parts.keys():
        guess.one("explanation", EXPLANATION)


def _place(name: str, columns: Sequence[str]) -> int | None:
    if not name:
        return None
    for same in (
        lambda c: c == name,
        lambda c: whole_name(c) == whole_name(name),
        lambda c: normal_name(c) == normal_name(name),
    ):
        for i, column in enumerate(columns):
            if same(column):
                return i
    raise data_error("table.unknown_column", column=name, columns=", ".join(columns))


def _exact(names: Sequence[str], known: Iterable[str]) -> int | None:
    return next((names.index(k) for k in known if k in names), None)


def _recognised(names: Sequence[str], known: Sequence[str]) -> int | None:
    """Find a column whose name contains a known one ("the question")."""
    exact = _exact(names, known)
    if exact is not None:
        return exact
    for word in known:
        for i, name in enumerate(names):
            words = name.split("_")
            inside = word in words if word.isascii() else len(word) > 1 and word in name
            if len(word) > 1 and inside and not _NO_TEXT.search(" ".join(words)):
                return i
    return None


def _next_text(guess: _Guess, after: int) -> int:
    """Return the first free column that mostly holds texts, those after a given one first.

    Without any, the column that follows (answers may all be numbers).
    """

    def is_text(i: int) -> bool:
        cells = [r[i].strip() for r in guess.rows if i < len(r)]
        texts = sum(bool(c) and not c.replace(".", "").isdecimal() for c in cells)
        named = guess.names[i] in TOPIC or _NO_TEXT.search(guess.names[i].replace("_", " "))
        return texts * 2 >= max(1, len(cells)) and not named

    n, taken = len(guess.columns), guess.taken()
    places = [i % n for i in range(after + 1, after + 1 + n)]
    free = [i for i in places if i not in taken] or [i for i in places if i != after]
    return next(filter(is_text, free), free[0])
