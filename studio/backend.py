"""The one place of the studio that touches ``core.runs``.

Pages and routes ask here for runs, plans, answers and exports; what is heavy happens in the
training child or in the service child, never in this process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from core.config import DataConfig, RunConfig
from core.errors import DataError
from core.models import ModelInfo, list_models
from core.runs.runner import Runner
from core.runs.service import Service, ServiceError
from core.runs.store import Run, Store
from studio import exports, imports, maps
from studio.imports import Incoming
from studio.maps import Maps
from studio.tasks import Task, Tasks
from studio.workbench import Desk

WISHES = ("run", "pause", "stop")
EVENTS_AT_ONCE = 4000


class RunnerLike(Protocol):
    """What is needed of :class:`core.runs.runner.Runner`."""

    def submit(self, config: RunConfig, *, key: str = "") -> str:
        """Queue a run and return its id."""

    def want(self, run_id: str, wish: str) -> None:
        """Say what a run should do."""

    def close(self) -> None:
        """Let go of the queue; children go on."""


class ServiceLike(Protocol):
    """What is needed of :class:`core.runs.service.Service`."""

    def stream(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Send a request and yield its messages up to ``done``; closing it cancels."""

    def close(self) -> None:
        """End the child."""


@dataclass
class Backend:
    """Runs, the service process, the tasks of the pages, the class on the desk, the maps."""

    store: Store
    runner: RunnerLike
    service: ServiceLike

    def __post_init__(self) -> None:
        """Start with no task and an empty desk."""
        self.tasks = Tasks()
        self.desk = Desk()
        self.maps = Maps()
        self.incoming: Incoming | None = None  # an import whose class no page has shown yet

    @classmethod
    def open(cls, address: str = "") -> Backend:
        """Open the state folder and start watching the queue.

        Args:
            address: where this studio can be reached, told to a second one.

        Raises:
            StudioError: if another studio has it open.
        """
        runner = Runner.open(address=address)
        runner.start()
        return cls(runner.store, runner, Service())

    def close(self) -> None:
        """Close what :meth:`open` opened; running children go on."""
        self.service.close()
        self.runner.close()
        self.store.close()

    def models(self) -> list[ModelInfo]:
        """Return all base models, usable or with the reason why not."""
        return list_models()

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return sorted(self.store.runs(), key=lambda run: -run.seq)

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises:
            StudioError: if there is none of that id.
        """
        return self.store.run(run_id)

    def events(
        self, run_id: str, cursor: int, kinds: Sequence[str] = ()
    ) -> tuple[list[dict[str, Any]], int]:
        """Return a run's events after ``cursor`` (of some kinds only), and the next cursor."""
        events = self.store.events_after(run_id, cursor, EVENTS_AT_ONCE, kinds=kinds)
        return events, (events[-1]["seq"] if events else cursor)

    def last_event(self, run_id: str, kind: str) -> dict[str, Any] | None:
        """Return the newest event of a kind."""
        return self.store.last_event(run_id, kind)

    def start(self, config: RunConfig, *, key: str = "") -> str:
        """Queue a run; the same ``key`` again returns the same run.

        Where the class has a quiz by concept switched on, the run learns the class split so.

        Raises:
            DataError: if no class is chosen.
        """
        if not config.data.path:
            raise DataError(
                "No class data is chosen yet.",
                action="Choose a sample class or upload a file first.",
                code="data.none",
            )
        return self.runner.submit(maps.applied(config), key=key)

    def want(self, run_id: str, wish: str) -> None:
        """Say that a run should ``run``, ``pause`` or ``stop``."""
        self.runner.want(run_id, wish)

    def plan(self, config: RunConfig) -> Task:
        """Plan in the service process; the same question is answered once."""
        tree = maps.applied(config).to_json()
        key = f"plan {json.dumps(tree, sort_keys=True)}"
        known = self.tasks.get(key)
        if known and known.result:
            return known
        return self.tasks.start(key, lambda: self._stream("plan", config=tree))

    def health(self, config: RunConfig) -> Task:
        """Check a class in the service process; the same question is answered once."""
        tree = config.to_json()
        asked = {name: tree[name] for name in ("model", "data")} | {"train": tree["train"]}
        path = Path(config.data.path)
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        key = f"health {json.dumps(asked, sort_keys=True)} {stamp}"
        known = self.tasks.get(key)
        if known and (known.result or not known.finished):
            return known
        self.tasks.drop("health ")  # of another class: nobody asks for it any more
        return self.tasks.start(key, lambda: self._stream("health", config=tree))

    def import_class(self, source: Path, data: DataConfig, label: str) -> Incoming:
        """Import a large class file; an import that is under way is ended."""
        self.cancel_import()
        folder = imports.folder_of(source, data)
        task = self.tasks.start(f"import {folder}", lambda: imports.messages(source, data, label))
        self.incoming = Incoming(label, folder, task)
        return self.incoming

    def cancel_import(self) -> None:
        """End the import that is under way, if there is one."""
        self.tasks.drop("import ")
        self.incoming = None

    def chat(self, run_id: str, which: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Stream an answer of the ``base`` or the ``tuned`` model of a run."""
        folder = str(self.run(run_id).folder)
        return self._stream("chat", run=folder, which=which, **request)

    def same(self, run_id: str, first: str, second: str) -> dict[str, Any]:
        """Ask the model of a run whether two questions mean the same.

        Raises:
            StudioError: there is no such model, or a question is empty.
        """
        folder = str(self.run(run_id).folder)
        last = list(self._stream("same", run=folder, first=first, second=second))[-1]
        result: dict[str, Any] = last["result"]
        return result

    def duplicates(self, run_id: str, data: DataConfig) -> Task:
        """Look for questions of a class that were asked before; the task outlives the page."""
        folder, tree = str(self.run(run_id).folder), asdict(data)
        return self.tasks.start(
            f"duplicates {run_id}", lambda: self._stream("duplicates", run=folder, data=tree)
        )

    def concept_map(self, config: RunConfig, pairs: str = "") -> Task:
        """Find the concepts of a class and its added texts anew; corrections are kept and learned.

        Args:
            config: the draft; without a class the map is made of the texts alone.
            pairs: id of the run whose model finds double questions; empty: equal texts only.

        Raises:
            DataError: there is neither class nor text.
        """
        folder, data = maps.folder_of(config), config.data
        texts = self.maps.material(folder)
        if not data.path and not texts:
            raise DataError(
                "No class data is chosen yet.",
                action="Choose a sample class or upload a file first.",
                code="data.none",
            )
        run = str(self.run(pairs).folder) if pairs else ""
        folder.mkdir(parents=True, exist_ok=True)
        made_of = maps.made_of(config, texts, pairs)
        request = {
            "data": asdict(data) if data.path else None,
            "material": [str(text.path) for text in texts],
            "pairs": run,
            "previous": self.maps.previous(folder),
            "name": config.name or "class",
            "save": str(folder / maps.NEW),
        }

        def messages() -> Iterator[dict[str, Any]]:
            for message in self._stream("graph", **request):
                if message["event"] == "done":
                    self.maps.take(folder, made_of)
                    message = {"event": "done", "result": {}}  # the map is on disk
                yield message

        return self.tasks.start(map_key(folder), messages)

    def export(self, run_id: str, form: str, language: str) -> Task:
        """Write an export in the service process; the task outlives the page."""
        folder = self.run(run_id).folder

        def messages() -> Iterator[dict[str, Any]]:
            request = {"run": str(folder), "format": form, "language": language}
            for message in self._stream("export", **request):
                if message["event"] == "done":
                    message["result"] = exports.finish(folder, form, message["result"])
                yield message

        return self.tasks.start(export_key(run_id, form), messages)

    def export_task(self, run_id: str, form: str) -> Task | None:
        """Return the newest task of an export."""
        return self.tasks.get(export_key(run_id, form))

    def _stream(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Yield the service's messages; an error answer is raised.

        Raises:
            ServiceError: the operation failed, or the process ended.
        """
        for message in self.service.stream(op, **request):
            if message["event"] == "error":
                raise ServiceError(message)
            yield message


def export_key(run_id: str, form: str) -> str:
    """Return the key of an export's task."""
    return f"export {run_id} {form}"


def map_key(folder: Path) -> str:
    """Return the key of the task that makes the map of a class."""
    return f"map {folder.name}"


def free_memory() -> int:
    """Return bytes that a new process could use without swapping."""
    return int(psutil.virtual_memory().available)
