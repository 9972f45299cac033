"""What a teacher should know about a class before a model learns it.

Everything here is a hint: patterns find *possible* personal data, and never all of it.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from core.data.messages import CODES, Findings
from core.data.split import asked, normalised, text_groups
from core.data.types import Example
from core.errors import Problem

# What a text must hold for the slow patterns below to be worth a try.
_SECRET_SIGNS = (
    *("sk-", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "akia", "aiza", "xox"),
    *("glpat-", "eyj", "private key", "pass", "pwd", "密码", "口令"),
)
LONG = 2048  # characters of English that make about 512 tokens
FOREIGN = 3  # a character outside ASCII takes about as many tokens as three within
STACKED = 6  # accents on one letter
MOST_NEAR = 10_000  # examples up to which near duplicates are looked for

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63})+", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+])(?:\+\d{1,3}(?:[ ()./-]{0,2}\d){9,12}|1[3-9]\d{9}|\(?\d{3}\)?[ -]\d{3}-\d{4}"
    r"|(?:tel|phone|mobile|电话|手机)\w{0,4}[.:： ]{1,3}\d(?:[ ()/-]{0,2}\d){5,12})(?!\d)",
    re.IGNORECASE,
)
_RESIDENT = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")
_BORN = re.compile(
    r"(?:born|birth|geburt|geboren|出生|生日)[^\n]{0,20}?(?:19[3-9]|20[0-4])\d[-./年]\d{1,2}",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?<![\w-])(?:sk-[\w-]{20,}|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|glpat-[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?:password|passwort|passwd|pwd|密码|口令)\s?[:：=]\s?\S{4,}",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d{2}")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_MOJIBAKE = re.compile(
    "[ÂÃ][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
    "|â€|ï»¿|锟斤拷|\ufffd"
)
_CONTROL_WORDS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|<[be]os>|<｜[^｜]{1,40}｜>"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def check(examples: Sequence[Example]) -> tuple[dict[str, Any], list[Problem]]:
    """Look through a class.

    Returns:
        Counts (``examples, distinct, duplicates, near_duplicates, contradictions, empty, long,
        longest, control, bidi, marks, mojibake, control_words, personal{kind}, secrets``), each
        in examples, ``longest`` in characters; and the findings as sentences.
    """
    findings = Findings()
    if len(examples) == 1:
        findings.add("health.one_example", examples[0].where)
    counts: dict[str, Any] = {"examples": len(examples)}
    counts |= _repetitions(examples, findings)
    counts |= _lengths(examples, findings)
    counts |= _letters(examples, findings)
    counts |= _private(examples, findings)
    return counts, findings.problems()


def _repetitions(examples: Sequence[Example], findings: Findings) -> dict[str, int]:
    questions = [normalised(asked(e)) for e in examples]
    seen: set[tuple[str, str]] = set()
    answered: set[str] = set()
    again, other = [], []
    for example, question in zip(examples, questions, strict=True):
        pair = question, normalised(example.answer)
        if pair in seen:
            again.append(example.where)
        elif question in answered:
            other.append(example.where)
        seen.add(pair)
        answered.add(question)
    for where in again:
        findings.add("health.duplicates", where, distinct=len(seen), examples=len(examples))
    for where in other:
        findings.add("health.contradictions", where)
    near = _near_duplicates(questions)
    for i in near:
        findings.add("health.near_duplicates", examples[i].where)
    return {
        "distinct": len(seen),
        "duplicates": len(again),
        "contradictions": len(other),
        "near_duplicates": len(near),
    }


def _near_duplicates(questions: Sequence[str]) -> list[int]:
    """Return the indices of questions that nearly, but not quite, equal an earlier one."""
    if len(questions) > MOST_NEAR:
        return []
    near: list[int] = []
    for group in text_groups(questions):
        seen = {questions[group[0]]}
        for i in group[1:]:
            near += [i] if questions[i] not in seen else []
            seen.add(questions[i])
    return sorted(near)


def _lengths(examples: Sequence[Example], findings: Findings) -> dict[str, int]:
    sizes = [sum(len(t.content) for t in e.turns) for e in examples]
    long = [i for i, e in enumerate(examples) if _weight(e) > LONG]
    longest = max(sizes, default=0)
    most = max((sizes[i] for i in long), default=0)
    for i in long:
        findings.add("health.long", examples[i].where, characters=most, kept=LONG)
    empty = sum(not (e.question.strip() and e.answer.strip()) for e in examples)
    return {"empty": empty, "long": len(long), "longest": longest}


def _weight(example: Example) -> int:
    texts = [t.content for t in example.turns]
    ascii_only = sum(len(t) for t in texts if t.isascii())
    mixed = "".join(t for t in texts if not t.isascii())
    foreign = sum(not c.isascii() for c in mixed)
    return ascii_only + len(mixed) + (FOREIGN - 1) * foreign


def _letters(examples: Sequence[Example], findings: Findings) -> dict[str, int]:
    """Point out characters that are not what they seem."""
    signs: dict[str, Callable[[str], str]] = {
        "control": lambda t: _found(_CONTROL, t),
        "bidi": lambda t: _found(_BIDI, t),
        "marks": _stacked,
        "mojibake": lambda t: _found(_MOJIBAKE, t),
        "control_words": lambda t: _found(_CONTROL_WORDS, t),
    }
    counts = dict.fromkeys(signs, 0)
    samples: dict[str, str] = {}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for example in examples:
        text = "\n".join(t.content for t in example.turns)
        for sign, finds in signs.items():
            if sample := finds(text):
                counts[sign] += 1
                samples.setdefault(sign, sample)
                found[sign].append(example.where)
    for sign, where in ((s, w) for s, places in sorted(found.items()) for w in places):
        code = "text.control" if sign == "control" else f"health.{sign}"
        shown = {"sample": samples[sign]} if "{sample}" in CODES[code].what else {}
        findings.add(code, where, **shown)
    return counts


def _found(pattern: re.Pattern[str], text: str) -> str:
    if pattern in (_BIDI, _MOJIBAKE) and text.isascii():
        return ""
    match = pattern.search(text)
    return text[max(0, match.start() - 5) : match.end() + 10] if match else ""


def _stacked(text: str) -> str:
    if text.isascii():
        return ""
    run = 0
    for c in text:
        run = run + 1 if unicodedata.combining(c) else 0
        if run > STACKED:
            return c
    return ""


def _private(examples: Sequence[Example], findings: Findings) -> dict[str, Any]:
    kinds: dict[str, Callable[[str], bool]] = {
        "e-mail address": lambda t: "@" in t and _EMAIL.search(t) is not None,
        "phone number": lambda t: _DIGITS.search(t) is not None and _PHONE.search(t) is not None,
        "resident id": lambda t: any(map(is_resident_id, _RESIDENT.findall(t))),
        "birth date": lambda t: _DIGITS.search(t) is not None and _BORN.search(t) is not None,
    }
    personal: Counter[str] = Counter()
    where_personal, where_secret = [], []
    for example in examples:
        text = "\n".join(t.content for t in example.turns)
        found = [kind for kind, has in kinds.items() if has(text)]
        personal.update(found)
        where_personal += [example.where] if found else []
        where_secret += [example.where] if _has_secret(text) else []
    listed = ", ".join(f"{kind}: {personal[kind]}" for kind in kinds if personal[kind])
    for where in where_personal:
        findings.add("health.personal", where, kinds=listed)
    for where in where_secret:
        findings.add("health.secrets", where)
    return {"personal": dict(personal), "secrets": len(where_secret)}


def _has_secret(text: str) -> bool:
    lower = text.casefold()
    return any(s in lower for s in _SECRET_SIGNS) and _SECRET.search(text) is not None


def is_resident_id(number: str) -> bool:
    """Say whether 18 digits are a Chinese resident id: birth date and check digit (GB 11643)."""
    try:
        born = dt.datetime.strptime(number[6:14], "%Y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return False
    total = sum(int(d) * w for d, w in zip(number, _WEIGHTS, strict=False))
    return born.year >= 1900 and "10X98765432"[total % 11] == number[17].upper()
