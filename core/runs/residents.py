"""Models kept loaded between requests: the base by itself, and the tuned one as it was trained.

The base is loaded from its own files and never sees an adapter; the tuned model is another object.
Both stay as long as memory allows, otherwise the one that is not in use makes room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psutil

from core.config import RunConfig
from core.data.chat import ChatFormat
from core.errors import ModelError
from core.models import ensure_local, resolve
from core.runs.folder import read_json

if TYPE_CHECKING:
    from core.pairs.store import Trained

_SPARE = 400_000_000  # bytes left free for generating and for other programs
_BYTES_PER_WEIGHT = 4  # float32, which is what most CPUs multiply fast

Progress = Callable[[float, str], None]


@dataclass
class Resident:
    """A loaded model with what is needed to talk to it; ``lock`` while it generates."""

    model: Any
    tokenizer: Any
    chat: ChatFormat
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class PairResident:
    """A model that compares questions; ``lock`` while it does."""

    trained: Trained
    lock: threading.Lock = field(default_factory=threading.Lock)


class Kept(Protocol):
    """What can be kept loaded."""

    @property
    def lock(self) -> threading.Lock:
        """Held while it is in use."""
        ...


AnyKept = TypeVar("AnyKept", bound=Kept)


def base_of(run: Path) -> str:
    """The base model that a run or an adapter was made for.

    Raises:
        ConfigError: the folder holds no configuration.
    """
    return RunConfig.load(run / "config.json").model


class Residents:
    """At most one base, one tuned model and one that compares questions."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._loading = threading.Lock()

    def base(self, model: str, progress: Progress) -> Resident:
        """The base model, without any adapter.

        Raises:
            ModelError: it cannot be used.
        """
        return self._get("base", model, lambda: _load_base(model, progress), _weights(model))

    def tuned(self, adapter: Path, model: str, progress: Progress) -> Resident:
        """The tuned model of a run folder, or of an exported PEFT adapter on its base.

        Args:
            adapter: the folder.
            model: the base of a PEFT adapter; empty: the one that the adapter names.
            progress: hears how the base is made ready.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        # A run that went on since has another adapter.
        stamps = sorted(p.stat().st_mtime_ns for p in adapter.rglob("*.safetensors"))
        key = (str(adapter.resolve()), model, stamps[-1:])
        exported = read_json(adapter / "adapter_config.json")
        if exported is None:
            base = base_of(adapter)
            return self._get("tuned", key, lambda: _load_run(adapter), _weights(base))
        base = model or _named_base(adapter, str(exported.get("base_model_name_or_path", "")))
        return self._get("tuned", key, lambda: _load_peft(adapter, base, progress), _weights(base))

    def pairs(self, run: Path) -> PairResident:
        """The model of a run of the method ``pairs``.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        stamps = sorted(p.stat().st_mtime_ns for p in (run / "adapter").glob("*.safetensors"))
        key = (str(run.resolve()), stamps)
        return self._get("pairs", key, lambda: _load_pairs(run), _weights(base_of(run)))

    def _get(self, which: str, key: Any, load: Callable[[], AnyKept], weights: int) -> AnyKept:
        with self._loading:
            kept = self._kept.get(which)
            if kept is not None and kept[0] == key:
                found: AnyKept = kept[1]
                return found
            self._drop(which)
            if weights * _BYTES_PER_WEIGHT + _SPARE > psutil.virtual_memory().available:
                self._drop(*self._kept)
            resident = load()
            self._kept[which] = (key, resident)
            return resident

    def _drop(self, *names: str) -> None:
        for name in names:
            kept = self._kept.get(name)
            if kept is not None:
                with kept[1].lock:  # not in the middle of an answer
                    del self._kept[name]


def _weights(model: str) -> int:
    return resolve(model).parameters


def _named_base(adapter: Path, name: str) -> str:
    beside = (adapter / name).resolve()
    return str(beside) if name and beside.is_dir() else name


def _load_base(model: str, progress: Progress) -> Resident:
    import torch

    from core.assemble import compute_dtype
    from core.modelload import load_dense, load_tokenizer

    folder = ensure_local(resolve(model), progress)
    tokenizer = load_tokenizer(folder)
    # The tuned model computes in this dtype too: the panes differ by the adapter alone.
    dense = load_dense(folder, compute_dtype(torch.device("cpu")))
    return Resident(dense, tokenizer, ChatFormat.of(tokenizer))


def _load_run(run: Path) -> Resident:
    from core.adapters.store import load_adapted

    return Resident(*load_adapted(run))


def _load_pairs(run: Path) -> PairResident:
    from core.pairs.store import load_trained

    return PairResident(load_trained(run))


def _load_peft(adapter: Path, model: str, progress: Progress) -> Resident:
    import torch

    from core.assemble import compute_dtype
    from core.export.peft import load_peft
    from core.modelload import load_tokenizer

    base = ensure_local(resolve(model), progress)
    tokenizer = load_tokenizer(base)
    try:
        tuned = load_peft(base, adapter, compute_dtype(torch.device("cpu")))
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(
            "This adapter cannot be used on this base model.",
            where=adapter.name,
            action="Name the base that it was trained on by --model.",
            code="adapter.unusable",
        ) from error
    return Resident(tuned, tokenizer, ChatFormat.of(tokenizer))
