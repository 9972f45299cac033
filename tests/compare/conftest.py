"""Entries of a comparison as runs would write them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.compare.entries import Entry, entry_of
from core.config import DataConfig, RunConfig

MakeEntry = Callable[..., Entry]


@pytest.fixture
def make_entry(tmp_path: Path) -> MakeEntry:
    """Return a function that makes the entry of a finished run."""
    count = 0

    def make(
        method: str = "adaq",
        seed: int = 0,
        nll: float | None = 0.5,
        *,
        status: str = "done",
        name: str = "",
        data: str | None = None,
        peak: int = 800_000_000,
        events: tuple[dict, ...] = (),
        **groups: dict,
    ) -> Entry:
        nonlocal count
        count += 1
        config = RunConfig(
            method=method, budget_bytes=900_000_000, data=DataConfig(path="/classes/class.csv")
        )
        config = replace(config, train=replace(config.train, seed=seed))
        for group, fields in groups.items():
            config = replace(config, **{group: replace(getattr(config, group), **fields)})
        folder = tmp_path / f"run{count}"
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "adapter.safetensors").write_bytes(b"x" * 1234)
        tuned = {"nll": nll, "rouge_l": 0.6, "exact_match": 0.25}
        result = {
            "measured_peak_bytes": peak,
            "tokens_per_second": 100.0,
            "trained_numbers": 4096,
            "seconds": {"total": 90.0},
            "quiz": {"base": {"nll": 0.75}, "tuned": tuned} if nll is not None else {},
        }
        frozen = {"kind": "data", "sha256": f"quiz {seed}" if data is None else data}
        looks = [
            {"kind": "evaluated", "step": s, "nll": 1.0 / (s + 1), "which": "tuned"} for s in (0, 4)
        ]
        said = [{"kind": "status", "status": "running"}, frozen, *looks, *events]
        run = f"run-{count}"
        return entry_of(run, name or run, status, config.to_json(), result, said, folder)

    return make
