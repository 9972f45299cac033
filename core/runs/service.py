"""Chat, plan previews, marks and exports in a long-lived child process. No torch in here.

The child (:mod:`core.runs.serve`) is started with the first request, ended when nobody has asked
for a while, and started again after a crash: running out of memory there leaves the studio alive.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import ConfigError, Problem, StudioError, TrainingError
from core.home import CHECKOUT, home
from core.runs.environment import child_environment
from core.runs.explain import out_of_memory
from core.runs.spawn import kill_tree

LARGEST_MESSAGE = 20_000  # characters of one chat message
LARGEST_REQUEST = 8_000_000  # characters of one request line
LOG_NAME = "service.log"
_LARGEST_LOG = 4_000_000  # bytes
_KILLED = (-9, 137)


class ServiceError(StudioError):
    """An error that came over the pipe, with all its findings and its exit code."""

    def __init__(self, answer: dict[str, Any]) -> None:
        """Rebuild the error from an ``error`` answer."""
        super().__init__(
            str(answer.get("what", "")),
            where=str(answer.get("where", "")),
            action=str(answer.get("action", "")),
            code=str(answer.get("code", "")),
        )
        self.exit_code = int(answer.get("exit_code", 2))
        self.minimum_budget_bytes = answer.get("minimum_budget_bytes")
        self._problems = [_problem(tree) for tree in answer.get("problems", [])]

    @property
    def problems(self) -> list[Problem]:
        """All findings behind this error."""
        return self._problems or [self.problem]


def _problem(tree: dict[str, Any]) -> Problem:
    values = tuple((str(k), str(v)) for k, v in dict(tree.get("values", {})).items())
    return Problem(**{**tree, "values": values})


def checked(op: str, arguments: dict[str, Any]) -> None:
    """Refuse what is too long to be meant.

    Raises:
        ConfigError: a chat message is longer than 20 000 characters.
    """
    if op != "chat":
        return
    longest = max((len(str(turn.get("content", ""))) for turn in arguments["turns"]), default=0)
    if longest > LARGEST_MESSAGE:
        raise ConfigError(
            f"The message has {longest} characters; the limit is {LARGEST_MESSAGE}.",
            action="Shorten it and send it again.",
            code="chat.too_long",
        )


class _Child:
    """One process with those who wait for its answers."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("ab") as errors:
            if errors.tell() > _LARGEST_LOG:
                errors.truncate(0)
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        self.waiting: dict[str, queue.Queue[dict[str, Any]]] = {}
        self.lock = threading.Lock()
        self.gone = False
        threading.Thread(target=self._read, name="service reader", daemon=True).start()

    def ask(self, message: dict[str, Any]) -> queue.Queue[dict[str, Any]] | None:
        """Send a request; ``None`` if the process is gone."""
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        with self.lock:
            if self.gone:
                return None
            self.waiting[message["id"]] = answers
        return answers if self.tell(message) else None

    def tell(self, message: dict[str, Any]) -> bool:
        """Send a line; ``False`` if the process is gone."""
        assert self.process.stdin is not None
        with self.lock:
            try:
                self.process.stdin.write(json.dumps(message) + "\n")
                self.process.stdin.flush()
            except (OSError, ValueError):  # broken or closed pipe
                return False
        return True

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed, or a line cut short by a crash
            for line in self.process.stdout:
                answer = json.loads(line)
                with self.lock:
                    answers = self.waiting.get(answer["id"])
                if answers is not None:
                    answers.put(answer)
        self._tell_the_end()

    def _tell_the_end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        error = _crash(self.process.poll())
        with self.lock:
            self.gone = True
            waiting, self.waiting = self.waiting, {}
        for request_id, answers in waiting.items():
            answers.put(_error_answer(request_id, error))

    def close(self) -> None:
        """End the process: closing its input is enough, force if it does not listen."""
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            kill_tree(self.process.pid)
            self.process.wait()


def _crash(code: int | None) -> StudioError:
    if code in _KILLED:
        return out_of_memory()
    return TrainingError(
        "The helper process of the studio ended unexpectedly.",
        action="Try again: it starts anew.",
        code="service.crashed",
    )


