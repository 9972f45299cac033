"""JSON and JSONL to records: nothing is lost in silence, nothing is evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from core.data.ingest.columns import names_pair
from core.data.ingest.names import column_letter
from core.data.messages import Findings, data_error
from core.errors import DataError

LONG_NUMBER = 300  # digits from which a number is pointed out
DEEPEST = 50  # levels of nesting
FRAME = ("", "[", "]", "],")  # lines of a list whose objects stand on lines of their own


@dataclass(frozen=True)
class Record:
    """One object of the file and its place."""

    value: dict[str, Any]
    where: str


class Number(str):
    """A number exactly as it was written (``007`` is none, ``1e5`` stays ``1e5``)."""

    __slots__ = ()


class _TooDeepError(ValueError):
    """Nested more deeply than any class file."""


def read_json(text: str, findings: Findings) -> list[Record]:
    """Return the objects of a JSON document: a list, or an object that holds one.

    Raises:
        DataError: if it is no JSON or holds no list of objects.
    """
    notes: list[tuple[str, dict[str, object]]] = []
    try:
        value = _loads(text, notes)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip()[:1] == "{":
            return _one_after_another(text, findings)
        if _by_line(text):
            return read_jsonl(text, findings)
        raise _syntax_error(text, error) from error
    except (_TooDeepError, RecursionError) as error:
        raise data_error("json.too_deep", "line 1") from error
    records = list(_objects(_list_in(value, findings), findings, "item"))
    for code, values in notes:  # the parser does not say in which item
        findings.add(code, "", **values)
    return records


def _by_line(text: str) -> bool:
    """Say whether a text that is no JSON as a whole has a whole object or list on each line.

    Only commas between the lines may be missing: other faults are told with line and column.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip() not in FRAME]
    whole = all(x[:1] + x.rstrip(",")[-1:] in ("{}", "[]") for x in lines)
    return len(lines) > 1 and whole and not lines[-1].endswith(",")


def read_jsonl(text: str, findings: Findings) -> list[Record]:
    """Return the objects of a file with one on each line; bad lines are left out and named.

    Raises:
        DataError: if no line is JSON.
    """
    records: list[Record] = []
    lines = text.split("\n")  # JSON strings may hold U+2028, which splitlines() would split at
    single = sum(bool(line.strip()) for line in lines) == 1
    failed: Exception | None = None
    for number, line in enumerate(lines, 1):
        if line.strip() in ("", *(() if single else FRAME)):
            continue
        try:
            value = line_value(line, number, findings)
        except DataError as error:
            failed = failed or error
            continue
        if single and isinstance(value, dict | list):
            listed = _list_in(value, findings)
            if listed and listed[0] is not value:
                return list(_objects(listed, findings, "item"))
        records += records_in(value, number, findings)
    if not records and failed:
        raise failed
    return records


def line_value(line: str, number: int, findings: Findings) -> Any:
    """Return what a line holds.

    Raises:
        DataError: if it is no JSON, which ``findings`` has been told.
    """
    where = f"line {number}"
    notes: list[tuple[str, dict[str, object]]] = []
    try:
        value = _loads(_without_comma(line), notes)
    except json.JSONDecodeError as error:
        findings.add("json.bad_line", where, fault=_fault(error), column=error.colno)
        raise _syntax_error(line, error, number) from error
    except (_TooDeepError, RecursionError) as error:
        findings.add("json.bad_line", where, fault="nested too deeply", column=1)
        raise data_error("json.too_deep", where) from error
    for code, values in notes:
        findings.add(code, where, **values)
    return value


def records_in(value: Any, number: int, findings: Findings) -> Iterator[Record]:
    """Yield the record that a line's value is, or those of the list that it is."""
    listed = isinstance(value, list) and not _are_messages(value)
    if listed and value and all(map(_is_object, value)):
        return (Record(v, f"line {number}") for v in value)
    return _objects([value], findings, "line", number)


