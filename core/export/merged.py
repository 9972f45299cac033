"""The tuned model as one plain folder that ``transformers`` loads without us.

The weights are ``Q + U diag(s*m) V``, dequantized. They are written in the dtype in which the
studio computes (float32 on most CPUs): rounding the sum to 16 bits changes answers here and there,
and an export must answer as the studio does.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import torch

from core import modelload
from core.assemble import compute_dtype
from core.data.chat import ChatFormat
from core.events import Emit, PhaseChanged
from core.export.card import write_card
from core.export.check import compared, equal_answers, must_be_equal, reference_answers
from core.export.run import FinishedRun, load_tuned
from core.export.tensors import DenseReader, write_model
from core.manifest import MANIFEST, whole_folder, write_manifest


def export_merged(run: FinishedRun, out: Path, emit: Emit) -> dict[str, Any]:
    """Write the merged model, load it back and compare its answers with the studio's.

    Returns:
        ``files[]``, ``checked{prompts, equal}`` and ``marks`` (the run's own: answers are equal).

    Raises:
        ModelError: if it answers otherwise; ``out`` is then as it was before.
        OSError: if the disk is full.
    """
    if run.whole is not None:
        return _copied(run, run.whole, out, emit)
    emit(PhaseChanged("export", 0.0, "answers"))
    tuned = load_tuned(run)
    expected, dtype, template = tuned.answers, tuned.dtype, tuned.chat.template
    with whole_folder(out) as folder:
        reader = DenseReader(tuned.model, run.base, adapter=True)
        write_model(
            folder,
            reader,
            run.base,
            template,
            dtype,
            lambda share: emit(PhaseChanged("export", 0.2 + 0.4 * share, "weights")),
        )
        del tuned, reader
        gc.collect()  # the fresh copy is loaded beside nothing else
        emit(PhaseChanged("export", 0.6, "check"))
        model, tokenizer = modelload.load_dense(folder, dtype), modelload.load_tokenizer(folder)
        chat = ChatFormat.of(tokenizer)
        checked = must_be_equal(compared(expected, model, tokenizer, chat, run.prompts))
        marks = {k: v for k, v in run.marks.get("tuned", {}).items() if not isinstance(v, list)}
        write_card(folder / "README.md", run, "merged", checked, marks)
        write_manifest(folder, kind="merged", checked=checked.to_json())
    emit(PhaseChanged("export", 1.0, "done"))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"files": files, "checked": checked.to_json(), "marks": marks}


def _copied(run: FinishedRun, model_folder: Path, out: Path, emit: Emit) -> dict[str, Any]:
    """Copy a wholly trained model, load the copy and compare its answers with the studio's."""
    emit(PhaseChanged("export", 0.0, "weights"))
    dtype = compute_dtype(torch.device("cpu"))
    with whole_folder(out) as folder:
        for path in model_folder.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, folder / path.name)
        expected, answers = (_answers(place, run, dtype, emit) for place in (model_folder, folder))
        checked = must_be_equal(equal_answers(expected, answers))
        marks = {k: v for k, v in run.marks.get("tuned", {}).items() if not isinstance(v, list)}
        form = "whole" if run.config.method == "distill" else "full"
        write_card(folder / "README.md", run, form, checked, marks)
        write_manifest(folder, kind="merged", checked=checked.to_json())
    emit(PhaseChanged("export", 1.0, "done"))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return {"files": files, "checked": checked.to_json(), "marks": marks}


def _answers(folder: Path, run: FinishedRun, dtype: torch.dtype, emit: Emit) -> list[str]:
    emit(PhaseChanged("export", 0.5, "check"))
    model, tokenizer = modelload.load_dense(folder, dtype), modelload.load_tokenizer(folder)
    return reference_answers(model, tokenizer, ChatFormat.of(tokenizer), run.prompts)
