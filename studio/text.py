"""All words of the studio, in one place: ``assets/locales/<language>.json``.

A page never contains a sentence of its own; it asks ``words("plan.title")``. Findings about files
(:class:`core.errors.Problem`) are written in English where they arise; here they are translated by
their code and values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from core.errors import Problem, StudioError
from core.home import ASSETS

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT_LANGUAGE = "en"


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


@cache
def _problem_texts(language: str) -> dict[str, dict[str, str]]:
    file = ASSETS / "locales" / f"problems.{language}.json"
    if not file.exists():  # English sentences come with the problems themselves
        return {}
    texts: dict[str, dict[str, str]] = json.loads(file.read_text("utf-8"))
    return texts


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
        texts = _problem_texts(self.language).get(problem.code)
        if not texts:
            return problem
        try:
            what, action = (texts.get(k, "").format(**dict(problem.values)) for k in _SENTENCES)
        except (KeyError, IndexError, ValueError):
            return problem  # a value the translation needs is missing: the English is still right
        return Problem(
            self._where(problem.where),
            what or problem.what,
            action or problem.action,
            problem.severity,
            problem.code,
            problem.values,
        )

    def error(self, error: StudioError) -> list[Problem]:
        """Return the findings behind ``error`` in this language."""
        return [self.problem(p) for p in error.problems]

    def _where(self, where: str) -> str:
        kind, _, rest = where.partition(" ")
        pattern = self._texts.get(f"where.{kind}")
        return pattern.format(n=rest) if pattern and rest else where


_SENTENCES = ("what", "action")
