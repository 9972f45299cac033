"""The teacher's choices before a run starts: one :class:`RunConfig` a task, kept on disk.

Refreshing, a second tab, another language or a restart of the studio therefore change nothing, and
a run can be repeated on the command line from the same file.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.config import MB, RunConfig, TrainConfig
from core.errors import ConfigError
from core.home import home

DEFAULT_BUDGET_BYTES = 900 * MB
ANSWERS, PAIRS = "draft", "pairs"  # tasks, and the names of their files
PAIR_PASSES = 6.0  # a small set of pairs is gone through that often

_lock = threading.Lock()


def _file(task: str) -> Path:
    return home() / f"{task}.json"


def load(task: str = ANSWERS) -> RunConfig:
    """Return the draft of a task; a damaged or missing file gives a fresh one."""
    try:
        return RunConfig.load(_file(task))
    except ConfigError:
        if task == PAIRS:
            return RunConfig(method=PAIRS, train=TrainConfig(epochs=PAIR_PASSES))
        return RunConfig(budget_bytes=DEFAULT_BUDGET_BYTES)


def save(config: RunConfig, task: str = ANSWERS) -> None:
    """Write a draft whole or not at all."""
    handle, name = tempfile.mkstemp(dir=home(), prefix="draft-", suffix=".tmp")
    os.close(handle)
    config.save(Path(name))
    Path(name).replace(_file(task))


def change(task: str = ANSWERS, **fields: Any) -> RunConfig:
    """Change fields of a draft; ``group__field`` names a field of a group.

    Example:
        ``change(budget_bytes=900_000_000, train__epochs=2.0)``

    Raises:
        ConfigError: if a value is of the wrong type or out of range.
    """
    with _lock:
        tree = load(task).to_json()
        for name, value in fields.items():
            group, _, field = name.rpartition("__")
            (tree[group] if group else tree)[field] = value
        config = RunConfig.from_json(tree)
        save(config, task)
    return config


def reset() -> RunConfig:
    """Forget the class and the name; keep model and settings."""
    with _lock:
        fresh = RunConfig().data
        config = replace(load(), data=fresh, name="")
        save(config)
    return config
