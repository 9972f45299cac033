"""Bytes to text: BOM, then strict UTF-8, then UTF-16 by its pattern, then a guess that is told.

Bytes that are no text stay in it as lone surrogates (PEP 383), so that they cost one row only.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from core.data.messages import Findings, data_error
from core.data.types import Candidate

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMES = {
    "gb18030": "GB18030 (GBK, Chinese)",
    "big5hkscs": "Big5 (traditional Chinese)",
    "cp932": "Shift-JIS (Japanese)",
    "euc_jp": "EUC-JP (Japanese)",
    "cp949": "EUC-KR (Korean)",
    "cp1251": "cp1251 (Windows, Cyrillic)",
    "cp1252": "cp1252 (Windows, Western European)",
}
SAMPLE = 1 << 18  # bytes on which a guess rests
PREVIEW_LINES, PREVIEW_LINE = 4, 160  # lines of a preview, and characters of each
BAD = re.compile("[\udc80-\udcff]")  # bytes that could not be decoded

# The most frequent characters of each language, for telling apart codecs that all "fit".
_CHINESE = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然"
    "于心学么之都好看起发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方什数题答问"
    "几解共等分加减乘除每哪谁怎吗呢，。？！：、（）；"
)
_TRADITIONAL = (
    "的一是了我不人在他有這個上們來到時大地為子中你說生國年著就那和要她出也得裡後自以會家可下而過天去能對小多然"
    "於心學麼之都好看起發當沒成只如事把還用第樣道想作種開美總從無情己面最女但現前些所同日手又行意動方什數題答問"
    "幾解共等分加減乘除每哪誰怎嗎呢，。？！：、（）；"
)
_JAPANESE = "のにはをたがでてとしれさあいうるりらんなもかこそきまくせつ、。？一日人年大"
_KOREAN = "이다는의에을가를고지로하은한사기도어리자나라시아인있그서만대일것부수정니해무엇까요습"
_FREQUENT = {
    "gb18030": _CHINESE,
    "big5hkscs": _TRADITIONAL,
    "cp932": _JAPANESE,
    "euc_jp": _JAPANESE,
    "cp949": _KOREAN,
}


@dataclass(frozen=True)
class Decoded:
    """A file's text and the name of its encoding, as Python knows it.

    ``cut_off`` if the text ends in the middle of a character; ``guessed`` if another encoding is
    possible.
    """

    text: str
    encoding: str
    cut_off: bool = False
    guessed: bool = False


def decode(data: bytes, findings: Findings, encoding: str = "") -> Decoded:
    """Return the text of a file.

    Args:
        data: the bytes.
        findings: is told a guess.
        encoding: what the teacher chose; empty: recognised from the content.

    Raises:
        DataError: if the chosen encoding does not exist.
    """
    if encoding:
        return _as_chosen(data, encoding)
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _decoded(data[len(bom) :], name)
    # before UTF-8: text in UTF-16 is valid UTF-8 as long as it is plain English
    if name := _utf16_pattern(data):
        return _decoded(data, name)
    if _mostly_utf8(data):
        return _decoded(data, "utf-8")
    name = _guess(data)
    findings.add("encoding.guessed", encoding=_NAMES[name])
    return replace(_decoded(data, name), guessed=True)


def candidates(data: bytes, chosen: str = "") -> tuple[Candidate, ...]:
    """Return the encodings that a text may have, the likeliest first, each with a preview.

    Args:
        data: the bytes; only the first 256 KB are looked at.
        chosen: the encoding that was recognised or chosen; it comes first.
    """
    sample = data[:SAMPLE]
    wide = _utf16_pattern(sample)
    names = [*filter(None, (chosen, wide)), "utf-8", *_NAMES]
    foreign = _foreign_lines(sample)
    scores = {n: _score(foreign, n) for n in _FREQUENT} | {"cp1251": 0.1 * _looks_cyrillic(foreign)}
    found: dict[str, Candidate] = {}
    for name in names:
        bom = next((b for b, n in _BOMS if n.startswith(name) and sample.startswith(b)), b"")
        text = sample[len(bom) :].decode(name, "replace")
        bad = text.rstrip("\ufffd").count("\ufffd")  # the end of a sample may cut a character
        found.setdefault(name, Candidate(name, title(name), _preview(text), bad == 0))

    def rank(name: str) -> tuple[bool, bool, bool, float]:
        likely = name == chosen, name == wide, name == "utf-8" and found[name].fits
        return (*likely, scores.get(name, 0.0) + found[name].fits)

    return tuple(found[name] for name in sorted(found, key=rank, reverse=True))


def title(name: str) -> str:
    """Return an encoding's name for people."""
    return _NAMES.get(name, name.upper())


def _preview(text: str) -> str:
    """Return the first lines that show a difference: those with letters outside ASCII."""
    lines = [line for line in text.splitlines() if line.strip("\ufeff \t")]
    telling = [line for line in lines if not line.isascii()] or lines
    shown = (_printable(line)[:PREVIEW_LINE] for line in telling[:PREVIEW_LINES])
    return "\n".join(filter(None, shown))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\ufffd" else " " for c in line).strip()


def has_bad_bytes(text: str) -> bool:
    """Say whether a text holds bytes that could not be decoded."""
    return not text.isascii() and BAD.search(text) is not None