def _without_comma(line: str) -> str:
    """Return a line without the comma that stood before the next object of a list."""
    text = line.rstrip()
    return text[:-1] if text.endswith(("},", "],")) else line


class _Parser:
    """A JSON parser that keeps numbers as they are written and notes what others pass over."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, object]]] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_int=self._number,
            parse_float=self._number,
            parse_constant=self._constant,
        )

    def loads(self, text: str) -> Any:
        """Return the value of a text; ``notes`` then holds what was noticed in it."""
        self.notes = []
        _refuse_depth(text)
        return self._decoder.decode(text)

    def _object(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) < len(items):
            keys = [k for k, _ in items]
            twice = next(k for k in keys if keys.count(k) > 1)
            self.notes.append(("json.duplicate_key", {"key": twice}))
        return seen

    def _number(self, digits: str) -> Number:
        if len(digits) > LONG_NUMBER:
            self.notes.append(("json.long_number", {"digits": len(digits)}))
        return Number(digits)

    def _constant(self, name: str) -> Number:
        self.notes.append(("json.not_a_number", {"value": name}))
        return Number(name)


_PARSER = _Parser()


def _loads(text: str, notes: list[tuple[str, dict[str, object]]]) -> Any:
    value = _PARSER.loads(text)
    notes += _PARSER.notes
    return value


def _refuse_depth(text: str) -> None:
    """Stop before the parser's own recursion does, whose limit differs between versions."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for bracket in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text, re.DOTALL):
        mark = bracket.group()
        if mark in "[{":
            depth += 1
            if depth > DEEPEST:
                raise _TooDeepError
        elif mark in "]}":
            depth -= 1


def _list_in(value: Any, findings: Findings) -> list[Any]:
    """Return the list of examples: the value itself, or the longest list that it holds.

    Lists beside each other (``{"question": [...], "answer": [...]}``) are columns, texts that lead
    to texts are pairs, and what SQuAD nests in paragraphs comes out one question at a time.
    """
    if isinstance(value, list):
        return [value] if _are_messages(value) else _squad(value) or value
    if not isinstance(value, dict):
        raise data_error("json.not_a_list", "line 1", kind=kind_of(value))
    if _holds_a_list(value):
        longest = max(_lists_in(value), key=len)
        return _squad(longest) or longest
    if columns := _columns(value):
        return columns
    if _are_pairs(value):
        findings.add("json.pairs")
        return [{"question": k, "answer": v} for k, v in value.items()]
    inner = [v for v in value.values() if isinstance(v, dict) and _holds_a_list(v)]
    if inner and not any(isinstance(v, str) for v in value.values()):
        return [item for v in inner for item in _list_in(v, findings)]
    named = list(value.values())
    return named if len(named) > 1 and all(map(_is_record, named)) else [value]


def _columns(value: dict[str, Any]) -> list[Any]:
    """Return the rows of a table that is written column by column, in lists or by index."""
    if value and all(isinstance(v, dict) for v in value.values()):
        keys = [list(v) for v in value.values()]
        if len(keys) > 1 and keys[0] and all(k == keys[0] for k in keys) and names_pair([*value]):
            return [{c: v[k] for c, v in value.items()} for k in keys[0]]
    lists = {k: v for k, v in value.items() if isinstance(v, list)}
    lengths = {len(v) for v in lists.values()}
    if len(lists) < 2 or len(lengths) != 1 or not names_pair([*lists]):
        return []
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _are_pairs(value: dict[str, Any]) -> bool:
    if len(value) < 2 or names_pair([*value]):
        return False
    if not all(isinstance(v, str) and not isinstance(v, Number) for v in value.values()):
        return False
    wordy = sum(bool(re.search(r"\s|[?？]|[^\x00-\xff]", k.strip())) for k in value)
    return 2 * wordy >= len(value)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and (
        names_pair([*value]) or any(map(_are_messages, _lists_in(value)))
    )


