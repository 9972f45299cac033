"""Where a student begins: some layers of its teacher, a smaller model, or the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import modelload, models
from core.adapters import store
from core.config import RunConfig
from core.data.types import Example
from core.errors import ConfigError, ModelError
from core.export.tensors import copy_tokenizer, write_safetensors
from core.manifest import whole_folder, write_manifest
from core.train.optimizers import must_be_plain

LAYERS, QUANTIZED = "layers", "quantized"
STORED_BITS = 4  # of a student whose weights are stored: without a budget nothing else decides
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def is_whole(config: RunConfig) -> bool:
    """Whether the student is trained with all of its weights (else by an adapter)."""
    if config.distill.training == "auto":
        return config.distill.student != QUANTIZED
    return config.distill.training == "full"


def completed(config: RunConfig) -> RunConfig:
    """The settings of a distillation, with the bits of a student whose weights are stored.

    Raises:
        ConfigError: if they cannot be used.
    """
    _check(config)
    if is_whole(config) or config.quant.bits:
        return config
    return replace(config, quant=replace(config.quant, bits=STORED_BITS))


def _check(config: RunConfig) -> None:
    """Refuse what distillation cannot do.

    Raises:
        ConfigError: says what to choose instead.
    """
    d = config.distill
    if is_whole(config):
        must_be_plain(config.train, "A student that is trained in full")
    if config.budget_bytes:
        raise ConfigError(
            "Distillation holds a teacher beside its student and keeps to no memory budget.",
            where="budget",
            action="Leave the budget out; --bits chooses the size of a quantized student.",
            code="distill.budget",
        )
    if is_whole(config) and d.student == QUANTIZED:
        raise ConfigError(
            "A quantized student keeps its weights frozen and is trained by an adapter.",
            where="distill.training",
            action="Choose the training auto or adapter, or another student.",
            code="distill.quantized_full",
        )
    if not (d.answer_weight or d.output_weight or d.feature_weight or d.attention_weight):
        raise ConfigError(
            "All weights of the distillation's terms are 0: there is nothing to learn from.",
            where="distill",
            action="Give at least one term a weight above 0.",
            code="distill.no_terms",
        )


def prepare(config: RunConfig, out: Path) -> Path:
    """The folder of the model that the student of the run ``out`` begins as.

    Raises:
        ModelError: if teacher or student cannot be used.
    """
    if config.distill.student == LAYERS:
        target = out / store.STUDENT_START
        if not target.is_dir():
            teacher = models.ensure_local(models.resolve(config.model))
            every_kth(teacher, config.distill.every, target)
    return store.base_folder(out, config)


def kept_layers(layers: int, every: int) -> list[int]:
    """Indices of the layers that stay: every k-th, counted back from the last, and the first.

    The first and the last layer stay because they matter most: a model without either is worse off
    than without several others.
    """
    return sorted({0, *range(layers - 1, -1, -every)})


def every_kth(teacher: Path, every: int, target: Path) -> list[int]:
    """Write a model of every k-th layer of ``teacher``, with its tables, norms and tokenizer.

    Args:
        teacher: a checked model folder.
        every: k, see :func:`kept_layers`.
        target: the folder to make, whole or not at all.

    Returns:
        Indices of the teacher's layers that stay.

    Raises:
        ConfigError: if nothing would be left out.
        ModelError: if the teacher cannot be used.
    """
    empty = modelload.empty_model(teacher)
    prefix, blocks = modelload.decoder_blocks(empty)
    kept = kept_layers(len(blocks), every)
    if len(kept) == len(blocks):
        raise ConfigError(
            "The student would keep every layer of its teacher.",
            where="distill.every",
            action="Choose 2 or more, and a teacher of at least two layers.",
            code="distill.every",
        )
    weights = modelload.Weights(teacher, empty)
    names = dict(_renamed(weights, prefix, kept))
    with whole_folder(target) as folder:
        _write_config(teacher, folder, kept)
        template = teacher / "chat_template.jinja"
        copy_tokenizer(teacher, folder, _template_of(teacher))
        if not template.is_file() and not _template_of(teacher):
            (folder / "chat_template.jinja").unlink()
        shapes = {name: weights.shape(source) for name, source in names.items()}
        write_safetensors(
            folder / "model.safetensors", shapes, stored_dtype(teacher), _reader(weights, names)
        )
        write_manifest(folder, source="local", note=f"Layers {kept} of {teacher.name}.")
    return kept


def _reader(weights: modelload.Weights, names: dict[str, str]) -> Any:
    def read(name: str) -> Tensor:
        return weights[names[name]]

    return read


def _renamed(
    weights: modelload.Weights, prefix: str, kept: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Yield (name in the student, name in the teacher), of tied ones only the first."""
    place = {layer: k for k, layer in enumerate(kept)}
    stored: set[str] = set()
    for name in weights:
        if weights.stored_name(name) in stored:
            continue
        stored.add(weights.stored_name(name))
        if not name.startswith(f"{prefix}."):
            yield name, name
            continue
        layer, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        if int(layer) in place:
            yield f"{prefix}.{place[int(layer)]}.{rest}", name


