"""Possible personal data and secrets: patterns, check digits, names where the context says so.

They find what looks like personal data, never all of it; a teacher has to look, too. Which contexts
make a name is our interpretation: a bare capitalised word is none, "my name is ..." is followed by
one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Has = Callable[[re.Match[str]], bool]

# What a text must hold for the slow patterns below to be worth a try.
_SECRET_SIGNS = (
    *("sk-", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "akia", "aiza", "xox"),
    *("glpat-", "eyj", "private key", "pass", "pwd", "密码", "口令"),
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63})+", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+])(?:\+\d{1,3}(?:[ ()./-]{0,2}\d){9,12}|1[3-9]\d{9}|\(?\d{3}\)?[ -]\d{3}-\d{4}"
    r"|(?:tel|phone|mobile|电话|手机)\w{0,4}[.:： ]{1,3}\d(?:[ ()/-]{0,2}\d){5,12})(?!\d)",
    re.IGNORECASE,
)
_RESIDENT = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")
_NATIONAL = re.compile(
    r"(?<![\w-])(?:(?P<hk>[A-Z]{1,2}\d{6}\([\dA]\))|(?P<tw>[A-Z][12]\d{8})"
    r"|(?P<ssn>(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4})"
    r"|(?P<nino>[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]))(?![\w-])"
    r"|(?:身份证号?码?|护照号?码?|passport (?:no\.?|number)|(?:national )?id (?:no\.?|number)"
    r"|social security (?:no\.?|number)|personalausweis\w*)\s?(?:is|是|为)?[:：]?\s?"
    r"(?P<named>[A-Z]{0,3}\d[\dA-Z-]{5,18})",
    re.IGNORECASE,
)
_STUDENT = re.compile(
    r"(?:学号|学籍号|准考证号?码?|考生?号|学生编号|座位号)\s?[是为]?\s?[:：]?\s?[A-Za-z]{0,3}\d[\dA-Za-z-]{3,19}"
    r"|\b(?:student|pupil|matriculation|enrol?ment|enrollment|admission|candidate|exam(?:ination)?)"
    r"[ -]?(?:no\b\.?|number|id\b|nr\b\.?|#)\s?(?:is\s)?[:#]?\s?[A-Z]{0,4}-?\d[\d/-]{3,14}"
    r"|\bmatrikel(?:nummer|-?nr\.?)\s?[:#]?\s?\d{4,10}",
    re.IGNORECASE,
)
_BORN = re.compile(
    r"(?:born|birth|geburt|geboren|出生|生日)[^\n]{0,20}?(?:19[3-9]|20[0-4])\d[-./年]\d{1,2}",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"(?:微信|wechat|whatsapp|telegram|line\s?id)(?:号|id)?\s?[:：]\s?@?[A-Za-z\d][\w-]{4,30}"
    r"|(?<![a-z])qq\s?(?:号|群|number)?\s?[:：]?\s?[1-9]\d{4,10}(?!\d)",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?<![\w-])(?:sk-[\w-]{20,}|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|glpat-[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?:password|passwort|passwd|pwd|密码|口令)\s?[:：=]\s?\S{4,}",
    re.IGNORECASE,
)

# The hundred most frequent family names of the 2020 census report, and compound ones.
_FAMILY = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许邓韩冯曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕"
    "丁沈任姚卢傅钟姜崔谭廖范汪陆金石戴贾韦夏邱方侯邹熊孟秦白江阎薛尹段雷黎史龙陶贺顾毛郝龚邵万钱严"
    "覃武戚莫孔向汤"
)
_COMPOUND = "欧阳|司马|上官|诸葛|司徒|东方|皇甫|尉迟|公孙|慕容|令狐|夏侯|端木"
_PERSON = rf"(?:{_COMPOUND}|[{_FAMILY}])"
_HAN = "\u4e00-\u9fff"
# Words that begin as a family name does, before "classmate" or "parent".
_NO_PERSON = (
    "任何|任课|高一|高二|高三|高中|高年|高考|方面|向着|万一|石化|金牌|白天|江苏|江西|武汉|夏天|马上"
    "|何时|何种"
)
_NAME = re.compile(
    # "my name is Anna", "ich heiße Anna", "我叫张伟"
    r"(?:\b[Mm]y name is|\b[Ii]ch heiße|\b[Jj]e m['’]appelle|\b[Mm]e llamo)\s+"
    r"(?P<own>[A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ][\w'’-]+)?)"
    # "Pupil: Anna Schmidt", "parent named Ann Lee"
    r"|\b(?:[Pp]upil|[Ss]tudent|[Cc]lassmate|[Pp]arent|[Gg]uardian|[Mm]other|[Ff]ather|[Ff]ull name"
    r"|[Cc]lass teacher|[Hh]omeroom teacher|[Ss]chüler(?:in)?|[Ll]ehrer(?:in)?|[Nn]ame)"
    r"(?:'s name)?\s?(?::|\bnamed\b|\bcalled\b)\s*"
    r"(?P<role>[A-ZÀ-Þ][\w'’-]+ [A-ZÀ-Þ][\w'’-]+)"
    # "Ms Miller's class"
    r"|\b(?:Mr|Mrs|Ms|Miss|Herr|Frau|Mme)\.? (?P<title>[A-ZÀ-Þ][\w-]+)['’]s? "
    r"(?=class|lesson|classroom|pupil|student|office|house|phone)"
    rf"|(?:我叫|我的名字[叫是])(?P<me>{_PERSON}[{_HAN}]{{1,2}})"
    rf"|(?:姓名|联系人|监护人|家长姓名|班主任)\s?[:：是为]\s?(?P<field>{_PERSON}[{_HAN}]{{1,2}})(?![{_HAN}])"
    rf"|(?:(?<![{_HAN}])|(?<=[是和与及给请向对让问跟找]))(?!{_NO_PERSON})(?P<called>{_PERSON}[{_HAN}]{{1,2}}?)(?=同学|家长|的家长|的妈妈|的爸爸)"
)
_NAME_SIGNS = re.compile(
    r"[Nn]ame|heiße|appelle|llamo|[Pp]upil|[Ss]tudent|[Cc]lassmate|[Pp]arent|[Gg]uardian|[Mm]other"
    r"|[Ff]ather|teacher|chüler|ehrer|\bM(?:r|rs|s|iss|me)\b|Herr|Frau"
    r"|我叫|名|联系人|监护人|班主任|同学|家长|妈妈|爸爸"
)

_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_TAIWAN = {c: i for i, c in enumerate("ABCDEFGHJKLMNPQRSTUVXYWZIO", 10)}
_DIGITS = re.compile(r"\d{2}")


def is_resident_id(number: str) -> bool:
    """Say whether 18 digits are a Chinese resident id: birth date and check digit (GB 11643)."""
    try:
        born = dt.datetime.strptime(number[6:14], "%Y%m%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return False
    total = sum(int(d) * w for d, w in zip(number, _RESIDENT_WEIGHTS, strict=False))
    return born.year >= 1900 and "10X98765432"[total % 11] == number[17].upper()


def is_hong_kong_id(number: str) -> bool:
    """Say whether ``A123456(3)`` is a Hong Kong identity card number, by its check digit."""
    head, check = number.upper().rstrip(")").split("(")
    values = [36] * (8 - len(head)) + [int(c, 36) for c in head]  # a missing letter counts 36
    total = sum(v * w for v, w in zip(values, range(9, 1, -1), strict=True))
    return (total + int(check, 16)) % 11 == 0


def is_taiwan_id(number: str) -> bool:
    """Say whether ``A123456789`` is a national identification number of Taiwan, by its check."""
    first = _TAIWAN[number[0].upper()]
    digits = [first // 10, first % 10, *map(int, number[1:])]
    return (
        sum(d * w for d, w in zip(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True)) % 10 == 0
    )


def _is_national(match: re.Match[str]) -> bool:
    if found := match["hk"]:
        return is_hong_kong_id(found)
    if found := match["tw"]:
        return is_taiwan_id(found)
    return not (match["named"] and _RESIDENT.fullmatch(match["named"]))  # a kind of its own


@dataclass(frozen=True)
class Kind:
    """One kind of personal data.

    Attributes:
        title: as counts and English sentences call it.
        code: of the finding.
        pattern: what it looks like.
        mark: what is written in its place.
        sign: a pattern without which a text is not searched further.
        holds: a check of a match (a check digit).
        part: whether only the named group that matched is the datum, not the words around it.
    """

    title: str
    code: str
    pattern: re.Pattern[str]
    mark: str
    sign: re.Pattern[str] = _DIGITS
    holds: Has = lambda match: True
    part: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where in a text it possibly stands."""
        if not self.sign.search(text):
            return
        for match in self.pattern.finditer(text):
            if self.holds(match):
                group = match.lastgroup if self.part else None
                yield match.span(group) if group else match.span()


