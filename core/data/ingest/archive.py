"""Zip packages of questions: names and sizes are looked at before a part is unpacked."""

from __future__ import annotations

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from core.data.ingest.package import LARGEST, PROLOG, RATIO, RATIO_FROM, check_names
from core.data.messages import data_error

# What zipfile and its decompressors raise on damaged files.
STUMBLES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
            NotImplementedError, RuntimeError, ValueError, KeyError, OverflowError)  # fmt: skip


def names_in(data: bytes) -> set[str]:
    """Return the names of a package's parts; none if it is no zip file that can be opened."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            return set(package.namelist())
    except STUMBLES:
        return set()


@contextmanager
def opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    """Open a package whose names were found harmless.

    Raises:
        DataError: if it is damaged, protected by a password, or made to do harm.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            check_names(package.infolist(), "package.not_safe")
            yield package
    except STUMBLES as error:  # RuntimeError is zipfile's word for a part that is encrypted
        code = "package.password" if "password" in str(error) else "package.damaged"
        raise data_error(code) from error


def part(package: zipfile.ZipFile, name: str, largest: int = LARGEST) -> bytes:
    """Return one part, unpacked piece by piece, since its declared size may be a lie.

    Args:
        package: from :func:`opened`.
        name: of the part.
        largest: bytes that it may have.

    Raises:
        DataError: if it is larger, or swells like a bomb.
    """
    info = package.getinfo(name)
    pieces = io.BytesIO()
    with package.open(info) as stream:
        while piece := stream.read(PROLOG):
            pieces.write(piece)
            size = pieces.tell()
            swollen = size >= RATIO_FROM and size > RATIO * max(1, info.compress_size)
            if swollen or size > largest:
                raise data_error("package.too_large", name, size=max(size, info.file_size) >> 20)
    return pieces.getvalue()


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts ``item2`` before ``item10``."""
    parts = re.findall(r"\d{1,18}|\D+", name.casefold())
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts)