def _error_answer(request_id: str, error: StudioError) -> dict[str, Any]:
    problems = [problem.to_json() for problem in error.problems]
    tree = {**error.problem.to_json(), "problems": problems, "exit_code": error.exit_code}
    return {"id": request_id, "event": "error", **tree}


class Service:
    """The studio's side; any number of threads may ask.

    Operations and their arguments are those of :mod:`core.runs.operations`.
    """

    def __init__(
        self,
        *,
        command: list[str] | None = None,
        idle_seconds: float = 900.0,
        log: Path | None = None,
    ) -> None:
        """Prepare; the child starts with the first request.

        Args:
            command: its argument list.
            idle_seconds: without a request it is ended after so long, which frees its memory.
            log: what it prints; by default ``service.log`` in ``STUDIO_HOME``.
        """
        self._command = command or [sys.executable, "-m", "core.runs.serve"]
        self._idle_seconds, self._log = idle_seconds, log
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._busy = 0

    def stream(
        self, op: str, *, request_id: str = "", **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """Ask, and yield answers until the last, whose event is ``done``.

        Closing the iterator early cancels the request.

        Args:
            op: the operation.
            request_id: for :meth:`cancel` from another thread; made up if empty.
            arguments: of the operation.

        Raises:
            ServiceError: the operation failed, or the process ended.
        """
        message = {"id": request_id or secrets.token_hex(8), "op": op, **arguments}
        checked(op, arguments)
        if len(json.dumps(message)) > LARGEST_REQUEST:
            raise ConfigError("The request is too large.", code="service.too_large")
        with self._counted():
            child, answers = self._ask(message)
            yield from self._answers(child, answers, message["id"])

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask and wait.

        Returns:
            The ``result`` of the ``done`` answer.

        Raises:
            ServiceError: the operation failed, or the process ended.
        """
        *_, answer = self.stream(op, **arguments)
        result: dict[str, Any] = answer["result"]
        return result

    def cancel(self, request_id: str) -> None:
        """Let a request end early; it still gets its last answer."""
        with self._lock:
            child = self._child
        if child is not None:
            child.tell({"id": secrets.token_hex(8), "op": "cancel", "target": request_id})

    def close(self) -> None:
        """End the child (a later request starts another)."""
        self._close(only_if_idle=False)

    def _close(self, *, only_if_idle: bool) -> None:
        with self._lock:
            if only_if_idle and self._busy:
                return
            child, self._child = self._child, None
            if self._timer is not None:
                self._timer.cancel()
        if child is not None:
            child.close()

    @property
    def pid(self) -> int:
        """Process number of the child, 0 if there is none."""
        with self._lock:
            return self._child.process.pid if self._child and not self._child.gone else 0

    def _ask(self, message: dict[str, Any]) -> tuple[_Child, queue.Queue[dict[str, Any]]]:
        while True:
            with self._lock:
                if self._child is None or self._child.gone:
                    self._child = _Child(self._command, self._log or home() / LOG_NAME)
                child = self._child
            if (answers := child.ask(message)) is not None:
                return child, answers
            with self._lock:
                if self._child is child:
                    self._child = None

    def _answers(
        self, child: _Child, answers: queue.Queue[dict[str, Any]], request_id: str
    ) -> Iterator[dict[str, Any]]:
        finished = False
        try:
            while not finished:
                answer = answers.get()
                finished = answer["event"] in ("done", "error")
                if answer["event"] == "error":
                    raise ServiceError(answer)
                yield answer
        finally:
            with child.lock:
                child.waiting.pop(request_id, None)
            if not finished:
                self.cancel(request_id)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count open requests and set the clock when the last one is answered."""
        with self._lock:
            self._busy += 1
            if self._timer is not None:
                self._timer.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._timer = threading.Timer(
                        self._idle_seconds, self._close, kwargs={"only_if_idle": True}
                    )
                    self._timer.daemon = True
                    self._timer.start()
