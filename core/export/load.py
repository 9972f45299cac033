"""Opening what was exported: a merged folder, or a PEFT adapter on its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from core import modelload, models
from core.assemble import compute_dtype
from core.data.chat import ChatFormat
from core.errors import ModelError
from core.export.peft import load_peft
from core.modelcheck import check_adapter_config, check_adapter_folder, read_json


def is_exported(folder: Path) -> bool:
    """Tell whether a folder holds an adapter or a whole model for others, not a run."""
    return (folder / "adapter_config.json").is_file() or (
        (folder / "model.safetensors").is_file() and not (folder / "plan.json").is_file()
    )


def load_exported(folder: Path, model: str = "") -> tuple[Any, Any, ChatFormat]:
    """Load an exported model or adapter, ours or another's, checked like any foreign file.

    Args:
        folder: the exported folder.
        model: id or path of the base model; empty: the one that the adapter names.

    Returns:
        The model, its tokenizer and its chat format.

    Raises:
        ModelError: if it is damaged, unsafe, or made for another base.
    """
    dtype = compute_dtype(torch.device("cpu"))
    if not (folder / "adapter_config.json").is_file():
        path = models.ensure_local(models.resolve(str(folder)))
        tokenizer = modelload.load_tokenizer(path)
        return modelload.load_dense(path, dtype), tokenizer, ChatFormat.of(tokenizer)
    base, template = _base(folder, model), folder / "chat_template.jinja"
    _must_fit(folder, base)
    tokenizer = modelload.load_tokenizer(base)
    text = template.read_text("utf-8") if template.is_file() else ""
    return load_peft(base, folder, dtype), tokenizer, ChatFormat.of(tokenizer, text)


def _base(folder: Path, model: str) -> Path:
    """The checked folder of the base that an adapter names: its own, or one from the list."""
    named = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path", ""))
    if named == "base" and (folder / "base").is_dir():
        check_adapter_folder(folder, ["base"])
        return models.ensure_local(models.resolve(str(folder / "base")))
    known = [info for info in models.list_models() if not info.problem]
    check_adapter_folder(folder, [model, *(i.id for i in known), *(i.title for i in known)])
    chosen = model or next(i.id for i in known if named in (i.id, i.title))
    return models.ensure_local(models.resolve(chosen))


def _must_fit(folder: Path, base: Path) -> None:
    """Refuse an adapter whose layers are not in the base, or have another shape there.

    Raises:
        ModelError: names the layer and the base that the adapter was made for.
    """
    from core.modelcheck import safetensors_header

    config = check_adapter_config(folder / "adapter_config.json", [_named(folder)])
    modules = dict(modelload.empty_model(base).named_modules())
    for name, entry in safetensors_header(folder / "adapter_model.safetensors").items():
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        module = modules.get(layer)
        fits = module is not None and modelload.is_linear(module)
        if fits and module is not None:
            out, wide = modelload.linear_shape(module)
            fits = _shape_fits(part, entry.shape, out, wide)
        if not fits:
            raise ModelError(
                f"The adapter does not fit this base model: it was made for "
                f"{json.dumps(config['base_model_name_or_path'], ensure_ascii=False)}.",
                where=layer[:80],
                action="Choose that base model.",
                code="adapter.base",
            )


def _shape_fits(part: str, shape: tuple[int, ...], out: int, wide: int) -> bool:
    """Whether ``A`` (r, wide), ``B`` or a magnitude (out, ...), or ``E`` (r, 1) fits a layer."""
    if part.startswith("A"):
        return shape[-1] == wide
    return part.startswith("E") or shape[0] == out


def _named(folder: Path) -> str:
    return str(read_json(folder / "adapter_config.json").get("base_model_name_or_path", ""))