def _squad(items: list[Any]) -> list[Any]:
    """Return the questions of SQuAD's articles (``paragraphs``, ``qas``), if these are some."""
    found: list[Any] = []
    for item in items:
        paragraphs = item.get("paragraphs") if isinstance(item, dict) else None
        for paragraph in paragraphs if isinstance(paragraphs, list) else ():
            asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
            topic = {"topic": item["title"]} if isinstance(item.get("title"), str) else {}
            for one in asked if isinstance(asked, list) else ():
                if isinstance(one, dict):
                    answers = one.get("answers") or [{}]
                    first = answers[0] if isinstance(answers, list) else answers
                    text = first.get("text") if isinstance(first, dict) else first
                    context = paragraph.get("context")
                    found.append({**topic, "context": context, **one, "answers": text})
    return found


def _holds_a_list(value: Any) -> bool:
    """Say whether a value is or wraps a list of objects that are examples, not messages."""
    if isinstance(value, list):
        return not _are_messages(value)
    if not isinstance(value, dict):
        return False
    lists = _lists_in(value)
    return bool(lists) and not any(map(_are_messages, lists))


def _lists_in(value: dict[str, Any]) -> list[list[Any]]:
    return [v for v in value.values() if isinstance(v, list) and any(map(_is_object, v))]


def _are_messages(value: list[Any]) -> bool:
    objects = [v for v in value if isinstance(v, dict)]
    return bool(objects) and all("role" in v or "from" in v for v in objects)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _objects(values: list[Any], findings: Findings, unit: str, first: int = 1) -> Iterator[Record]:
    listed = unit == "item" and bool(values) and isinstance(values[0], list)
    for i, value in enumerate(values, first):
        where = f"{unit} {i}"
        if isinstance(value, dict):
            yield Record(value, where)
        elif isinstance(value, list) and _are_messages(value):
            yield Record({"messages": value}, where)  # a bare list of messages
        elif listed and isinstance(value, list) and len(value) > 1 and all(map(_is_text, value)):
            if not names_pair(value):  # else it is a header
                names = _names_of(values, len(value))
                yield Record(dict(zip(names, value, strict=False)), where)
        else:
            findings.add("json.no_object", where, kind=kind_of(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _names_of(values: list[Any], n: int) -> list[str]:
    """Return the names of the columns of rows that are lists: a header's, or letters."""
    first = values[0] if isinstance(values[0], list) else []
    named = all(isinstance(v, str) for v in first) and names_pair(first)
    return [*map(str, first)] if named and len(first) >= n else [*map(column_letter, range(n))]


def _one_after_another(text: str, findings: Findings) -> list[Record]:
    """Read objects that follow each other without commas, each over several lines."""
    decoder = json.JSONDecoder()
    records: list[Record] = []
    at = 0
    while text[at:].strip(" \t\r\n,"):
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError) and not records:
                raise _syntax_error(text, error) from error
            findings.add("json.bad_line", f"line {text.count(chr(10), 0, at) + 1}",
                         fault="the object is not complete", column=1)  # fmt: skip
            return records
        notes: list[tuple[str, dict[str, object]]] = []
        value = _loads(text[at:end], notes)
        where = f"item {len(records) + 1}"
        for code, values in notes:
            findings.add(code, where, **values)
        records += _objects([value], findings, "item", len(records) + 1)
        at = end
    return records


def _syntax_error(text: str, error: json.JSONDecodeError, line: int = 0) -> DataError:
    where = f"line {line or error.lineno}"
    if re.match(r"\s*[\[{]+\s*'", text):
        return data_error("json.single_quotes", where)
    return data_error("json.syntax", where, fault=_fault(error), column=error.colno)


def _fault(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:]


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if isinstance(value, Number):
        return "a number"
    kinds = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}
    return kinds.get(type(value), "nothing (null)")
