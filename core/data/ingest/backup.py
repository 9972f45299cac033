"""Moodle backups (``.mbz``): the question bank in them, as tar.gz or zip, never unpacked to disk.

After Moodle's ``backup/moodle2/backup_stepslib.php`` (the structure of ``questions.xml``): until
3.11 questions stand below their category, from 4.0 on below entries of the bank and their versions.
Each is turned into what Moodle XML says of it, and read by the same reader.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element, SubElement

from core.data.ingest.archive import names_in, opened, part
from core.data.ingest.encoding import decode
from core.data.ingest.markup import LINE, parse_xml
from core.data.ingest.moodle import read_moodle
from core.data.ingest.package import LARGEST, MOST_PARTS, PROLOG, RATIO, RATIO_FROM
from core.data.ingest.questions import Found
from core.data.messages import Findings, data_error
from core.errors import DataError

GZIP = b"\x1f\x8b"
BANK, ABOUT = "questions.xml", "moodle_backup.xml"
_HEADER = 512  # bytes of a tar file's first record
_HTML, _PLAIN, _MARKDOWN = "1", "2", "4"  # Moodle's numbers of text formats
_FORMATS = {_HTML: "html", _PLAIN: "plain_text", _MARKDOWN: "markdown"}
_SUB = re.compile(r"\{#(\d+)\}")
_TYPES = {"match": "matching", "multianswer": "cloze"}


def is_backup(data: bytes) -> bool:
    """Say whether bytes are a tar.gz (whatever is in it) or a zip file with a question bank."""
    if data.startswith(GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(data[:PROLOG], _HEADER)
        except zlib.error:
            return False
        return head[257:262] == b"ustar" or _is_old_tar(head)
    return data.startswith(b"PK") and names_in(data) >= {BANK, ABOUT}


def _is_old_tar(head: bytes) -> bool:
    """Say whether a record has the check sum of a tar header (without ``ustar``)."""
    said = head[148:156].strip(b" \0")
    if len(head) < _HEADER or not said.isdigit() or any(c not in b"01234567" for c in said):
        return False
    return int(said, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:])


def read_backup(data: bytes, findings: Findings) -> Found:
    """Return the questions of a backup's bank.

    Raises:
        DataError: if it has none, is damaged, or swells like a bomb.
    """
    content = _from_tar(data) if data.startswith(GZIP) else _from_zip(data)
    if content is None:
        raise data_error("backup.no_bank")
    root = parse_xml(decode(content, findings).text, findings)
    quiz = Element("quiz")
    for category in root.iter("question_category"):
        _add_category(quiz, category)
    return read_moodle(quiz, findings, BANK)


def _from_zip(data: bytes) -> bytes | None:
    with opened(data) as package:
        return part(package, BANK) if BANK in package.namelist() else None


def _from_tar(data: bytes) -> bytes | None:
    """Return the bank; what stands before it is passed over, piece by piece."""
    unpacked = _Unpacked(data)
    try:
        with tarfile.open(fileobj=unpacked, mode="r|", bufsize=PROLOG) as archive:
            for number, member in enumerate(archive):
                if number > MOST_PARTS:
                    raise data_error("package.not_safe", reason="it has too many parts")
                if member.isreg() and member.name.removeprefix("./") == BANK:
                    file = archive.extractfile(member)
                    return file.read() if file else None
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes tarfile and zlib stumble over
        raise data_error("package.damaged") from error
    return None


class _Unpacked(io.RawIOBase):
    """The bytes of a gzip file, unpacked as they are read; too many of them are refused."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._packed, self._size = data, len(data)
        self._unpacker = zlib.decompressobj(wbits=31)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        room = PROLOG if size < 0 else size
        pieces = io.BytesIO()
        while pieces.tell() < room and not self._unpacker.eof:
            piece = self._unpacker.decompress(self._packed, room - pieces.tell())
            self._packed = self._unpacker.unconsumed_tail
            if not piece and not self._packed:
                break  # cut off: tarfile says so
            pieces.write(piece)
        self._seen += pieces.tell()
        swollen = self._seen >= RATIO_FROM and self._seen > RATIO * self._size
        if swollen or self._seen > LARGEST:
            raise data_error("package.too_large", size=self._seen >> 20)
        return pieces.getvalue()


# --- from the bank to Moodle XML -----------------------------------------------------------------


