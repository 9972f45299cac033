"""Zip packages and OLE files, looked through before anything opens them."""

from __future__ import annotations

import io
import lzma
import posixpath
import re
import stat
import struct
import zipfile
import zlib

from core.data.messages import data_error
from core.errors import DataError

LARGEST = 200 * 2**20  # bytes of all parts, unpacked
RATIO = 200  # unpacked bytes of one packed byte ...
RATIO_FROM = 2**20  # ... in parts of at least this many
PROLOG = 1 << 16  # bytes of an XML part in which a DTD would stand
MOST_PARTS = 10_000

# What zipfile and its decompressors raise on damaged files.
_STUMBLES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
             NotImplementedError, RuntimeError, ValueError, KeyError, OverflowError)  # fmt: skip
_ODS = "application/vnd.oasis.opendocument.spreadsheet"
_DTD = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


def check_workbook(data: bytes) -> None:
    """Make sure that a zip file is a workbook which can be unpacked safely.

    Raises:
        DataError: if it is none, too large, damaged, or made to do harm.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            parts = package.infolist()
            check_names(parts)
            _check_kind({p.filename for p in parts})
            _check_sizes(package, parts)
    except _STUMBLES as error:  # RuntimeError is zipfile's word for a part that is encrypted
        code = "excel.password" if "password" in str(error) else "excel.damaged"
        raise data_error(code) from error


def check_parts(data: bytes) -> None:
    """Make sure that every part of a zip file can be unpacked safely, whatever it holds.

    Raises:
        DataError: if it is too large, damaged, protected by a password, or made to do harm.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            parts = package.infolist()
            check_names(parts, "package.not_safe")
            _check_sizes(package, parts, "package.not_safe", "package.too_large")
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes zipfile stumble over
        code = "package.password" if "password" in str(error) else "package.damaged"
        raise data_error(code) from error


def check_names(parts: list[zipfile.ZipInfo], code: str = "excel.not_safe") -> None:
    """Refuse a zip file with too many parts, links, or names that lead out of it.

    Args:
        parts: what its directory lists.
        code: of the error.

    Raises:
        DataError: under ``code``, with the reason.
    """
    if len(parts) > MOST_PARTS:
        raise data_error(code, reason=f"it has {len(parts)} parts")
    names = [p.filename for p in parts]
    if any(stat.S_ISLNK(p.external_attr >> 16) for p in parts):
        raise data_error(code, reason="the zip file holds a link")
    outside = [n for n in names if n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n)]
    if outside or any(re.match(r"[A-Za-z]:", n) for n in names):
        raise data_error(code, reason="the zip file has names that lead out of it")
    if len({posixpath.normpath(n).casefold() for n in names}) < len(names):
        raise data_error(code, reason="the zip file has the same name twice")


def _check_kind(names: set[str]) -> None:
    if any(re.fullmatch(r"/?xl/workbook\d*\.xml", n, re.IGNORECASE) for n in names):
        return
    if "xl/workbook.bin" in names or ("content.xml" in names and "mimetype" in names):
        return  # .xlsb, or OpenDocument, whose kind zip_kind looks at
    kinds = {
        "word/document.xml": "a Word document",
        "ppt/presentation.xml": "a PowerPoint file",
        "content.xml": "an OpenDocument file",
        "collection.anki2": "an Anki deck",
        "imsmanifest.xml": "a QTI or Moodle package",
    }
    found = next((kind for name, kind in kinds.items() if name in names), "a zip file")
    raise data_error("excel.no_workbook", kind=found)


def _check_sizes(
    package: zipfile.ZipFile,
    parts: list[zipfile.ZipInfo],
    unsafe: str = "excel.not_safe",
    too_large: str = "excel.too_large",
) -> None:
    """Unpack every part once in small pieces; what the directory says may be a lie."""
    total = 0
    for part in parts:
        size = 0
        with package.open(part) as stream:
            while piece := stream.read(PROLOG):
                if size == 0 and _DTD.search(piece.replace(b"\0", b"")):
                    raise data_error(unsafe, reason="it defines its own entities (DTD)")
                size += len(piece)
                total += len(piece)
                swollen = size >= RATIO_FROM and size > RATIO * max(1, part.compress_size)
                if swollen or total > LARGEST:
                    largest = max(total, sum(p.file_size for p in parts))
                    raise data_error(too_large, size=largest >> 20)


def zip_kind(data: bytes) -> str:
    """Return ``ods`` or ``xlsb`` for workbooks of these kinds, ``xlsx`` for all other zip files.

    Raises:
        DataError: if it is an OpenDocument file but no spreadsheet.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            names = set(package.namelist())
            if "xl/workbook.bin" in names:
                return "xlsb"
            if "content.xml" not in names or "mimetype" not in names:
                return "xlsx"
            with package.open("mimetype") as stream:
                kind = stream.read(200).decode("ascii", "replace").strip()
    except _STUMBLES:
        return "xlsx"  # whose reader says what is wrong
    if kind.startswith(_ODS):
        return "ods"
    raise data_error("excel.no_workbook", kind="an OpenDocument file without a spreadsheet")


def ole_kind(data: bytes) -> str:
    """Return ``xls`` for an old workbook.

    Raises:
        DataError: if it is protected by a password or no workbook.
    """
    if "EncryptedPackage".encode("utf-16-le") in data:
        raise data_error("excel.password")
    if any(name.encode("utf-16-le") in data for name in ("Workbook", "Book")):
        return "xls"
    word = "WordDocument".encode("utf-16-le") in data
    kind = "an old Word document" if word else "an old Office file"
    raise data_error("excel.no_workbook", kind=kind)
