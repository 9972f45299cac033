"""Questions with options: what the options are, which are right, and how both become words.

Letters and numbers say nothing to a model that has not seen the options, so that the answer that
is learned is always the text of the right option, and the options become part of the question.
"""

from __future__ import annotations

import ast
import json
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

MOST_OPTIONS = 20
LONGEST_CELL = 20_000  # characters of a cell that is taken apart

LONGEST_IN_LINE = 60  # characters of an answer that shares a line with others

_LABEL = re.compile(
    r"\s*[(（\[【]?\s*([A-Ja-jＡ-Ｊａ-ｊ])\s*(?:[)）\]】]\s*[.．、:：]?|[.．、:：])\s*"
)
_INSIDE = re.compile(
    r"[(（\[【]\s*([A-JＡ-Ｊ])\s*[)）\]】]\s*[.．、:：]?"
    r"|(?:^|(?<=[\s;；,，。？?!！)）]))([A-JＡ-Ｊ])\s*(?:[)）\]】]\s*[.．、:：]?|[.．、:：])"
    r"|(?<=[^A-Za-zＡ-Ｚａ-ｚ.．(（\[【])([A-JＡ-Ｊ])[.．、](?=\s*\S)"
)
_LETTERS = re.compile(r"[(\[]?\s*[a-j](?:[\s,;、/&+|和及]*[a-j])*\s*[)\].。]?", re.IGNORECASE)
_NUMBERS = re.compile(r"\d{1,2}(?:\.0)?(?:[\s,;、/&|]+\d{1,2})*")
_BEFORE_LETTER = re.compile(
    r"^(?:the\s+)?(?:correct\s+|right\s+)?(?:answer|option|choice|ans|答案|选项|正确答案|选)"
    r"(?:\s+is)?[\s:：为是]*", re.IGNORECASE
)  # fmt: skip
_YES = {"x", "✓", "✔", "√", "1", "true", "t", "yes", "y", "ja", "oui", "sí", "si", "correct",
        "right", "wahr", "richtig", "是", "对", "正确", "100", "1.0", "☑", "●", "*"}  # fmt: skip
_NUMPY = re.compile(r"""(['"])\s*[\n ]\s*(?=['"])""")  # ['a' 'b'], as pandas writes an array


def with_options(text: str, options: Sequence[str]) -> str:
    """Return a question followed by ``A. first``, ``B. second`` ... on lines of their own.

    An option that is empty has no line, and the others keep the letters of their places.
    """
    marks = [*string.ascii_uppercase, *map(str, range(27, len(options) + 1))]
    lines = [f"{m}. {o}" for m, o in zip(marks, options, strict=False) if o]
    return "\n".join([*filter(None, [text.rstrip()]), *lines]) if lines else text


def joined(answers: Sequence[str]) -> str:
    """Return several right answers as one: short ones in a line, others one below the other."""
    short = all(len(a) <= LONGEST_IN_LINE and not {";", "\n"} & set(a) for a in answers)
    return ("; " if short else "\n").join(answers)


def without_label(text: str, at: int) -> str:
    """Return an option without its own letter, if that is the letter of its place.

    Args:
        text: ``C. Paris``, ``（C）Paris`` or ``Paris``.
        at: its place from 0; another letter is part of the text (``B.`` in the first option).
    """
    text = text.strip()
    match = _LABEL.match(text)
    if match and _letter(match[1]) == at and match.end() < len(text):
        return text[match.end() :].strip()
    return text


def options_in(cell: str) -> list[str]:
    """Return the options that one cell holds; empty if it does not hold at least two.

    A list or dictionary of Python or JSON, ``A.x B.y``, lines, or parts between ``|`` or ``;``.
    Nothing in the cell is evaluated: literals are parsed only.
    """
    text = cell.strip()
    if not text or len(text) > LONGEST_CELL:
        return []
    found = _literal(text) or labelled(text)[1]
    for separator in () if found else ("\n", "||", "|", "；", ";", " / ", "\t", "，", "、", ","):
        found = [part.strip() for part in text.split(separator) if part.strip()]
        if len(found) > 1:
            break
    found = [without_label(option, i) for i, option in enumerate(found)]
    return found if 2 <= len(found) <= MOST_OPTIONS else []


def labelled(text: str) -> tuple[str, list[str]]:
    """Take a text apart at the letters A, B, C ... of its options.

    Returns:
        What stands before the first option, and the options without letters; the whole text and
        no options if the letters do not run from A.
    """
    places: list[tuple[int, int]] = []
    for match in _INSIDE.finditer(text[:LONGEST_CELL]):
        if _letter(match[1] or match[2] or match[3]) == len(places):
            places.append(match.span())
    if len(places) < 2:
        return text, []
    ends = [start for start, _ in places[1:]] + [len(text)]
    options = [
        text[a:b].strip().strip(" ;；,，|").strip() for (_, a), b in zip(places, ends, strict=True)
    ]
    return (text[: places[0][0]].rstrip(), options) if all(options) else (text, [])


