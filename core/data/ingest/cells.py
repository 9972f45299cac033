"""Cell values as Excel shows them: 56 not 56.0, 50% not 0.5, dates and not day numbers.

A small reading of number formats (ECMA-376 part 1, 18.8.31): sections, literals, digits,
thousands, percent, exponents, fractions, dates and durations.
"""

from __future__ import annotations

import datetime as dt
import re
from fractions import Fraction
from functools import lru_cache

KEPT_DIGITS = 15  # of a number in Excel
GENERAL_DIGITS = 10  # shown of a fraction without a format

_LOCALE = re.compile(r"\[\$([^-\]]*)(?:-[^\]]*)?\]")
_CONDITION = re.compile(r"\[(?:[A-Za-z]+\d*|[<>=]+-?[\d.]+)\]")
_LITERAL = re.compile(r'"([^"]*)"|\\(.)|_.|\*.')
_DATE_PART = re.compile(r"yyyy|yy|mmmmm|mmmm|mmm|mm|m|dddd|ddd|dd|d|hh|h|ss|s|am/pm|a/p|e", re.I)
_DIGITS = re.compile(r"[#0?][#0?,]*(?:\.[#0?]*)?")
# Formats that Excel writes in the order of the reader's country; ISO is right everywhere.
_LOCAL_DATES = {"mm-dd-yy", "m/d/yy", "m/d/yyyy", "mm/dd/yy", "m/d/yy h:mm"}


def display(value: object, number_format: str = "General") -> str:
    """Return a cell's value as text.

    Args:
        value: what the file stores: text, number, truth value, date, time, duration or ``None``.
        number_format: the cell's format code.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _number(value, _section(number_format, value))
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return _moment(value, number_format)
    if isinstance(value, dt.timedelta):
        return _duration(value)
    return str(value)


def loses_digits(value: object) -> bool:
    """Say whether a number is too long for Excel to keep."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) >= 10**KEPT_DIGITS and value == value // 1


def _section(number_format: str, value: float) -> str:
    """Return the part of ``positive;negative;zero;text`` that holds for a number."""
    parts = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', number_format or "General")
    if value < 0 and len(parts) > 1:
        return parts[1]
    if value == 0 and len(parts) > 2:
        return parts[2]
    return parts[0] if value >= 0 else f"-{parts[0]}"


def _number(value: float, section: str) -> str:
    negative, section = section.startswith("-") and value < 0, section.removeprefix("-")
    plain = _CONDITION.sub("", _LOCALE.sub(r'"\1"', section)).strip()
    if plain.casefold() in ("general", "@", ""):
        return _general(value)
    body = _LITERAL.sub("", plain)
    size = abs(value)
    if "/" in body and "?" in body:
        text = _fraction(size, body)
    elif re.search(r"[eE][+-]", body):
        text = _scientific(size, body)
    elif match := _DIGITS.search(body):
        text = _fixed(size * (100 if "%" in body else 1), match.group())
    else:  # only words, or nothing
        words = _LITERAL.sub(lambda m: m.group(1) or m.group(2) or "", plain)
        return words.strip() if words != plain else _general(value)
    return ("-" if negative else "") + _around(plain, text)


def _general(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value)) if abs(value) < 1e21 else f"{value:.5E}"
    return f"{value:.{GENERAL_DIGITS}g}".replace("e", "E")


def _fixed(size: float, digits: str) -> str:
    whole, _, decimals = digits.partition(".")
    scaled = whole.rstrip(",")
    size /= 1000 ** (len(whole) - len(scaled))
    places = len(decimals)
    text = f"{size:,.{places}f}" if "," in scaled else f"{size:.{places}f}"
    optional = len(decimals) - len(decimals.rstrip("#?"))
    for _ in range(optional):
        text = text.removesuffix("0")
    text = text.removesuffix(".")
    least = scaled.count("0")
    integer, dot, rest = text.partition(".")
    return (integer.zfill(least) if "," not in scaled else integer) + dot + rest


