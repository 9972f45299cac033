"""What children wrote into their run folders, moved into the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from core.runs.folder import EVENTS_FILE, LOCK_FILE, read_events_from, read_json
from core.runs.lock import FileLock

if TYPE_CHECKING:
    from core.runs.store import Run, Store

FINAL = ("paused", "stopped", "done", "failed")


def read_events(store: Store, run: Run, *, most: int = 1 << 20) -> list[dict[str, Any]]:
    """Move whole lines of a run's ``events.jsonl`` into the store and return them.

    Args:
        store: where they go, together with how far was read, in one transaction.
        run: whose events.
        most: read at most so many bytes; 0: all there are.
    """
    events, offset = read_events_from(run.folder / EVENTS_FILE, run.read_bytes, most)
    if offset > run.read_bytes:
        with store.transaction():
            store.append_events(run.id, events)
            store.update(run.id, read_bytes=offset, beat=time.time())
    return events


def rebuild(store: Store) -> None:
    """Fill an empty store from the run folders beside it, oldest first."""
    if not store.runs_folder.is_dir():
        return
    configs = [
        path
        for path in store.runs_folder.glob("*/config.json")
        if not path.parent.name.startswith(".")  # half deleted
    ]
    for path in sorted(configs, key=lambda p: (p.stat().st_mtime, p.parent.name)):
        config, run_id = read_json(path) or {}, path.parent.name
        with store.transaction():
            store.add_run(run_id, config, name=str(config.get("name", "")))
            read_events(store, store.run(run_id), most=0)
            last = store.last_event(run_id, "status")
            status = last["status"] if last else ""
            if status not in FINAL:
                # No surprise start after a repair; but what still runs will be adopted.
                alive = FileLock(path.parent / LOCK_FILE).held_by_other()
                status = "running" if alive else "stopped"
            store.update(run_id, status=status, result=read_json(path.parent / "result.json"))
