"""Run folders as entries, for the command line. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.compare.entries import Entry, entry_of


def read_entry(folder: Path) -> Entry:
    """Read a run folder.

    ``result.json`` makes it a finished run; otherwise its last word counts.
    """
    config, result = _object(folder / "config.json"), _object(folder / "result.json")
    events = _events(folder / "events.jsonl")
    said = [e["status"] for e in events if e.get("kind") == "status" and "status" in e]
    status = "done" if result else (said[-1] if said else "stopped")
    name = str(config.get("name") or folder.name)
    return entry_of(str(folder), name, status, config, result, events, folder)


def _object(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a line that a killed process left half written is passed over."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
