"""Large class files: imported into a folder while the page shows how far it is.

The work is done by a child process and goes on when the page is closed; at its end the imported
class becomes the draft's. Cancelling leaves the class that was chosen before.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.config import DataConfig
from core.data.ingest import large
from core.data.ingest.stream import Progress
from core.errors import StudioError
from studio import draft
from studio.tasks import Task

_KEY = 8  # characters of a folder's name that stand for how the file was read


@dataclass(frozen=True)
class Incoming:
    """An import that was asked for: what the file is called, where it goes, and how far it is."""

    label: str
    folder: Path
    task: Task


def folder_of(source: Path, data: DataConfig) -> Path:
    """Return where a file is imported to; another way of reading it has another folder."""
    how = json.dumps([data.question, data.answer, data.columns, data.encoding])
    return source.parent / f"import-{hashlib.sha256(how.encode()).hexdigest()[:_KEY]}"


def messages(source: Path, data: DataConfig, label: str) -> Iterator[dict[str, Any]]:
    """Import a file and make it the draft's class; closing the iterator ends the child.

    Args:
        source: the file.
        data: how it is read.
        label: what it is called.

    Yields:
        Progress (``rows``, ``rate``, ``share``, ``left`` in seconds), and at last ``done``.

    Raises:
        StudioError: nothing in the file can be used.
    """
    folder = folder_of(source, data)
    if not large.is_imported(folder):
        yield from _import(source, folder, data, label)
    examples = len(large.load(folder).examples)
    draft.save(replace(draft.load(), name=label, data=replace(data, path=str(folder))))
    yield {"event": "done", "result": {"examples": examples}}


def _import(source: Path, folder: Path, data: DataConfig, label: str) -> Iterator[dict[str, Any]]:
    said: queue.Queue[dict[str, Any] | StudioError | None] = queue.Queue()
    ended = threading.Event()

    def work() -> None:
        how = {k: v for k, v in data.reading().items() if k != "sheet"}
        try:
            large.import_isolated(
                source,
                folder,
                **how,
                label=label,
                progress=lambda now: said.put(_progress(now)),
                should_stop=ended.is_set,
            )
            said.put(None)
        except StudioError as error:
            said.put(error)
        except OSError:
            unwritten = StudioError(
                "The imported class could not be written.",
                action="Check that there is room on the disk.",
                code="import.unwritten",
            )
            said.put(unwritten)

    worker = threading.Thread(target=work, name=f"import {folder.name}", daemon=True)
    worker.start()
    try:
        while (message := said.get()) is not None:
            if isinstance(message, StudioError):
                raise message
            yield message
    finally:
        ended.set()
        worker.join()


def _progress(now: Progress) -> dict[str, Any]:
    share = now.done / max(1, now.total)
    told = {"rows": now.rows, "rate": now.rate, "share": share, "left": now.seconds_left}
    return {"event": "progress", **told}
