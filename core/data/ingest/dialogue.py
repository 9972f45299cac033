"""Conversations in YAML as ChatterBot's corpus has them: lists of lines said in turn.

Every conversation is composed for itself, and only composed: no tag makes an object, an alias
cannot reach into another one, and a scalar stays the text that was written (``no``, ``012``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.data.ingest.json_text import Record
from core.data.messages import Findings, data_error

_LISTS = re.compile(r"^(conversations|dialogues?)\s*:\s*(?:#.*)?$", re.MULTILINE)


def looks_like_dialogue(text: str) -> bool:
    """Say whether a text is YAML with a list of conversations."""
    found = _LISTS.search(text[: 1 << 16])
    return bool(found and re.match(r"\s*-\s+-\s", text[found.end() : found.end() + 4096]))


def looks_like_yaml(text: str) -> bool:
    """Say whether a text is YAML: keys with colons, or lists of them, and nothing else."""
    lines = [ln for ln in text[:4096].splitlines() if ln.strip() and not ln.startswith("#")][:20]
    return bool(lines) and all(
        re.match(r"---|\s*(?:-\s+)*[\w.-]+\s*:(?:\s|$)|\s+\S|\s*-\s", ln) for ln in lines
    )


def refuse_yaml(text: str) -> None:
    """Refuse YAML without conversations.

    Raises:
        DataError: always; names the keys.
    """
    keys = re.findall(r"^([\w.-]{1,40})\s*:", text[: 1 << 16], re.MULTILINE)
    raise data_error("yaml.no_conversations", keys=", ".join(dict.fromkeys(keys)) or "none")


def read_dialogue(text: str, findings: Findings) -> list[Record]:
    """Return each conversation as a record of messages, the person first, then in turn.

    Raises:
        DataError: if there is no conversation.
    """
    records = []
    longer = ""
    for line, block in _blocks(text):
        where = f"line {line}"
        said = _lines_of(block, where, findings)
        if not said:
            continue
        longer = longer or (where if len(said) > 2 else "")
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": s} for i, s in enumerate(said)]
        records.append(Record({"messages": messages}, where))
    if longer:
        findings.add("yaml.turns", longer)
    if not records:
        raise data_error("question.none")
    return records


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield each conversation's lines and where it begins."""
    lines = text.lstrip("\ufeff").splitlines()
    start = next((i for i, ln in enumerate(lines) if _LISTS.match(ln)), len(lines))
    indent: int | None = None
    block: list[str] = []
    first = 0
    for number, line in enumerate(lines[start + 1 :], start + 2):
        item = re.match(r"(\s*)-\s", line)
        if item and indent is None:
            indent = len(item[1])
        if item and len(item[1]) == indent:
            if block:
                yield first, "\n".join(block)
            block, first = [], number
        elif line[:1].strip() and not line.startswith("#") and not item:
            break  # the next key of the document
        if indent is not None:
            block.append(line[indent:] if line[:indent].strip() == "" else line)
    if block:
        yield first, "\n".join(block)


def _lines_of(block: str, where: str, findings: Findings) -> list[str]:
    """Return what is said in a conversation; nothing (and a finding) if it cannot be read."""
    import yaml  # only for YAML

    try:
        root = yaml.compose(block, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        fault = getattr(error, "problem", None) or "it is nested too deeply"
        findings.add("yaml.bad_item", where, fault=fault)
        return []
    node = root.value[0] if isinstance(root, yaml.SequenceNode) and root.value else None
    if not isinstance(node, yaml.SequenceNode):
        findings.add("yaml.bad_item", where, fault="it is no list of lines")
        return []
    if not all(isinstance(n, yaml.ScalarNode) and _is_plain(n.tag) for n in node.value):
        findings.add("yaml.bad_item", where, fault="a line is no text")
        return []
    return [str(n.value).strip() for n in node.value]


def _is_plain(tag: str) -> bool:
    return tag.startswith("tag:yaml.org,2002:") and "python" not in tag
