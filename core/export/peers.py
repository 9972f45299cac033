"""Exports of runs whose adapter is PEFT's own: merged, or the adapter's folder as it is."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from core import modelload
from core.adapters import peers, store
from core.assemble import compute_dtype
from core.data.chat import ChatFormat
from core.errors import ConfigError
from core.events import Emit, PhaseChanged
from core.export.card import write_card
from core.export.check import Checked, compared, must_be_equal, reference_answers
from core.export.run import FinishedRun, base_name, measured
from core.export.tensors import copy_tokenizer, write_config, write_safetensors
from core.manifest import read_manifest, whole_folder, write_manifest


def export_library(run: FinishedRun, form: str, out: Path, emit: Emit) -> dict[str, Any]:
    """Write one export; arguments and outcome as :func:`core.export.export`.

    Raises:
        ConfigError: for a form that belongs to the studio's own adapters.
        ModelError: if the export answers otherwise than the run; ``out`` is then as it was.
        OSError: if the disk is full.
    """
    if form not in ("merged", "peft"):
        raise ConfigError(
            f"A run of method {run.config.method} has one adapter, and no {form[:40]}.",
            where="format",
            action="Choose peft or merged.",
            code="export.one_adapter",
        )
    emit(PhaseChanged("export", 0.0, "answers"))
    with whole_folder(out) as folder:
        if form == "merged":
            checked, marks = _merged(run, folder, emit)
        else:
            checked, marks = _adapter(run, folder, emit)
        facts = {"kind": form, "checked": checked.to_json()}
        if form == "peft":
            facts["base_storage"] = storage(run)
        write_manifest(folder, **facts)
    emit(PhaseChanged("export", 1.0, "done"))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"files": files, "checked": checked.to_json(), "marks": marks}


def storage(run: FinishedRun) -> str:
    """In what the base of a run's adapter is stored: ``dense`` or ``nf4``."""
    return str(read_manifest(run.folder / store.ADAPTER).get("base_storage", peers.DENSE))


def _merged(run: FinishedRun, folder: Path, emit: Emit) -> tuple[Checked, dict[str, Any]]:
    """Write what chats in the studio: the expanded weights and the adapter, added up by PEFT."""
    dtype = compute_dtype(torch.device("cpu"))
    model, tokenizer, chat = store.load_adapted(run.folder)
    expected = reference_answers(model, tokenizer, chat, run.prompts)
    emit(PhaseChanged("export", 0.3, "weights"))
    write_config(run.base, folder, dtype)
    copy_tokenizer(run.base, folder, chat.template)
    _write(model, folder / "model.safetensors", dtype)
    del model
    gc.collect()  # the fresh copy is loaded beside nothing else
    emit(PhaseChanged("export", 0.6, "check"))
    fresh, tokenizer = modelload.load_dense(folder, dtype), modelload.load_tokenizer(folder)
    found = compared(expected, fresh, tokenizer, ChatFormat.of(tokenizer), run.prompts)
    checked = must_be_equal(found)
    marks = {k: v for k, v in run.marks.get("tuned", {}).items() if not isinstance(v, list)}
    write_card(folder / "README.md", run, "merged", checked, marks)
    return checked, marks


def _write(model: Any, path: Path, dtype: torch.dtype) -> None:
    parameters = dict(model.named_parameters())  # tied ones once
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    write_safetensors(path, shapes, dtype, lambda name: parameters[name])


def _adapter(run: FinishedRun, folder: Path, emit: Emit) -> tuple[Checked, dict[str, Any]]:
    """Copy the adapter with the base's public name; load it with PEFT, compare and mark."""
    source = run.folder / store.ADAPTER
    model, tokenizer, chat = store.load_adapted(run.folder, merged=False)
    expected = reference_answers(model, tokenizer, chat, run.prompts)
    del model
    gc.collect()
    shutil.copyfile(source / peers.WEIGHTS, folder / peers.WEIGHTS)
    settings = json.loads((source / peers.CONFIG).read_text("utf-8"))
    settings["base_model_name_or_path"] = base_name(run)
    (folder / peers.CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")
    copy_tokenizer(run.base, folder, chat.template)
    write_manifest(folder, base_storage=storage(run))
    emit(PhaseChanged("export", 0.5, "check"))
    dtype = compute_dtype(torch.device("cpu"))
    fresh = peers.load_adapter(run.base, folder, dtype, merged=False)
    checked = must_be_equal(compared(expected, fresh, tokenizer, chat, run.prompts))
    marks = measured(run, fresh, tokenizer, chat)
    write_card(folder / "README.md", run, f"peft-{storage(run)}", checked, marks)
    return checked, marks
