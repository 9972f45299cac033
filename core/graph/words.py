"""What a map says to a teacher, in English and Chinese: ``assets/report/graph.LANGUAGE.json``.

Command line, exports and page take their sentences from here. No torch.
"""

from __future__ import annotations

import json
from functools import cache

from core.home import ASSETS

LANGUAGES = ("en", "zh")


class Wording:
    """The sentences of one language, by dotted key."""

    def __init__(self, language: str) -> None:
        """Load ``en`` or ``zh``; any other language gives English."""
        self.language = language if language in LANGUAGES else "en"

    def __call__(self, key: str, **values: object) -> str:
        """Return the sentence under ``key`` with its fields filled in.

        Raises:
            KeyError: for an unknown key (a bug; a test looks for it).
        """
        return texts(self.language)[key].format(**values)

    def counted(self, key: str, count: int, **values: object) -> str:
        """As calling it, with ``count``; one thing has a sentence of its own (``key`` + "_1")."""
        own = f"{key}_1"
        known = count == 1 and own in texts(self.language)
        return self(own if known else key, count=count, **values)


@cache
def texts(language: str) -> dict[str, str]:
    """All sentences of a language by dotted key."""
    tree = json.loads((ASSETS / "report" / f"graph.{language}.json").read_text("utf-8"))
    return {f"{group}.{key}": text for group, own in tree.items() for key, text in own.items()}
