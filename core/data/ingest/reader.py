"""A file to examples: what it is decides its content, one reader a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core.data import health
from core.data.ingest import (
    conversations,
    delimited,
    html,
    json_text,
    parquet,
    question_formats,
    workbook,
)
from core.data.ingest.encoding import Decoded, candidates, decode
from core.data.ingest.flatten import flat_rows, hold_texts
from core.data.ingest.label import clean_label, suffix_of
from core.data.ingest.package import ole_kind, zip_kind
from core.data.ingest.questions import question_rows
from core.data.ingest.sniff import binary_kind, text_kind
from core.data.ingest.table import Row, Table, learn, make_table
from core.data.messages import Findings, data_error, problem
from core.data.types import EARLIER, Candidate, Example, ReadResult
from core.errors import DataError

LARGEST = 50 * 2**20  # bytes of a file


@dataclass(frozen=True)
class Source:
    """A file's content and how the teacher wants it read."""

    data: bytes
    suffix: str
    question: str = ""
    answer: str = ""
    sheet: str = ""
    encoding: str = ""
    columns: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class Format:
    """A kind of file: how it is called, which endings it has, and its reader."""

    title: str
    suffixes: tuple[str, ...]
    read: Callable[[Source, Decoded | None, Findings], ReadResult]


def read_file(
    path: str | Path,
    *,
    question: str = "",
    answer: str = "",
    sheet: str = "",
    encoding: str = "",
    label: str = "",
    columns: Mapping[str, Sequence[str]] | None = None,
) -> ReadResult:
    """Read a class file.

    Args:
        path: the file.
        question: column of the questions; empty: guessed.
        answer: column of the answers; empty: guessed.
        sheet: sheet of a workbook; empty: the first one with something to learn.
        encoding: of the text; empty: recognised.
        label: how the file is called in messages; empty: its name.
        columns: the columns of every part (:data:`~core.data.ingest.columns.PARTS`), where the
            teacher chose more than question and answer; several are joined.

    Raises:
        DataError: if nothing in it can be used; carries every finding.
    """
    path = Path(path)
    label = label or clean_label(path.name)
    findings = Findings()
    try:
        options = (suffix_of(path.name), question, answer, sheet, encoding, columns)
        return _read(Source(_bytes_of(path), *options), findings)
    except DataError as error:
        found = error.problems[1:] or findings.problems()
        where = f"{label}, {error.where}" if error.where else label
        raise DataError(
            error.what, where=where, action=error.action, code=error.code, problems=found
        ) from error.__cause__


def _bytes_of(path: Path) -> bytes:
    if path.is_dir():
        raise data_error("file.folder")
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise data_error("file.too_large", size=size >> 20, limit=LARGEST >> 20)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise data_error("file.missing") from error
    except (OSError, ValueError) as error:
        raise data_error("file.unreadable") from error


def _read(source: Source, findings: Findings) -> ReadResult:
    kind = question_formats.binary_kind(source.data) or binary_kind(source.data)
    text = None
    encodings: tuple[Candidate, ...] = ()
    if kind == "zip":
        kind = zip_kind(source.data)
    elif kind == "ole":
        kind = ole_kind(source.data)
    elif kind != "parquet" and kind not in question_formats.FORMATS:
        declared = question_formats.declared_encoding(source.data)
        text = decode(source.data, findings, source.encoding or declared)
        guessed = text.guessed or bool(source.encoding)
        encodings = candidates(source.data, text.encoding) if guessed else ()
        source = replace(source, data=b"")  # its memory is needed for the rows
        kind = question_formats.text_kind(text.text, source.suffix)
        kind = kind or text_kind(text.text, source.suffix)
    found = FORMATS[kind]
    if not source.suffix:
        findings.add("file.no_suffix", format=found.title)
    elif source.suffix not in found.suffixes:
        findings.add("file.other_format", suffix=source.suffix, format=found.title)
    result = replace(found.read(source, text, findings), encodings=encodings)
    return _checked(result, findings)


def _checked(result: ReadResult, findings: Findings) -> ReadResult:
    """Refuse a file without examples; add what is noticed about the others."""
    problems = findings.problems()
    if not result.examples:
        found = problem("table.no_examples")
        raise DataError(found.what, action=found.action, code=found.code, problems=problems)
    counts, noticed = health.check(result.examples)
    return replace(result, problems=(*problems, *noticed), health=counts)


def _read_delimited(source: Source, text: Decoded | None, findings: Findings) -> ReadResult:
    assert text is not None
    rows, delimiter = delimited.read_rows(text.text, findings)
    if text.cut_off and rows:
        rows[-1] = replace(rows[-1], left_out=True)
        findings.add("encoding.cut_off", rows[-1].where)
    table = make_table(rows, findings, encoding=text.encoding, delimiter=delimiter)
    return _from_table(source, table, findings, delimited.NAMES[delimiter], text.encoding)


def _read_html(source: Source, text: Decoded | None, findings: Findings) -> ReadResult:
    assert text is not None
    rows = html.read_rows(text.text, findings)
    table = make_table(rows, findings, encoding=text.encoding)
    return _from_table(source, table, findings, "html", text.encoding)


