"""Checkpoints that are whole or absent: written aside, listed with SHA-256, renamed last.

A folder without a matching manifest is no candidate, whatever its name says; so a run that is
killed, or a disk that fills up or flips a bit, falls back to the checkpoint before.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import ModelError
from core.manifest import MANIFEST, check_manifest, whole_folder, write_manifest

KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write ``folder/step-000040`` and return it.

    Args:
        folder: the run's ``checkpoints``.
        step: optimizer steps done.
        tensors: adapters, moments and scores by name.
        state: everything else, JSON-serialisable.

    Raises:
        OSError: if the disk is full; older checkpoints are whole.
    """
    target = folder / f"step-{step:06d}"
    with whole_folder(target) as temporary:
        save_file(
            {k: t.detach().cpu().contiguous() for k, t in tensors.items()},
            temporary / "state.safetensors",
        )
        (temporary / "state.json").write_text(json.dumps(state), "utf-8")
        write_manifest(temporary, step=step, torch=torch.__version__)
    return target


def newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint with its tensors and state, or None."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        loaded = load(path)
        if loaded is not None:
            return (path, *loaded)
    return None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of one checkpoint, or None if it is not whole."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        check_manifest(path, contents=True)
        state = json.loads((path / "state.json").read_text("utf-8"))
        return load_file(path / "state.safetensors"), state
    except (ModelError, OSError, ValueError, KeyError):
        return None


def rotate(folder: Path, keep: set[str]) -> None:
    """Remove all but the newest ``KEEP`` checkpoints and those named in ``keep``."""
    for path in sorted(folder.glob("step-*"))[:-KEEP]:
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
