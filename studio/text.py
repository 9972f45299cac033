"""All words of the studio, in one place: ``assets/locales/<language>.json``.

A page never contains a sentence of its own; it asks ``words("plan.title")``. Findings and errors
(:class:`core.errors.Problem`) are written in English where they arise; ``problems.<language>.json``
translates them by their code. The values come with the problem, or are read out of the English
sentence by its template (``of`` in the file, or :data:`core.data.messages.CODES`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from string import Formatter
from typing import Any

from core.data.messages import CODES
from core.errors import Problem, StudioError
from core.home import ASSETS

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT_LANGUAGE = "en"
# What a finding's place is called; ``where.<kind>`` says it in each language.
PLACES = ("row", "line", "sheet", "column", "step", "question", "paragraph", "page", "note", "card")


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def catalogue(language: str) -> dict[str, str]:
    """Return every text of a language by its dotted key."""
    file = ASSETS / "locales" / f"{language}.json"
    return dict(_flat(json.loads(file.read_text("utf-8"))))


@dataclass(frozen=True)
class Translation:
    """What stands for one English problem: its two sentences, and how to find their values.

    Attributes:
        pattern: reads the values out of the English ``what`` and ``action``, a line each.
        only: the translation is for sentences of that pattern only (a code can have several).
    """

    what: str
    action: str
    pattern: re.Pattern[str]
    only: bool

    def of(self, problem: Problem) -> tuple[str, str] | None:
        """Return both sentences with their values, or ``None`` if they cannot be said."""
        found = self.pattern.fullmatch(f"{problem.what}\n{problem.action}")
        if self.only and not found:
            return None
        values = {**(found.groupdict() if found else {}), **dict(problem.values)}
        try:
            return self.what.format(**values), self.action.format(**values)
        except (KeyError, IndexError, ValueError):
            return None  # a value is missing: the English sentence is still right


@cache
def translations(language: str) -> dict[str, list[Translation]]:
    """Return the translations of problems by their code."""
    file = ASSETS / "locales" / f"problems.{language}.json"
    if not file.exists():  # English sentences come with the problems themselves
        return {}
    tree: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {
        code: [_translation(code, t) for t in (texts if isinstance(texts, list) else [texts])]
        for code, texts in tree.items()
    }


def _translation(code: str, texts: dict[str, str]) -> Translation:
    if own := texts.get("of"):
        pattern = f"{_pattern(own)}\n.*"
    elif known := CODES.get(code):
        pattern = _pattern(f"{known.what}\n{known.action}")
    else:
        pattern = ".*"
    return Translation(
        texts["what"], texts["action"], re.compile(pattern, re.DOTALL), "of" in texts
    )


def _pattern(template: str) -> str:
    """Return a regular expression that reads the values out of a sentence of ``template``."""
    pieces, seen = [], set()
    for literal, field, _, conversion in Formatter().parse(template):
        pieces.append(re.escape(literal))
        if field:
            value = f"(?P={field})" if field in seen else f"(?P<{field}>.+)"
            pieces.append(f"'{value}'" if conversion == "r" else value)
            seen.add(field)
    return "".join(pieces)


def preferred_language(cookie: str | None, accept_language: str | None) -> str:
    """Return the language to show: the cookie's, else the browser's, else English."""
    if cookie in LANGUAGES:
        return str(cookie)
    first = (accept_language or "").split(",")[0].strip().lower()
    return next((known for known in LANGUAGES if first.startswith(known)), DEFAULT_LANGUAGE)


class Words:
    """The texts of one language.

    Example:
        >>> Words("en")("unit.mb", n="900")
        '900 MB'
    """

    def __init__(self, language: str) -> None:
        """Load the catalogue of ``language`` (a key of ``LANGUAGES``)."""
        self.language = language
        self._texts = catalogue(language)

    def __call__(self, key: str, **values: object) -> str:
        """Return the text under ``key`` with its fields filled in.

        Raises:
            KeyError: for an unknown key or a missing field (a bug; the tests look for both).
        """
        text = self._texts[key]
        return text.format(**values) if values else text

    def get(self, key: str, otherwise: str) -> str:
        """Return the text under ``key``, or ``otherwise`` if there is none."""
        return self._texts.get(key, otherwise)

    def group(self, prefix: str) -> dict[str, str]:
        """Return all texts under ``prefix`` by their key without it (for the page's script)."""
        start = f"{prefix}."
        return {k.removeprefix(start): v for k, v in self._texts.items() if k.startswith(start)}

    def size(self, number: float) -> str:
        """Return a byte count in decimal units, as the operating system's tools show it."""
        if number >= 1e9:
            return self("unit.gb", n=f"{number / 1e9:.2f}")
        if number >= 1e6:
            return self("unit.mb", n=f"{number / 1e6:,.0f}")
        return self("unit.kb", n=f"{number / 1e3:,.0f}")

    def problem(self, problem: Problem) -> Problem:
        """Return ``problem`` with its sentences in this language, where a translation exists."""
        for translation in translations(self.language).get(problem.code, ()):
            if sentences := translation.of(problem):
                return replace(
                    problem, where=self.place(problem.where), what=sentences[0], action=sentences[1]
                )
        return replace(problem, where=self.place(problem.where))

    def error(self, error: StudioError) -> list[Problem]:
        """Return the findings behind ``error`` in this language, each once."""
        found = {(p.where, p.what): p for p in map(self.problem, error.problems)}
        return list(found.values())

    def place(self, where: str) -> str:
        """Return ``row 3, row 5 and 7 more`` in this language."""
        for kind in PLACES:
            pattern = self._texts[f"where.{kind}"]
            named = rf"\b{kind} (.+?)(?=,| and \d+ more|$)"
            where = re.sub(named, pattern.replace("{n}", r"\1"), where)
        return re.sub(r" and (\d+) more$", self._texts["where.more"].replace("{n}", r"\1"), where)
