"""Records of JSON files to examples: chat messages, ShareGPT, and flat records as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.data.ingest.json_text import Number, Record
from core.data.ingest.table import Row, clean_text
from core.data.messages import Findings
from core.data.types import ROLES, Example, Turn

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "ai": "assistant", "bing": "assistant", "bard": "assistant",
}  # fmt: skip
_LISTS = ("messages", "conversations", "conversation", "dialogue")


class _LeftOutError(Exception):
    """Why a conversation cannot be used."""

    def __init__(self, code: str, **values: object) -> None:
        self.code, self.values = code, values
        super().__init__(code)


def message_key(record: Record) -> str:
    """Return the key under which a record holds messages; empty if it is flat."""
    return next((k for k in _LISTS if isinstance(record.value.get(k), list)), "")


def with_history(record: Record) -> Record:
    """Return an Alpaca record with earlier turns (``history``) as messages, others as they are."""
    value = record.value
    history = value.get("history")
    if not isinstance(history, list) or not history:
        return record
    asked = [value.get("instruction"), value.get("input")]
    question = "\n".join(t for t in asked if isinstance(t, str) and t.strip())
    pairs = [p if isinstance(p, list) and len(p) == 2 else [None, None] for p in history]
    messages = [
        {"role": role, "content": text}
        for pair in [*pairs, [question, value.get("output")]]
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return Record({**value, "messages": messages}, record.where)


def conversation(record: Record, key: str, findings: Findings) -> Example | None:
    """Return a record's conversation; ``None`` (and a finding) if it cannot be learned."""
    try:
        turns = [_turn(m, record.where, findings) for m in record.value[key]]
        system = record.value.get("system")
        if isinstance(system, str) and system.strip():
            turns.insert(0, Turn("system", clean_text(system)))
        return Example(tuple(_in_order(turns, record.where, findings)), record.where)
    except _LeftOutError as error:
        findings.add(error.code, record.where, **error.values)
        return None


def preference(record: Record, findings: Findings) -> Example | None:
    """Return prompt and chosen messages of a pair whose answers are lists of messages."""
    prompt, chosen = record.value.get("prompt"), record.value["chosen"]
    if record.value.get("rejected") == chosen:
        findings.add("table.chosen_is_rejected", record.where)
        return None
    before = prompt if isinstance(prompt, list) else []
    if isinstance(prompt, str) and not any(m.get("role") == "user" for m in chosen if m):
        before = [{"role": "user", "content": prompt}]
    joined = Record({"messages": [*before, *chosen]}, record.where)
    return conversation(joined, "messages", findings)


def flat_rows(records: Sequence[Record]) -> tuple[tuple[str, ...], list[Row]]:
    """Return records without messages as columns and rows of text."""
    columns: dict[str, None] = {}
    for record in records:
        columns.update(dict.fromkeys(k for k, v in record.value.items() if _is_flat(v)))
    names = tuple(columns)
    rows = [Row(tuple(_text(r.value.get(n)) for n in names), r.where) for r in records]
    return names, rows


def _is_flat(value: Any) -> bool:
    return value is None or isinstance(value, str | bool)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str) else ""


def _turn(message: Any, where: str, findings: Findings) -> Turn:
    if not isinstance(message, dict):
        raise _LeftOutError("chat.bad_message")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value", message.get("text")))
    if not isinstance(role, str) or role.casefold() not in _ROLES:
        raise _LeftOutError("chat.unknown_role", role=role)
    text = _content(content)
    if not text.strip():
        raise _LeftOutError("chat.bad_message")
    clean = clean_text(text)
    if clean != text:
        findings.add("text.control", where)
    if any("\ud800" <= c <= "\udfff" for c in clean):
        raise _LeftOutError("text.half_character")
    return Turn(_ROLES[role.casefold()], clean)


def _content(content: Any) -> str:
    """Return a message's text, also where it is a list of parts."""
    if isinstance(content, Number | str):
        return str(content)
    if not isinstance(content, list):
        raise _LeftOutError("chat.bad_message")
    parts = [p.get("text") if isinstance(p, dict) else p for p in content]
    if not all(isinstance(p, str) for p in parts):
        raise _LeftOutError("chat.picture")
    return "".join(map(str, parts))


def _in_order(turns: list[Turn], where: str, findings: Findings) -> list[Turn]:
    """Return [system,] user, assistant, user, assistant ...; tell what was changed for it."""
    if not turns:
        raise _LeftOutError("chat.empty")
    start = turns[:1] if turns[0].role == ROLES[0] else []
    rest = [t for t in turns[len(start) :] if t.role != ROLES[0]]
    if len(rest) < len(turns) - len(start):
        findings.add("chat.late_system", where)
    ordered: list[Turn] = []
    for turn in rest:
        if ordered and ordered[-1].role == turn.role:
            findings.add("chat.merged", where)
            ordered[-1] = Turn(turn.role, f"{ordered[-1].content}\n\n{turn.content}")
        else:
            ordered.append(turn)
    if not any(t.role == "assistant" for t in ordered):
        raise _LeftOutError("chat.no_reply")
    if ordered[0].role == "assistant":
        findings.add("chat.leading_reply", where)
        ordered = ordered[1:]
    if ordered and ordered[-1].role == "user":
        findings.add("chat.trailing_question", where)
        ordered = ordered[:-1]
    if not ordered:
        raise _LeftOutError("chat.no_reply")
    return start + ordered
