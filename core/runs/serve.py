"""The other end of :mod:`core.runs.service`: a child that keeps models loaded and answers requests.

One JSON object a line on standard input: ``{"id", "op", ...}``; answers on standard output:
``{"id", "event": "token" | "progress" | "done" | "error", ...}``, the outcome under ``result`` of
``done``. Requests that need the same model
wait for each other in a lane; lanes go side by side, so that both chat panes stream at once.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from core.errors import ConfigError, Stopped
from core.events import Event, PhaseChanged
from core.runs.environment import prepare_this_process
from core.runs.explain import error_document, explain
from core.runs.service import LOG_NAME, checked

Send = Callable[[dict[str, Any]], None]


@dataclass
class Request:
    """One request, with what an operation may say while it works on it.

    Attributes:
        id: chosen by the caller.
        op: the operation.
        arguments: everything else of the line.
        send: writes one answer.
        cancelled: set when nobody waits for the answer any more.
    """

    id: str
    op: str
    arguments: dict[str, Any]
    send: Send
    cancelled: threading.Event = field(default_factory=threading.Event)

    def answer(self, event: str, **fields: Any) -> None:
        """Write one answer line."""
        self.send({"id": self.id, "event": event, **fields})

    def text(self, part: str) -> None:
        """Write a piece of a chat answer."""
        self.answer("token", text=part)

    def emit(self, event: Event) -> None:
        """Pass an event of the engine on as progress.

        Raises:
            Stopped: the request was cancelled.
        """
        if self.cancelled.is_set():
            raise Stopped("The request was cancelled.", code="cancelled")
        if isinstance(event, PhaseChanged):
            self.answer("progress", phase=event.phase, share=event.share, detail=event.detail)


Operation = Callable[[Request], dict[str, Any]]


class Server:
    """Puts requests into lanes and works on each lane in a thread of its own."""

    def __init__(self, operations: Mapping[str, Operation], send: Send, log: Path) -> None:
        """Prepare.

        Args:
            operations: what can be asked, by name.
            send: writes one answer; called from several threads.
            log: gets the traceback of unexpected errors.
        """
        self._operations, self._send, self._log = operations, send, log
        self._lanes: dict[str, queue.Queue[Request]] = {}
        self._open: dict[str, Request] = {}
        self._lock = threading.Lock()

    def serve(self, lines: Iterable[str]) -> None:
        """Take requests until the caller closes the pipe."""
        for line in lines:
            if line.strip():
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        request_id, op = str(message.pop("id")), str(message.pop("op"))
        if op == "cancel":
            with self._lock:
                target = self._open.get(str(message["target"]))
            if target is not None:
                target.cancelled.set()
            return
        request = Request(request_id, op, message, self._send)
        with self._lock:
            self._open[request_id] = request
        self._lane(_lane_of(request)).put(request)

    def _lane(self, name: str) -> queue.Queue[Request]:
        if name not in self._lanes:
            self._lanes[name] = queue.Queue()
            thread = threading.Thread(
                target=self._work, args=(self._lanes[name],), name=name, daemon=True
            )
            thread.start()
        return self._lanes[name]

    def _work(self, lane: queue.Queue[Request]) -> None:
        while True:
            self._do(lane.get())

    def _do(self, request: Request) -> None:
        try:
            if request.cancelled.is_set():
                raise Stopped("The request was cancelled.", code="cancelled")
            request.answer("done", result=self._operation(request)(request))
        except Exception as error:  # every request gets an answer, whatever goes wrong
            said = explain(error, self._log)
            request.answer("error", **said.problem.to_json(), **error_document(said))
        finally:
            with self._lock:
                self._open.pop(request.id, None)

    def _operation(self, request: Request) -> Operation:
        checked(request.op, request.arguments)
        if request.op not in self._operations:
            raise ConfigError(f"There is no operation {request.op!r}.", code="service.unknown")
        return self._operations[request.op]


def _lane_of(request: Request) -> str:
    if request.op in ("ping", "health"):  # needs no model's weights, so it waits for nobody's
        return request.op
    return f"chat {request.arguments.get('which')}" if request.op == "chat" else "work"


def answers_on_stdout() -> Send:
    """Keep standard output for answers: what libraries print goes to standard error."""
    pipe: IO[str] = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(answer: dict[str, Any]) -> None:
        line = json.dumps(answer)
        with lock:
            try:
                pipe.write(line + "\n")
                pipe.flush()
            except OSError:  # the caller is gone, and so is everyone who could read this
                os._exit(0)

    return send


def main(operations: Mapping[str, Operation], log: Path) -> None:
    """Serve standard input until it ends, then leave at once, in the middle of work too."""
    faulthandler.enable()
    send = answers_on_stdout()
    Server(operations, send, log).serve(sys.stdin)
    os._exit(0)


if __name__ == "__main__":
    prepare_this_process()
    from core.home import home
    from core.runs.operations import OPERATIONS

    main(OPERATIONS, home() / LOG_NAME)