def values_of(value: Any) -> list[str]:
    """Return the options in a list or dictionary: texts, ``{A: x}``, ``{text: [...]}``."""
    if isinstance(value, dict):
        listed = value.get("text", value.get("options", value.get("choices")))
        if isinstance(listed, list | tuple):
            return values_of(listed)
        keys = [k for k in value if isinstance(k, str) and re.fullmatch("[A-Ja-j1-9]", k.strip())]
        return [_plain(value[k]) for k in sorted(keys)] if len(keys) == len(value) else []
    if isinstance(value, list | tuple):
        texts = [
            _plain(v.get("text", v.get("content", v.get("value")))) if isinstance(v, dict)
            else _plain(v)
            for v in value
        ]  # fmt: skip
        return texts if all(texts) and len(texts) <= MOST_OPTIONS else []
    return []


def right_options(
    answer: str, options: Sequence[str], base: int = 1, *, numbered: bool = False
) -> list[int] | None:
    """Return which options an answer names, from 0.

    Args:
        answer: a text of an option, letters (``B``, ``AC``, ``答案：B``), or numbers (``1,3``).
        options: the options without letters.
        base: the number of the first option.
        numbered: whether a number names an option even where it is the text of one.

    Returns:
        Their places; ``None`` if the answer is a text of its own; an empty list if it names an
        option that does not exist.
    """
    wanted = _same(answer)
    same = [i for i, option in enumerate(options) if wanted and _same(option) == wanted]
    if same and not (numbered and _NUMBERS.fullmatch(answer.strip())):
        return same[:1]
    found = _by_name(answer, options, base)
    return found if found is None else [i for i in found if options[i]]


def _by_name(answer: str, options: Sequence[str], base: int) -> list[int] | None:
    short = unicodedata.normalize("NFKC", answer).strip()
    if found := _named(short, len(options), base):
        return found
    bare = _BEFORE_LETTER.sub("", short)
    if _LETTERS.fullmatch(bare) or _NUMBERS.fullmatch(bare):
        return _named(bare, len(options), base)
    match = _LABEL.match(answer)  # "B. Paris" where the options are bare
    if match:
        rest, at = _same(answer[match.end() :]), _letter(match[1])
        if at < len(options) and rest in ("", _same(options[at])):
            return [at]
    return _several(answer, options)


def counts_options(rows: Sequence[tuple[str, Sequence[str]]], named: str) -> bool:
    """Say whether the numbers of a column name options rather than being their texts.

    Args:
        rows: the answer and the options of some rows.
        named: the column's name; Kahoot's "Correct answer(s)" are always numbers.
    """
    numbers = [(a.strip(), o) for a, o in rows if _NUMBERS.fullmatch(a.strip())]
    if not numbers or 2 * len(numbers) < len(rows):
        return False
    texts = all(any(_same(option) == _same(a) for option in options) for a, options in numbers)
    return not texts or named.casefold().startswith("correct answer(s)")


def number_base(answers: Sequence[str]) -> int:
    """Return 0 if a column of answers counts options from 0, else 1."""
    numbers = [a.strip() for a in answers if _NUMBERS.fullmatch(a.strip())]
    return 0 if any(re.search(r"(?<!\d)0(?![\d.])|^0\.0$", n) for n in numbers) else 1


def names_options(answer: str) -> bool:
    """Say whether an answer is nothing but letters of options (``B``, ``AC``, ``（A）``)."""
    if len(answer) > 40:
        return False
    short = unicodedata.normalize("NFKC", answer).strip()
    if not _LETTERS.fullmatch(short):
        return False
    letters = [c for c in short if c.isalpha() and c.isascii()]
    upper = short.upper() == short or len(letters) == 1
    return upper and len(set(letters)) == len(letters)


def is_marked(flag: str) -> bool:
    """Say whether a flag's cell marks an option as right."""
    return unicodedata.normalize("NFKC", flag).strip().casefold() in _YES


def _named(short: str, n: int, base: int) -> list[int]:
    if names_options(short):
        places = [_letter(c) for c in short if c.isascii() and c.isalpha()]
    elif _NUMBERS.fullmatch(short):
        places = [int(d) - base for d in re.findall(r"\d+", short.replace(".0", ""))]
    else:
        return []
    return sorted(set(places)) if all(0 <= p < n for p in places) else []


def _several(answer: str, options: Sequence[str]) -> list[int] | None:
    """Return the options that an answer lists in words; ``None`` if it is a text of its own."""
    known = {_same(option): i for i, option in enumerate(options)}
    for separator in ("\n", "；", ";", "、", "，", ",", "|"):
        parts = [_same(part) for part in answer.split(separator) if part.strip()]
        if len(parts) > 1 and all(part in known for part in parts):
            return sorted({known[part] for part in parts})
    return None


def _literal(text: str) -> list[str]:
    """Return the options in a list or dictionary that stands in a cell as text."""
    body = re.sub(r"^array\((.*?)(?:,\s*dtype=\w+)?\)$", r"\1", text, flags=re.DOTALL)
    if body[:1] + body[-1:] not in ("[]", "{}", "()") or body.count("[") + body.count("{") > 40:
        return []
    for parse in (json.loads, ast.literal_eval, lambda t: ast.literal_eval(_NUMPY.sub(r"\1, ", t))):
        try:
            value = parse(body)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        # neighbouring strings are one string in Python, but two options of an array
        if _NUMPY.search(body) and len(values_of(value)) < 2:
            continue
        return values_of(value)
    return []


def _plain(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _same(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")


def _letter(letter: str) -> int:
    return ord(unicodedata.normalize("NFKC", letter).upper()) - ord("A")