def _add_category(quiz: Element, category: Element) -> None:
    # a cloze question names the question that it belongs to in an element called the same
    known = {q.get("id", ""): q for q in _newest(category) if q.find("qtype") is not None}
    if not known:
        return
    heading = SubElement(quiz, "question", {"type": "category"})
    _text(heading, "category", category.findtext("name", ""), "")
    for question in known.values():
        if question.findtext("parent", "0").strip() in ("", "0", "$@NULL@$"):
            _add_question(quiz, question, known)


def _newest(category: Element) -> Iterator[Element]:
    """Yield the questions of a category; of one with several versions the last."""
    entries = category.findall(".//question_bank_entry")
    if not entries:
        yield from category.iter("question")
    for entry in entries:
        versions = entry.findall(".//question_versions")
        if versions:
            newest = max(versions, key=lambda v: _whole(v.findtext("version", "")))
            yield from newest.iter("question")


def _whole(text: str) -> int:
    return int(text) if text.strip().isdecimal() and len(text) < 12 else 0


def _add_question(quiz: Element, old: Element, known: dict[str, Element]) -> None:
    kind = old.findtext("qtype", "").strip().casefold()
    kind = _TYPES.get(kind, kind)
    new = SubElement(quiz, "question", {"type": kind, LINE: old.get(LINE, "1")})
    stem = old.findtext("questiontext", "")
    if kind == "cloze":
        stem = _with_gaps(stem, old, known)
    _text(new, "questiontext", stem, old.findtext("questiontextformat", _HTML))
    _text(new, "generalfeedback", old.findtext("generalfeedback", ""),
          old.findtext("generalfeedbackformat", _HTML))  # fmt: skip
    for name in ("single", "correctfeedback"):
        if (found := old.find(f".//{name}")) is not None:
            SubElement(new, name).text = found.text
    _ADD.get(kind, _add_answers)(new, old)


def _text(parent: Element, name: str, text: str, form: str) -> Element:
    known = {"format": _FORMATS.get(form.strip(), "html")} if form else {}
    element = SubElement(parent, name, known)
    SubElement(element, "text").text = "" if text == "$@NULL@$" else text
    return element


def _add_answers(new: Element, old: Element) -> None:
    tolerances = {
        record.findtext("answer", "").strip(): record.findtext("tolerance", "")
        for record in old.iter("numerical_record")
    }
    for answer in old.iter("answer"):
        if answer.find("answertext") is None:  # of a numerical record: a number only
            continue
        text = answer.findtext("answertext", "")
        added = _text(new, "answer", text, answer.findtext("answerformat", _HTML))
        added.set("fraction", _percent(answer.findtext("fraction", "0")))
        _text(added, "feedback", answer.findtext("feedback", ""),
              answer.findtext("feedbackformat", _HTML))  # fmt: skip
        if tolerance := tolerances.get(answer.get("id", "")):
            SubElement(added, "tolerance").text = tolerance


def _percent(fraction: str) -> str:
    """Return ``100`` for Moodle's ``1.0000000``."""
    try:
        return f"{100 * float(fraction):g}"
    except ValueError:
        return "0"


def _add_matches(new: Element, old: Element) -> None:
    for match in old.iter("match"):
        if match.find("answertext") is None:
            continue
        form = match.findtext("questiontextformat", _HTML)
        pair = _text(new, "subquestion", match.findtext("questiontext", ""), form)
        _text(pair, "answer", match.findtext("answertext", ""), "")


def _with_gaps(stem: str, old: Element, known: dict[str, Element]) -> str:
    """Put the gaps of a cloze question, which a backup keeps as questions of their own, back.

    Moodle keeps each gap's own text, ``{1:SHORTANSWER:=Berlin}``, as the text of that question.
    """
    listed = old.findtext(".//multianswer/sequence", "") or old.findtext(".//sequence", "")
    ids = [i.strip() for i in listed.split(",")]

    def gap(found: re.Match[str]) -> str:
        at = int(found[1][:6]) - 1
        sub = known.get(ids[at]) if 0 <= at < len(ids) else None
        return sub.findtext("questiontext", "") if sub is not None else found[0]

    return _SUB.sub(gap, stem)


_ADD: dict[str, Callable[[Element, Element], None]] = {
    "matching": _add_matches,
    "ddmatch": _add_matches,
}
