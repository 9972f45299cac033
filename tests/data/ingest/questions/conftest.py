from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.data.ingest import read_file
from core.data.types import ReadResult

Read = Callable[..., ReadResult]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return what reads a file of a name and a content."""

    def reading(name: str, content: str | bytes) -> ReadResult:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_file(path)

    return reading
