"""Work that the service process does for a page, and that goes on when the page is closed.

A closed tab cancels Gradio's generators. A task is therefore consumed by a thread of its own; pages
only look at its state, and find it again after a refresh.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.errors import StudioError

Messages = Callable[[], Iterator[dict[str, Any]]]


@dataclass
class Task:
    """A piece of work and how far it is.

    Attributes:
        progress: the last progress message.
        result: the last message's payload, once done.
        error: why it failed, if it did.
        unwanted: set when nobody waits for it any more; it ends at its next message.
    """

    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: StudioError | None = None
    unwanted: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @property
    def finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None

    def follow(self, seconds: float = 1.0) -> Iterator[Task]:
        """Yield the task at every change (at least every ``seconds``) until it is finished."""
        while True:
            finished = self.finished
            yield self
            if finished:
                return
            with self._changed:
                if not self.finished:
                    self._changed.wait(seconds)

    def consume(self, messages: Messages) -> None:
        """Take the service's messages until the last one; never raises."""
        try:
            for message in messages():
                self._take(message)
                if self.unwanted:
                    break  # closes the iterator, which cancels the work
        except StudioError as error:
            self._set(error=error)
        finally:
            if not self.finished:
                self._set(error=StudioError("The work ended without a result.", code="task.lost"))

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "done":
            self._set(result=message.get("result", {}))
        else:
            self._set(progress=message)

    def _set(self, **changes: Any) -> None:
        with self._changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self._changed.notify_all()


class Tasks:
    """Running and finished tasks by key; the same key is never run twice at a time."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: dict[str, Task] = {}
        self._lock = threading.Lock()

    def start(self, key: str, messages: Messages) -> Task:
        """Return the running task under ``key``, or start it."""
        with self._lock:
            task = self._tasks.get(key)
            if task and not task.finished:
                return task
            task = self._tasks[key] = Task()
        thread = threading.Thread(target=task.consume, args=(messages,), name=f"task {key}")
        thread.daemon = True
        thread.start()
        return task

    def drop(self, prefix: str) -> None:
        """Forget the tasks whose key begins so; what still runs is cancelled."""
        with self._lock:
            for key in [k for k in self._tasks if k.startswith(prefix)]:
                self._tasks.pop(key).unwanted = True

    def get(self, key: str) -> Task | None:
        """Return the newest task under ``key``."""
        with self._lock:
            return self._tasks.get(key)
