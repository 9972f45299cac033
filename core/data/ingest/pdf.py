"""PDF files with a text in them, read line by line as plain text is."""

from __future__ import annotations

import io
import logging

from core.data.ingest.markdown import read_markdown
from core.data.ingest.question_text import Line
from core.data.ingest.questions import Found
from core.data.messages import Findings, data_error
from core.errors import DataError

MOST_PAGES = 500
LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl"}
FEWEST_LETTERS = 20  # a scan has none, but perhaps a page number


def read_pdf(data: bytes, findings: Findings) -> Found:
    """Return the questions of a PDF's text.

    Raises:
        DataError: if it is damaged, protected, a scan, or holds no question.
    """
    lines = pdf_lines(data, findings)
    return read_markdown(lines, findings, "pdf")


def pdf_lines(data: bytes, findings: Findings) -> list[Line]:
    """Return the text of a PDF, line by line with page and line.

    Raises:
        DataError: if it is damaged, protected or a scan.
    """
    import pypdf  # only for PDF files

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings go to no person
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise data_error("pdf.password")
        lines = _lines(reader, findings)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes pypdf stumble over
        raise data_error("pdf.damaged") from error
    if sum(len(line.text.strip()) for line in lines) < FEWEST_LETTERS:
        raise data_error("pdf.no_text")
    return lines


def _lines(reader: object, findings: Findings) -> list[Line]:
    lines: list[Line] = []
    pages = reader.pages  # type: ignore[attr-defined]
    for number, page in enumerate(pages, 1):
        if number > MOST_PAGES:
            findings.add("pdf.too_many_pages", limit=MOST_PAGES)
            break
        text = page.extract_text()
        shown = [t for t in text.splitlines() if t.strip()]
        if shown and shown[-1].strip() == str(number):
            shown.pop()  # the page's number
        shown = [t.translate(LIGATURES) for t in shown]
        lines += [Line(t, f"page {number}, line {i}") for i, t in enumerate(shown, 1)]
    return lines
