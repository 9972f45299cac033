"""Characters and words that are not what they seem, and how they are mended."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable

STACKED = 6  # accents on one letter

_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MOJIBAKE = re.compile(
    "[ÂÃ][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
    "|â€|ï»¿|锟斤拷|\ufffd"
)
_CONTROL_WORDS = (
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|<[be]os>"
    r"|<｜[^｜]{1,40}｜>"
)
# A tag with nothing but attributes in it: "a <b and b> c" is none.
_TAG = re.compile(
    r"<(/?)(p|br|hr|div|span|b|i|u|em|strong|small|font|img|table|tbody|thead|tr|td|th|ul|ol|li|a"
    r"|h[1-6]|sub|sup|pre|script|style|o:p)((?:\s+[\w:-]+\s?=\s?(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>]+))*)"
    r"\s*/?>",
    re.IGNORECASE,
)
_UNSHOWN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|[lr][sd]quo|[nm]dash|hellip|times|deg|#\d{2,6}|#x[\da-f]{2,5});",
    re.IGNORECASE,
)
_BREAKS = (
    "br",
    "hr",
    "p",
    "div",
    "li",
    "tr",
    "table",
    "ul",
    "ol",
    "pre",
    *(f"h{n}" for n in range(1, 7)),
)
_LATEX = re.compile(
    r"\\(?:begin|end)\{\w+\*?\}"
    r"|\\(?:d|t)?frac\b|\\(?:sqrt|text\w*|math\w+|left|right|cdot|times|div|pm|leq?|geq?|neq?"
    r"|approx|infty|alpha|beta|gamma|delta|theta|lambda|mu|pi|sigma|omega|sum|int|lim|item|emph"
    r"|includegraphics|section\*?|par|quad|ldots|cdots|circ|degree|overline|underline|vec|hat)(?![a-zA-Z])"
    r"|\\[()\[\]]"
)


def control(text: str) -> str:
    """Return an invisible control character of a text with what is around it, or nothing."""
    return around(_CONTROL, text)


def bidi(text: str) -> str:
    """Return where characters turn the direction of writing, or nothing."""
    return "" if text.isascii() else around(_BIDI, text)


def mojibake(text: str) -> str:
    """Return where a text looks as if it was read in a wrong encoding, or nothing."""
    return "" if text.isascii() else around(_MOJIBAKE, text)


def marks(text: str) -> str:
    """Return an accent that is stacked on others, or nothing."""
    if text.isascii():
        return ""
    run = 0
    for c in text:
        run = run + 1 if unicodedata.combining(c) else 0
        if run > STACKED:
            return c
    return ""


def debris(text: str) -> str:
    """Return a tag or an entity of HTML, or nothing."""
    found = _TAG.search(text) if "<" in text else None
    found = found or (_ENTITY.search(text) if "&" in text else None)
    return found.group()[:60] if found else ""


def latex(text: str) -> str:
    """Return a command of LaTeX, or nothing."""
    return around(_LATEX, text) if "\\" in text else ""


def control_words(tokens: Iterable[str] = ()) -> re.Pattern[str]:
    """Return the pattern of words that steer a model.

    Args:
        tokens: further ones, of a tokenizer.
    """
    own = sorted((t for t in tokens if len(t.strip()) > 2), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, own), _CONTROL_WORDS]))


def around(pattern: re.Pattern[str], text: str) -> str:
    """Return a match with a few characters before and after it, or nothing."""
    match = pattern.search(text)
    return text[max(0, match.start() - 5) : match.end() + 10] if match else ""


# How each is mended


def without_control(text: str) -> str:
    """Return a text without invisible control characters."""
    return _CONTROL.sub("", text)


def without_bidi(text: str) -> str:
    """Return a text without characters that turn the direction of writing."""
    return _BIDI.sub("", text)


def without_marks(text: str) -> str:
    """Return a text with at most two accents on a letter."""
    kept, run = [], 0
    for c in text:
        run = run + 1 if unicodedata.combining(c) else 0
        kept.append(c if run <= 2 else "")
    return "".join(kept)


def repaired(text: str) -> str:
    """Return a text as it was before it was read in a wrong encoding, as far as that can be told.

    By ftfy; what is lost (replacement characters) stays lost.
    """
    import ftfy  # only where something is mended

    return ftfy.fix_encoding(text)


def without_words(pattern: re.Pattern[str]) -> Callable[[str], str]:
    """Return what takes the words of a pattern out of a text."""
    return lambda text: _tidy(pattern.sub("", text)) if pattern.search(text) else text


def without_html(text: str) -> str:
    """Return a text without tags and entities; paragraphs become lines."""
    if not debris(text):
        return text
    text = _UNSHOWN.sub("", text)
    text = _TAG.sub(lambda m: "\n" if m.group(2).casefold() in _BREAKS else "", text)
    return _tidy(_ENTITY.sub(lambda m: html.unescape(m.group()).replace("\xa0", " "), text))


def without_latex(text: str) -> str:
    """Return a text with formulas in plain characters, by pylatexenc."""
    if not latex(text):
        return text
    from pylatexenc.latex2text import LatexNodes2Text  # only where something is mended

    # a bare percent sign would begin a comment and take the rest of the line away
    safe = re.sub(r"(?<!\\)%", r"\\%", text)
    plain: str = LatexNodes2Text(math_mode="text").latex_to_text(safe)
    return (plain.strip() and _tidy(plain)) or text


def _tidy(text: str) -> str:
    """Return a text without the white space that removed words leave."""
    lines = [re.sub(r"[ \t]{2,}", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
