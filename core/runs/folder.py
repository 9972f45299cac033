"""The small files of a run folder that parent and child speak through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.whole import write_whole

WISHES = ("run", "pause", "stop")
ERROR_FILE = "error.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "worker.log"
BEAT_FILE = "beat"
LOCK_FILE = "worker.lock"
EXIT_BUSY = 75  # a worker's exit code when another one has its run folder


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; ``None`` if it is missing or no object."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_whole(path, json.dumps(tree, indent=2, ensure_ascii=False))


def write_wish(folder: Path, wish: str) -> None:
    """Tell the child of a run folder to ``run``, ``pause`` or ``stop``."""
    write_whole(folder / "want", wish)


def read_wish(folder: Path) -> str:
    """What the child should do: ``run`` if nothing valid is written."""
    try:
        wish = (folder / "want").read_text("utf-8").strip()
    except (OSError, ValueError):
        return "run"
    return wish if wish in WISHES else "run"


def read_events_from(
    path: Path, offset: int, most: int = 1 << 20
) -> tuple[list[dict[str, Any]], int]:
    """Read whole lines of an ``events.jsonl``.

    A last line without its end is left for the next time; a line that is no JSON object (the
    child was killed in the middle of it) is passed over.

    Args:
        path: the file; it need not exist yet.
        offset: bytes already read.
        most: read at most so many bytes; 0: all there are.

    Returns:
        The events and the new offset.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read(most or -1)
            if most and len(block) == most:
                block += file.readline()  # a line longer than a block must not block the reader
    except FileNotFoundError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    events = [event for line in whole.splitlines() if (event := _parse(line)) is not None]
    return events, offset + len(whole)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
