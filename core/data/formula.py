"""Texts that a spreadsheet would take for a formula: protected in files, undone in reading.

One pair of functions, so that what one writes the other takes back:
``unprotected(protected(text))`` is ``text``, whatever it is.
"""

from __future__ import annotations

import re

# What a spreadsheet would take for a formula, whatever quotes stand before it (OWASP).
_FORMULA = re.compile(r"'*[=+\-@\t\r\0]")
_PROTECTED = re.compile(r"'+[=+\-@\t\r\0]")


def protected(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unprotected(text: str) -> str:
    """Return a text as it was before :func:`protected`."""
    return text[1:] if text[:1] == "'" and _PROTECTED.match(text) else text
