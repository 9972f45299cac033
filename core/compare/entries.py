"""Runs as entries of a comparison: settings, what was measured, the curve of the quiz loss.

Nothing is measured here; an entry says only what a run has written about itself. No torch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.compare.interval import Better
from core.compare.words import size
from core.config import RunConfig
from core.errors import ConfigError, Problem
from core.methods import composed

KINDS = ("data", "evaluated", "failed", "status")  # events that an entry is made of
# What a run is told apart by, but not what it does.
_LABELS = ("name", "train.seed")


@dataclass(frozen=True)
class Measure:
    """A column of a comparison.

    Attributes:
        id: its key, also in the words.
        better: whether less or more of it is good.
        form: how it is written: loss | share | bytes | seconds | count | rate.
        cost: whether it is what a method costs (compared by ratios too), not how well it answers.
    """

    id: str
    better: Better
    form: str
    cost: bool = False

    def text(self, value: float) -> str:
        """Write a value for people."""
        return _FORMS[self.form](value)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


_FORMS: dict[str, Callable[[float], str]] = {
    "loss": lambda v: f"{v:.3f}",
    "share": lambda v: f"{v:.3f}",
    "bytes": size,
    "seconds": _clock,
    "count": lambda v: f"{v:,.0f}",
    "rate": lambda v: f"{v:,.0f}",
}

MEASURES = (
    Measure("nll", "less", "loss"),
    Measure("rouge_l", "more", "share"),
    Measure("exact_match", "more", "share"),
    Measure("accuracy", "more", "share"),
    Measure("f1", "more", "share"),
    Measure("mcc", "more", "share"),
    Measure("peak_bytes", "less", "bytes", cost=True),
    Measure("seconds", "less", "seconds", cost=True),
    Measure("tokens_per_second", "more", "rate", cost=True),
    Measure("trained_numbers", "less", "count", cost=True),
    Measure("file_bytes", "less", "bytes", cost=True),
)


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        id: of the run.
        name: its label for people.
        status: queued | running | paused | stopped | done | failed.
        settings: its settings by dotted path, with what its method fixes filled in.
        measures: what was measured, by the id of a :class:`Measure`; only what is there.
        base_nll: quiz loss of the base model (nats per answer token), if it was measured.
        data: SHA-256 of the frozen class and quiz, empty before it is frozen.
        curve: ``(step, loss)`` of the quiz while training, each step once.
        interrupted: whether it was started more than once, so that its time is not one piece.
        problem: why it failed, if it did.
    """

    id: str
    name: str
    status: str
    settings: dict[str, Any]
    measures: dict[str, float]
    base_nll: float | None
    data: str
    curve: tuple[tuple[int, float], ...]
    interrupted: bool
    problem: Problem | None

    @property
    def seed(self) -> int:
        """Seed of everything random in it, the draw of the quiz included."""
        return int(self.settings.get("train.seed", 0))

    @property
    def method(self) -> str:
        """Id of its method."""
        return str(self.settings.get("method", ""))

    @property
    def budget_bytes(self) -> int:
        """Its memory limit, 0 if there was none."""
        return int(self.settings.get("budget_bytes", 0))

    @property
    def key(self) -> str:
        """What entries that differ only in name and seed have in common."""
        kept = {k: v for k, v in self.settings.items() if k not in _LABELS}
        return json.dumps(kept, sort_keys=True)


def entry_of(
    run_id: str,
    name: str,
    status: str,
    config: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    events: Iterable[Mapping[str, Any]],
    folder: Path,
) -> Entry:
    """Put together what a run says of itself.

    Args:
        run_id: its id.
        name: its label.
        status: as the store has it.
        config: ``config.json``, complete or not.
        result: ``result.json`` of a finished run.
        events: at least those of :data:`KINDS`, oldest first.
        folder: where its adapter is.
    """
    base: float | None = None
    data, starts, problem = "", 0, None
    curve: dict[int, float] = {}
    for event in events:
        kind, nll = event.get("kind"), event.get("nll")
        if kind == "evaluated" and nll is not None and event.get("which") == "base":
            base = float(nll)
        elif kind == "evaluated" and nll is not None:
            curve[int(event["step"])] = float(nll)  # a resumed run repeats steps
        elif kind == "data":
            data = str(event.get("sha256", ""))
        elif kind == "status":
            starts += event.get("status") == "running"
        elif kind == "failed":
            problem = _problem(event)
    result = result if result and status == "done" else {}
    base = _number((_quiz(result).get("base") or {}).get("nll")) or base
    return Entry(
        id=run_id,
        name=name,
        status=status,
        settings=settings_of(config),
        measures=measured(result, folder, interrupted=starts > 1) if result else {},
        base_nll=base,
        data=data,
        curve=tuple(sorted(curve.items())),
        interrupted=starts > 1,
        problem=problem if status == "failed" else None,
    )


def measured(
    result: Mapping[str, Any], folder: Path, *, interrupted: bool = False
) -> dict[str, float]:
    """Return what a finished run has measured, by measure.

    Args:
        result: ``result.json``.
        folder: of the run.
        interrupted: its clock knows the last piece only; its time is then left out.
    """
    marks = result.get("quiz") or {}
    tuned = marks.get("tuned") or {}
    written = ("rouge_l", "exact_match", "accuracy", "f1", "mcc")
    found: dict[str, Any] = {name: tuned.get(name) for name in written}
    found["nll"] = (_quiz(result).get("tuned") or {}).get("nll")
    found["peak_bytes"] = result.get("measured_peak_bytes")
    found["seconds"] = None if interrupted else (result.get("seconds") or {}).get("total")
    found["tokens_per_second"] = result.get("tokens_per_second")
    found["trained_numbers"] = result.get("trained_numbers")
    found["file_bytes"] = made_bytes(folder) or None
    numbers = {name: _number(value) for name, value in found.items()}
    return {m.id: v for m in MEASURES if (v := numbers[m.id]) is not None}


def made_bytes(folder: Path) -> int:
    """Return the bytes of what training made: the adapter, or a student that trained whole."""
    for name in ("adapter", "model"):
        if (made := folder / name).is_dir():
            return sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    return 0


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted path, as the run takes them.

    A configuration that cannot be read any more (a later version's) is taken as it stands.
    """
    tree: Mapping[str, Any] = config
    with contextlib.suppress(ConfigError):
        tree = composed(RunConfig.from_json(dict(config))).to_json()
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Put runs together that differ only in name and seed, in the order in which they come."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    return list(groups.values())


def one_a_seed(group: Sequence[Entry]) -> list[Entry]:
    """Return the finished runs, of each seed the last: a repeat is no new evidence."""
    return list({(e.seed, e.data): e for e in group if e.status == "done"}.values())


def _quiz(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Marks of written answers; empty for pairs of questions, whose loss is another quantity."""
    quiz: Mapping[str, Any] = result.get("quiz") or {}
    return {} if quiz.get("task") == "pairs" else quiz


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _problem(event: Mapping[str, Any]) -> Problem:
    said = {name: str(event.get(name, "")) for name in ("where", "what", "action", "code")}
    return Problem(said["where"], said["what"], said["action"], code=said["code"])
