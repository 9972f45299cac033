"""Records of JSON and Parquet files to examples: chat messages, ShareGPT, preferences."""

from __future__ import annotations

from typing import Any

from core.data.ingest.json_text import Number, Record
from core.data.ingest.names import TOPIC, normal_name
from core.data.ingest.table import clean_text, is_text
from core.data.messages import Findings
from core.data.types import ROLES, Example, Turn

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "ai": "assistant", "bing": "assistant", "bard": "assistant",
    "系统": "system", "用户": "user", "助手": "assistant",
}  # fmt: skip
_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_MAYBE = ("dialog", "chat")  # of messages, or of something else
_WHO = ("role", "from", "speaker", "author", "sender")
_WHAT = ("content", "value", "text", "message", "utterance")


class _LeftOutError(Exception):
    """Why a conversation cannot be used."""

    def __init__(self, code: str, **values: object) -> None:
        self.code, self.values = code, values
        super().__init__(code)


def message_key(record: Record) -> str:
    """Return the key under which a record holds messages; empty if it is flat."""
    value = record.value
    listed = (k for k in _LISTS if isinstance(value.get(k), list))
    return next((k for k in listed if k not in _MAYBE or _are_messages(value[k])), "")


def _are_messages(value: Any) -> bool:
    """Say whether a value is a list of messages, and not of texts alone."""
    return isinstance(value, list) and (not value or any(isinstance(v, dict) for v in value))


def with_messages(record: Record) -> Record:
    """Return a record whose parts are messages as one conversation, others as they are.

    Alpaca's earlier turns (``history``), a prompt and a completion that are lists of messages, and
    a conversation whose last reply is the chosen one of two.
    """
    value = record.value
    prompt, completion, chosen = (value.get(k) for k in ("prompt", "completion", "chosen"))
    if isinstance(completion, list) and completion and _are_messages(completion):
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        return Record({**value, "messages": [*before, *completion]}, record.where)
    key = message_key(record)
    if key and isinstance(chosen, dict) and chosen != value.get("rejected"):
        return Record({**value, key: [*value[key], chosen]}, record.where)
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


def example(record: Record, findings: Findings) -> Example | None:
    """Return a record's example if it holds messages, else ``None`` and a finding."""
    if key := message_key(record):
        return conversation(record, key, findings)
    if isinstance(record.value.get("chosen"), list):
        return preference(record, findings)
    findings.add("chat.no_messages", record.where)
    return None


def conversation(record: Record, key: str, findings: Findings) -> Example | None:
    """Return a record's conversation; ``None`` (and a finding) if it cannot be learned."""
    try:
        turns = [_turn(m, record.where, findings) for m in record.value[key]]
        system = record.value.get("system")
        if isinstance(system, str) and system.strip():
            turns.insert(0, Turn("system", clean_text(system)))
        ordered = tuple(_in_order(turns, record.where, findings))
        return Example(ordered, record.where, _topic(record))
    except _LeftOutError as error:
        findings.add(error.code, record.where, **error.values)
        return None


def _topic(record: Record) -> str:
    """Return what a record says it is about."""
    said = next((v for k, v in record.value.items() if normal_name(k) in TOPIC), "")
    text = clean_text(said).strip() if isinstance(said, str) else ""
    return text if is_text(text) else ""


def preference(record: Record, findings: Findings) -> Example | None:
    """Return prompt and chosen messages of a pair whose answers are lists of messages."""
    prompt, chosen = record.value.get("prompt"), record.value["chosen"]
    if record.value.get("rejected") == chosen:
        findings.add("table.chosen_is_rejected", record.where)
        return None
    before = prompt if isinstance(prompt, list) else []
    if isinstance(prompt, str) and not any(m.get("role") == "user" for m in chosen if m):
        before = [{"role": "user", "content": prompt}]
    joined = Record({**record.value, "messages": [*before, *chosen]}, record.where)
    return conversation(joined, "messages", findings)


def _turn(message: Any, where: str, findings: Findings) -> Turn:
    if not isinstance(message, dict):
        raise _LeftOutError("chat.bad_message")
    role = next((message[k] for k in _WHO if k in message), None)
    content = next((message[k] for k in _WHAT if k in message), None)
    if not isinstance(role, str) or role.casefold() not in _ROLES:
        raise _LeftOutError("chat.unknown_role", role=role)
    text = _content(content)
    if not text.strip():
        raise _LeftOutError("chat.bad_message")
    clean = clean_text(text)
    if clean != text:
        findings.add("text.control", where)
    if not is_text(clean):
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