def _write_config(teacher: Path, folder: Path, kept: Sequence[int]) -> None:
    tree = json.loads((teacher / "config.json").read_text("utf-8"))
    for key in ("_name_or_path", "_model_name_or_path"):
        tree.pop(key, None)
    layers_key = "n_layer" if "n_layer" in tree else "num_hidden_layers"
    whole = int(tree[layers_key])
    tree[layers_key] = len(kept)
    for key in ("layer_types", "no_rope_layers"):  # one entry a layer
        if isinstance(tree.get(key), list) and len(tree[key]) == whole:
            tree[key] = [tree[key][layer] for layer in kept]
    if "max_window_layers" in tree:
        tree["max_window_layers"] = min(int(tree["max_window_layers"]), len(kept))
    (folder / "config.json").write_text(json.dumps(tree, indent=2), "utf-8")


def _template_of(folder: Path) -> str:
    """The chat template of a model folder as text; empty if it has none."""
    own: Any = modelload.load_tokenizer(folder).chat_template
    own = own.get("default", "") if isinstance(own, dict) else own
    return str(own or "")


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype in which a model folder stores most of its numbers."""
    from core.modelcheck import check_weights

    sizes: dict[str, int] = {}
    for entry in check_weights(folder).values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.end - entry.start
    return _DTYPES.get(max(sizes, key=lambda name: sizes[name]), torch.bfloat16)


def save_student(model: Any, start: Path, target: Path, facts: dict[str, Any]) -> None:
    """Write a wholly trained student as a plain model folder, in the dtype it began in.

    Args:
        model: the trained ``transformers`` model.
        start: the folder that it began as; configuration and tokenizer are taken over.
        target: the folder to make.
        facts: kept in its manifest (title, licence, note ...).

    Raises:
        ModelError: if a weight is not finite.
        OSError: if the disk is full.
    """
    parameters = dict(model.named_parameters())  # tied ones once
    with whole_folder(target) as folder:
        for path in start.iterdir():
            known = path.suffix in (".json", ".jinja", ".txt") or path.name.startswith("LICENSE")
            if path.is_file() and known and path.name != "model.safetensors.index.json":
                shutil.copyfile(path, folder / path.name)
        (folder / "MANIFEST.json").unlink(missing_ok=True)
        write_safetensors(
            folder / "model.safetensors",
            {name: tuple(p.shape) for name, p in parameters.items()},
            stored_dtype(start),
            lambda name: parameters[name],
        )
        write_manifest(folder, **facts)


def same_tokenizer(teacher: Path, student: Path, examples: Sequence[Example]) -> None:
    """Refuse a student whose tokens are not the teacher's.

    Args:
        teacher: its folder.
        student: the folder of the student.
        examples: texts that both must cut alike.

    Raises:
        ModelError: says so.
    """
    if teacher == student:
        return
    theirs, mine = modelload.load_tokenizer(teacher), modelload.load_tokenizer(student)
    texts = [turn.content for example in examples for turn in example.turns]
    same = theirs.get_vocab() == mine.get_vocab() and all(
        theirs(text, add_special_tokens=False)["input_ids"]
        == mine(text, add_special_tokens=False)["input_ids"]
        for text in texts
    )
    if not same:
        raise ModelError(
            "Student and teacher cut text into different tokens, so that what the teacher says "
            "about each next token means nothing to the student.",
            where=student.name,
            action="Choose a smaller model of the teacher's own family, or take layers of the "
            "teacher itself.",
            code="distill.tokenizer",
        )