def _scientific(size: float, body: str) -> str:
    places = len(re.sub(r"[^0#?]", "", body.partition(".")[2].upper().partition("E")[0]))
    exponent = len(re.sub(r"[^0]", "", body.upper().partition("E")[2]))
    mantissa, _, power = f"{size:.{places}E}".partition("E")
    return f"{mantissa}E{power[0]}{power[1:].lstrip('0').zfill(exponent)}"


def _fraction(size: float, body: str) -> str:
    most = 10 ** len(body.partition("/")[2].strip().rstrip('"')) - 1
    whole, rest = divmod(Fraction(size).limit_denominator(most), 1)
    if not rest:
        return str(whole)
    return f"{whole} {rest}" if whole else str(rest)


def _around(plain: str, text: str) -> str:
    """Put the literal texts of a format around the digits."""
    marked = _LITERAL.sub(lambda m: m.group(1) or m.group(2) or "", plain)
    match = re.search(r"[#0?][#0?,./ Ee+\-]*", marked)
    if not match:
        return text
    after = marked[match.end() :]
    if match.group().endswith(" "):
        after = " " + after
    return (marked[: match.start()] + text + after).strip()


def _moment(value: dt.datetime | dt.date | dt.time, number_format: str) -> str:
    code = _CONDITION.sub("", _LOCALE.sub("", number_format)).split(";")[0].strip()
    if code.casefold() in _LOCAL_DATES or not _DATE_PART.search(_LITERAL.sub("", code)):
        return _iso(value)
    if isinstance(value, dt.time):
        value = dt.datetime.combine(dt.date(1900, 1, 1), value)
    elif not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time())
    return "".join(_part(kind, text, value) for kind, text in _date_parts(code)).strip()


def _iso(value: dt.datetime | dt.date | dt.time) -> str:
    if isinstance(value, dt.datetime):
        if value.time() == dt.time():
            return value.date().isoformat()
        return value.isoformat(" ", "minutes" if not value.second else "seconds")
    if isinstance(value, dt.time):
        return value.isoformat("minutes" if not value.second else "seconds")
    return value.isoformat()


@lru_cache(maxsize=256)
def _date_parts(code: str) -> tuple[tuple[str, str], ...]:
    """Split a date format; an ``m`` after hours or before seconds means minutes."""
    twelve = bool(re.search(r"am/pm|a/p", code, re.I))
    parts: list[tuple[str, str]] = []
    for match in re.finditer(f"{_LITERAL.pattern}|({_DATE_PART.pattern})|.", code, re.I):
        literal, escaped, part = match.groups()
        if part:
            parts.append((part.casefold(), "12" if twelve else ""))
        else:
            parts.append(("", literal or escaped or ("" if match.group()[0] in "_*" else match[0])))
    names = [i for i, (kind, _) in enumerate(parts) if kind]
    for at, i in enumerate(names):
        before = parts[names[at - 1]][0] if at else ""
        after = parts[names[at + 1]][0] if at + 1 < len(names) else ""
        if parts[i][0] in ("m", "mm") and (before.startswith("h") or after.startswith("s")):
            parts[i] = ("minute" * len(parts[i][0]), parts[i][1])
    return tuple(parts)


def _part(kind: str, text: str, value: dt.datetime) -> str:
    hour = (value.hour - 1) % 12 + 1 if text == "12" else value.hour
    written = {
        "": text,
        "yyyy": f"{value.year:04d}",
        "e": f"{value.year:04d}",
        "yy": f"{value.year % 100:02d}",
        "mmmmm": value.strftime("%B")[:1],
        "mmmm": value.strftime("%B"),
        "mmm": value.strftime("%b"),
        "mm": f"{value.month:02d}",
        "m": str(value.month),
        "dddd": value.strftime("%A"),
        "ddd": value.strftime("%a"),
        "dd": f"{value.day:02d}",
        "d": str(value.day),
        "hh": f"{hour:02d}",
        "h": str(hour),
        "minuteminute": f"{value.minute:02d}",
        "minute": str(value.minute),
        "ss": f"{value.second:02d}",
        "s": str(value.second),
        "am/pm": "AM" if value.hour < 12 else "PM",
        "a/p": "A" if value.hour < 12 else "P",
    }
    return written[kind]


def _duration(value: dt.timedelta) -> str:
    minutes, seconds = divmod(round(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
