"""The words of a comparison in English and Chinese: ``assets/report/compare.LANGUAGE.json``.

Table, CSV, report and page take the names of measures, methods and settings from here, so that a
column is called the same everywhere. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from core.config import GB, MB
from core.home import ASSETS
from core.methods import METHODS

LANGUAGES = ("en", "zh")
_SIZES = ("budget_bytes",)
_FILES = ("data.path", "model")


class Wording:
    """The texts of one language, by dotted key."""

    def __init__(self, language: str) -> None:
        """Load ``en`` or ``zh``; any other language gives English."""
        self.language = language if language in LANGUAGES else "en"
        self._texts = _texts(self.language)

    def __call__(self, key: str, **values: object) -> str:
        """Return the text under ``key`` with its fields filled in.

        Raises:
            KeyError: for an unknown key (a bug; a test looks for it).
        """
        text = self._texts[key]
        return text.format(**values) if values else text

    def method(self, method_id: str) -> str:
        """Return a method's short name: from the words, else from its own title."""
        return self._of_method(method_id, "name", 0)

    def about(self, method_id: str) -> str:
        """Return what a method does, in half a sentence."""
        return self._of_method(method_id, "about", 1)

    def _of_method(self, method_id: str, part: str, place: int) -> str:
        title = next((m.title for m in METHODS if m.id == method_id), method_id)
        pieces = title.split(": ", 1)
        otherwise = pieces[place] if place < len(pieces) else ""
        return self._texts.get(f"methods.{method_id}.{part}", otherwise)

    def field(self, path: str) -> str:
        """Return the name of a setting; one without a name of its own keeps its path."""
        return self._texts.get(f"fields.{path}", path)

    def value(self, path: str, value: Any) -> str:
        """Return a setting's value in words."""
        if own := self._texts.get(f"values.{path}.{value}"):
            return own
        if isinstance(value, bool):
            return self("values.on" if value else "values.off")
        if path in _SIZES:
            return size(value)
        if path in _FILES:
            return Path(str(value)).name
        if isinstance(value, str):
            return self._texts.get(f"values.{value}", value)
        return f"{value:g}" if isinstance(value, float) else str(value)

    def setting(self, path: str, value: Any) -> str:
        """Return name and value of a setting in a few words."""
        return self("setting", name=self.field(path), value=self.value(path, value))


@cache
def _texts(language: str) -> dict[str, str]:
    file = ASSETS / "report" / f"compare.{language}.json"
    return dict(_flat(json.loads(file.read_text("utf-8"))))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    # A key may hold dots itself ("adapter.rank"): dotted paths stay readable in the file.
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def size(number: float) -> str:
    """Return a byte count in decimal units."""
    if number >= GB:
        return f"{number / GB:.2f} GB"
    if number >= MB:
        return f"{number / MB:,.0f} MB"
    return f"{number / 1000:,.1f} kB"