def _read_workbook(source: Source, _text: Decoded | None, findings: Findings) -> ReadResult:
    asked = workbook.Asked(source.sheet, source.question, source.answer, source.columns)
    kind = "xls" if source.data[:2] != b"PK" else zip_kind(source.data)
    if kind == "xlsx":
        found = workbook.read_xlsx(source.data, findings, asked)
    else:
        found = workbook.read_other(source.data, findings, asked, kind)
    return ReadResult(
        format=kind,
        encoding="",
        columns=found.table.columns,
        mapping=found.learned.mapping,
        examples=found.learned.examples,
        sheets=found.names,
        sheet=found.name,
        rows=tuple(r.cells for r in found.table.rows),
        row_where=tuple(r.where for r in found.table.rows),
        parts=found.learned.parts,
        confidence=found.learned.confidence,
    )


def _read_json(source: Source, text: Decoded | None, findings: Findings) -> ReadResult:
    assert text is not None
    records = json_text.read_json(text.text, findings)
    return _from_records(source, records, findings, "json", text.encoding)


def _read_jsonl(source: Source, text: Decoded | None, findings: Findings) -> ReadResult:
    assert text is not None
    records = json_text.read_jsonl(text.text, findings)
    return _from_records(source, records, findings, "jsonl", text.encoding)


def _read_parquet(source: Source, _text: Decoded | None, findings: Findings) -> ReadResult:
    records = parquet.read_parquet(source.data, findings)
    return _from_records(source, records, findings, "parquet", "")


def _from_records(
    source: Source,
    records: list[json_text.Record],
    findings: Findings,
    container: str,
    encoding: str,
) -> ReadResult:
    if not records:
        raise data_error("json.not_a_list", kind="a list without objects")
    records = list(map(conversations.with_messages, records))
    keys = [conversations.message_key(r) for r in records]
    if not any(keys) and not any(isinstance(r.value.get("chosen"), list) for r in records):
        columns, rows = flat_rows(records)
        if not hold_texts(columns, rows):
            found = dict.fromkeys(k for r in records for k in r.value)
            raise data_error("json.no_texts", keys=", ".join(found) or "none")
        header = Row(columns, "header")
        table = make_table([header, *rows], findings, encoding=encoding, header=True)
        return _from_table(source, table, findings, container, encoding)
    examples: list[Example] = []
    for record in records:
        example = conversations.example(record, findings)
        examples += [example] if example else []
    kind = "sharegpt" if "conversations" in keys else "messages" if any(keys) else "preference"
    return _from_conversations(kind, encoding, examples)


def _read_questions(
    form: question_formats.QuestionFormat,
    source: Source,
    text: Decoded | None,
    findings: Findings,
) -> ReadResult:
    """Read a format of questions, conversations or notes; the result is a table as all others."""
    encoding = text.encoding if text else ""
    found = form.read(source.data, text.text if text else "", findings)
    if found.examples:
        return _from_conversations(found.format, encoding, list(found.examples))
    rows = found.rows or question_rows(found.questions, findings)
    headed = rows[0].where == "header"
    table = make_table(rows, findings, encoding=encoding, header=headed)
    return _from_table(source, table, findings, found.format, encoding)


def _from_table(
    source: Source, table: Table, findings: Findings, container: str, encoding: str
) -> ReadResult:
    learned = learn(table, findings, source.question, source.answer, chosen=source.columns)
    return ReadResult(
        format=learned.kind if container.startswith("json") and learned.kind else container,
        encoding=encoding,
        columns=table.columns,
        mapping=learned.mapping,
        examples=learned.examples,
        rows=tuple(r.cells for r in table.rows),
        row_where=tuple(r.where for r in table.rows),
        parts=learned.parts,
        confidence=learned.confidence,
    )


def _from_conversations(kind: str, encoding: str, examples: list[Example]) -> ReadResult:
    """Show a conversation as what was said before, its last question and its last answer."""
    earlier = any(len(e.prompt) > 1 for e in examples)
    columns = (EARLIER, "question", "answer") if earlier else ("question", "answer")

    def cells(example: Example) -> tuple[str, ...]:
        before = "\n".join(f"{t.role}: {t.content}" for t in example.prompt[:-1])
        return ((before,) if earlier else ()) + (example.question, example.answer)

    return ReadResult(
        format=kind,
        encoding=encoding,
        columns=columns,
        mapping={"question": "question", "answer": "answer"},
        examples=tuple(examples),
        rows=tuple(map(cells, examples)),
        row_where=tuple(e.where for e in examples),
    )


FORMATS: dict[str, Format] = {
    "delimited": Format("CSV", (".csv", ".tsv", ".tab", ".txt"), _read_delimited),
    "xlsx": Format("an Excel workbook (XLSX)", (".xlsx", ".xlsm"), _read_workbook),
    "xls": Format("an old Excel workbook (XLS)", (".xls",), _read_workbook),
    "xlsb": Format("a binary Excel workbook (XLSB)", (".xlsb",), _read_workbook),
    "ods": Format("an OpenDocument spreadsheet (ODS)", (".ods",), _read_workbook),
    "parquet": Format("Parquet", (".parquet", ".pq"), _read_parquet),
    "html": Format("an HTML page", (".html", ".htm"), _read_html),
    "json": Format("JSON", (".json", ".jsonl", ".ndjson"), _read_json),
    "jsonl": Format("JSONL", (".jsonl", ".ndjson", ".json"), _read_jsonl),
}
FORMATS |= {
    kind: Format(form.title, form.suffixes, partial(_read_questions, form))
    for kind, form in question_formats.FORMATS.items()
}