KINDS = (
    Kind("e-mail address", "health.email", _EMAIL, "[e-mail]", re.compile("@")),
    Kind("phone number", "health.phone", _PHONE, "[phone]"),
    Kind(
        "resident id",
        "health.resident_id",
        _RESIDENT,
        "[id]",
        holds=lambda match: is_resident_id(match.group()),
    ),
    Kind("national id", "health.national_id", _NATIONAL, "[id]", holds=_is_national, part=True),
    Kind("student number", "health.student_number", _STUDENT, "[student number]"),
    Kind("birth date", "health.birth_date", _BORN, "[birth date]"),
    Kind("messenger account", "health.account", _ACCOUNT, "[account]"),
    Kind("name", "health.name", _NAME, "[name]", _NAME_SIGNS, part=True),
)

_SIGNS = {kind.sign for kind in KINDS}


def kinds_in(text: str) -> list[Kind]:
    """Return the kinds of personal data that a text possibly holds."""
    signs = {sign for sign in _SIGNS if sign.search(text)}
    return [k for k in KINDS if k.sign in signs and next(k.spans(text), None) is not None]


def masked(text: str, code: str) -> str:
    """Return a text with one kind of personal data (or secrets) written over."""
    if code == "health.secrets":
        return _SECRET.sub("[secret]", text) if has_secret(text) else text
    kind = next(k for k in KINDS if k.code == code)
    parts, end = [], 0
    for start, stop in kind.spans(text):
        parts += [text[end:start], kind.mark]
        end = stop
    return "".join([*parts, text[end:]])


def has_secret(text: str) -> bool:
    """Say whether a text possibly holds a password or a key."""
    lower = text.casefold()
    return any(s in lower for s in _SECRET_SIGNS) and _SECRET.search(text) is not None