def _as_chosen(data: bytes, encoding: str) -> Decoded:
    try:
        name = codecs.lookup(encoding.strip()).name
        "a".encode(name)  # base64 and the like are no text encodings
    except (LookupError, TypeError, ValueError) as error:
        raise data_error("encoding.unknown", encoding=encoding) from error
    bom = next((b for b, n in _BOMS if n.startswith(name) and data.startswith(b)), b"")
    return _decoded(data[len(bom) :], name)


def _decoded(data: bytes, name: str) -> Decoded:
    cut_off = _is_cut_off(data, name)
    if name in ("utf-16-le", "utf-16-be"):
        return Decoded(_by_line(data, name), name, cut_off)
    errors = "replace" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return Decoded(data.decode(name, errors), name, cut_off)


def _by_line(data: bytes, name: str) -> str:
    """Decode UTF-16 so that a byte too many or too few costs its own line only.

    A line end keeps its two bytes wherever the line began. Half characters stay lone surrogates.
    """
    if len(data) % 2 == 0:
        return data.decode(name, "surrogatepass")
    end = "\n".encode(name)
    lines = data.split(end)
    texts = []
    for i, line in enumerate(lines):
        whole = line[: len(line) & ~1].decode(name, "surrogatepass")
        last = i == len(lines) - 1
        texts.append(whole if len(line) % 2 == 0 or last else f"{whole}\udc80")
    return "\n".join(texts)


def _is_cut_off(data: bytes, name: str) -> bool:
    if name.startswith(("utf-16", "utf-32")):
        return len(data) % (int(name[4:6]) // 8) != 0
    try:
        data.rstrip(b"\r\n").rpartition(b"\n")[2].decode(name)
    except UnicodeDecodeError as error:
        return error.reason in ("unexpected end of data", "incomplete multibyte sequence")
    return False


def _utf16_pattern(data: bytes) -> str:
    """Return UTF-16 if a text without BOM has its pattern: NULs, and letters of some script.

    Latin text has a NUL in every other byte. Chinese text has few, in either byte (the code of
    ``一`` ends in one), but is no UTF-8, and only one order of the bytes makes sense.
    """
    sample = data[: SAMPLE & ~1]
    if len(sample) < 4 or b"\0" not in sample:
        return ""
    controls = len(re.findall(rb"[\x01-\x08\x0e-\x1a]", sample))  # high bytes of Cyrillic are some
    if (sample.count(0) + controls) * 4 < len(sample) and _fits(sample, "utf-8"):
        return ""  # a stray NUL
    shares = {name: _sensible_share(sample, name) for name in ("utf-16-le", "utf-16-be")}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= 0.95 and min(shares.values()) < 0.9 else ""


def _sensible_share(data: bytes, name: str) -> float:
    text = data.decode(name, "replace")[:4096]
    if not re.search(r"[,;\t|\r\n{<]", text):
        return 0.0
    return sum(map(_is_sensible, text)) / len(text)


def _is_sensible(c: str) -> bool:
    """Say whether a character occurs in texts: no rare script, no unassigned code, no control."""
    return (
        c in "\t\r\n\ufeff"
        or " " <= c < "\u0600"
        or "\u0900" <= c < "\u0e80"
        or "\u1e00" <= c < "\u2c00"
        or "\u3000" <= c < "\u3200"
        or "\u4e00" <= c < "\u9fff"
        or "\uac00" <= c < "\ud7b0"
        or "\ud800" <= c < "\ue000"
        or "\uff00" <= c < "\uffef"
    )


def _mostly_utf8(data: bytes) -> bool:
    """Say whether a text is UTF-8 but for some bytes: a cut end, a line pasted from elsewhere."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
        bad = len(BAD.findall(text))
        good = len(data) - bad - sum(c.isascii() for c in text)
        lines = [line for line in re.split(rb"[\r\n]", data) if not line.isascii()]
        fitting = sum(_fits(line, "utf-8") for line in lines)
        # text in another encoding hardly ever has one valid sequence, let alone a valid line
        return good > 2 * bad or fitting * 2 > len(lines)
    return True


def _fits(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _foreign_lines(data: bytes) -> bytes:
    return b"\n".join(line for line in re.split(rb"[\r\n]", data[:SAMPLE]) if not line.isascii())


def _guess(data: bytes) -> str:
    sample = _foreign_lines(data)
    scores = {name: _score(sample, name) for name in _FREQUENT}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] >= 0.15:
        return best
    return "cp1251" if _looks_cyrillic(sample) else "cp1252"


def _score(sample: bytes, name: str) -> float:
    """Return the share of a language's frequent characters among all that are not ASCII."""
    text = sample.decode(name, "surrogateescape")
    foreign = [c for c in text if not c.isascii()]
    bad = sum("\udc80" <= c <= "\udcff" for c in foreign)
    if not foreign or bad > 0.05 * len(foreign):
        return 0.0
    return sum(c in _FREQUENT[name] for c in foreign) / len(foreign)


def _looks_cyrillic(sample: bytes) -> bool:
    """Cyrillic words are foreign letters throughout; Western ones have few accents each."""
    runs = re.findall(rb"[\xc0-\xff]+", sample)
    return bool(runs) and sum(map(len, runs)) >= 3 * len(runs)
