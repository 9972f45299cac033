"""A studio without children: a store in a temporary folder, a service that answers at once."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.config import DataConfig, RunConfig
from core.runs.runner import Runner
from core.runs.store import Store
from studio.backend import Backend
from studio.server import create_app


class EchoService:
    """Answers every request with what is in ``messages``."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = [{"event": "done", "result": {}}]
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def stream(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((op, request))
        yield from self.messages

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("studio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def backend(home: Path) -> Iterator[Backend]:
    """The queue is never started: submitted runs stay queued."""
    store = Store(home / "studio.db")
    yield Backend(store, Runner(store), EchoService())
    store.close()


@pytest.fixture(scope="module")
def client(backend: Backend) -> Iterator[TestClient]:
    with TestClient(create_app(backend), base_url="http://127.0.0.1:7860") as client:
        yield client


@pytest.fixture
def run_id(backend: Backend) -> str:
    config = RunConfig(name="Class 8b", budget_bytes=900_000_000, data=DataConfig(path="class.csv"))
    return backend.start(config, key=uuid.uuid4().hex)
