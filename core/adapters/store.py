"""A tuned model on disk, and back.

A run folder holds ``base/`` (stored codes of the layers below 8 bits; wider ones are made from the
base model again), ``start.safetensors`` (the triplets at step 0, so that what was learned can be
told from what cancels quantization) and ``adapter/`` (the triplets, masks folded in). Where
singular values train, these files hold changes of them and of row scales instead, and ``base/``
what tells their directions (:mod:`core.adapters.basis`).

Where bits changed while training, ``requantized/step-000040/`` holds the layers that did, written
once and never touched again. Checkpoints and the adapter name the steps that belong to them, so
that a run that goes back to an earlier checkpoint, or keeps an earlier best, has the codes of then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import modelload, models
from core.adapters import peers
from core.adapters.basis import BASIS, Bases, sha256_of_bases
from core.adapters.finite import check_finite
from core.adapters.start import adapted_linear, scheme_of
from core.assemble import LanguageModel, build, compute_dtype, put
from core.config import RunConfig
from core.data.chat import ChatFormat
from core.errors import ModelError
from core.layers.lora import AdapterLinear
from core.manifest import check_manifest, whole_folder, write_manifest
from core.plan.types import LinearPlan, Plan

BASE, START, ADAPTER, REQUANTIZED = "base", "start.safetensors", "adapter", "requantized"
# A student of distillation: the model that it begins as, where the run made that; and a tuned model
# of which all weights were trained, as a plain model folder.
STUDENT_START, WHOLE = "student-start", "model"


def base_name(run: Path, config: RunConfig) -> str:
    """Id or path of the model that a run trains: its base model, or what its student begins as."""
    if config.method != "distill" or config.distill.student == "quantized":
        return config.model
    made = run / STUDENT_START
    return str(made) if config.distill.student == "layers" else config.distill.student


def base_folder(run: Path, config: RunConfig) -> Path:
    """The checked folder of the model that a run trains.

    Raises:
        ModelError: if it is not there, or damaged.
    """
    return models.ensure_local(models.resolve(base_name(run, config)))


def whole_model(run: Path) -> Path | None:
    """The folder of a run's wholly trained model; None where an adapter was trained."""
    return run / WHOLE if (run / WHOLE / "model.safetensors").is_file() else None


def save_base(out: Path, layers: Mapping[str, AdapterLinear], bases: Bases | None = None) -> None:
    """Write the stored codes and the adapters at step 0 of a run, and what tells their bases."""
    with whole_folder(out / BASE) as folder:
        codes = {
            f"{name}.{key}": buffer.cpu()
            for name, layer in layers.items()
            if layer.quantized.scheme.bits < 8
            for key, buffer in layer.quantized.named_buffers()
        }
        save_file(codes, folder / "codes.safetensors")
        save_file(triplets(layers), folder / START)
        if bases is not None:
            bases.save(folder)
        write_manifest(folder)


def triplets(layers: Mapping[str, AdapterLinear]) -> dict[str, Tensor]:
    """U, s, V and m (or what else trains) of all layers by name, as they are stored."""
    return {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, layer in layers.items()
        for key, tensor in layer.state().items()
    }


def set_triplets(layers: Mapping[str, AdapterLinear], tensors: Mapping[str, Tensor]) -> None:
    """Give the layers what :func:`triplets` took."""
    for name, layer in layers.items():
        layer.set_state({key: tensors[f"{name}.{key}"] for key in layer.STATE})


def folded(layers: Mapping[str, AdapterLinear]) -> dict[str, Tensor]:
    """U, s * m and V of the triplets that take part (or what else trains): as it is kept."""
    return {
        f"{name}.{key}": tensor.cpu().contiguous()
        for name, layer in layers.items()
        for key, tensor in layer.folded().items()
    }


def save_adapter(out: Path, layers: Mapping[str, AdapterLinear], facts: dict[str, Any]) -> str:
    """Write ``adapter/`` of a run and return the SHA-256 of its triplets.

    Raises:
        ModelError: if a number in it is not finite.
    """
    tensors = folded(layers)
    check_finite(tensors)
    digest = sha256_of_tensors(tensors)
    with whole_folder(out / ADAPTER) as folder:
        save_file(tensors, folder / "adapter.safetensors")
        ranks = {name: layer.active_rank for name, layer in layers.items()}
        tree = {**facts, "format": "edu-adaq-adapter", "ranks": ranks, "sha256": digest}
        (folder / "adapter.json").write_text(json.dumps(tree, indent=2), "utf-8")
        write_manifest(folder)
    return digest


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, independent of any file format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(t.shape)} {t.dtype} ".encode())
        digest.update(t.view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()


def save_requantized(run: Path, step: int, bits: Mapping[str, int], files: Path) -> None:
    """Keep the layers whose bits changed after ``step``.

    Args:
        run: the run's folder.
        step: optimizer steps done.
        bits: new bits by layer.
        files: a folder on the same disk with ``NAME.safetensors`` of each layer: ``codes``,
            ``scale`` and ``zero``, unless they are made from the base model again; and ``U``,
            ``V``, by whose product the triplets moved without anything being learned. The files
            move away.
    """
    with whole_folder(_requantized(run, step)) as folder:
        for name in bits:
            (files / f"{name}.safetensors").replace(folder / f"{name}.safetensors")
        (folder / "bits.json").write_text(json.dumps(dict(bits), indent=1), "utf-8")
        write_manifest(folder, step=step)


def _requantized(run: Path, step: int) -> Path:
    return run / REQUANTIZED / f"step-{step:06d}"


def _changes(run: Path, steps: Sequence[int]) -> Iterator[tuple[str, int, Path]]:
    """Layer, new bits and file of every change, in the order in which they happened.

    Raises:
        ModelError: if one is missing or damaged.
    """
    for step in steps:
        folder = _requantized(run, step)
        if not folder.is_dir():
            raise ModelError(
                "Layers that changed while training are missing.",
                where=f"{REQUANTIZED}/{folder.name}",
                action="Copy the whole folder of the run again, or train anew.",
                code="adapter.requantized",
            )
        check_manifest(folder, contents=True)
        for name, bits in json.loads((folder / "bits.json").read_text("utf-8")).items():
            yield name, int(bits), folder / f"{name}.safetensors"


def load_plan(run: Path, requantized: Sequence[int] | None = None) -> Plan:
    """The run's plan with the bits that its layers have now.

    Args:
        run: the run's folder.
        requantized: steps after which bits changed; None: those of the finished adapter.

    Raises:
        ModelError: if what changed is missing or damaged.
    """
    steps = _final_changes(run) if requantized is None else requantized
    return _changed_plan(run, {name: bits for name, bits, _ in _changes(run, steps)})


def _changed_plan(run: Path, new: Mapping[str, int]) -> Plan:
    """The run's plan with the ``new`` bits by layer."""
    plan = Plan.from_json(json.loads((run / "plan.json").read_text("utf-8")))
    if not new:
        return plan
    group = RunConfig.load(run / "config.json").quant.group
    linears = [_with_bits(plan, x, new.get(x.name, x.bits), group) for x in plan.linears]
    sizes = [x.out_features * x.in_features for x in linears]
    mean = sum(x.bits * n for x, n in zip(linears, sizes, strict=True)) / sum(sizes)
    return replace(plan, linears=linears, average_bits=round(mean, 3))


def _with_bits(plan: Plan, linear: LinearPlan, bits: int, group: int) -> LinearPlan:
    changed = replace(linear, bits=bits)
    before, after = (
        scheme_of(plan, x, group).stored_bytes(x.out_features, x.in_features)
        for x in (linear, changed)
    )
    return replace(changed, bytes=linear.bytes + after - before)


def _final_changes(run: Path) -> list[int]:
    """Steps after which bits changed on the way to the finished adapter."""
    facts = json.loads((run / ADAPTER / "adapter.json").read_text("utf-8"))
    return [int(step) for step in facts.get("requantized", [])]


def base_candidate(run: Path, plan: Plan) -> Callable[[int], dict[str, Tensor]]:
    """Codes of the run's stored base by index of the linear layer, read one layer at a time."""
    file = safe_open(run / BASE / "codes.safetensors", "pt")
    known = set(file.keys())

    def candidate(index: int) -> dict[str, Tensor]:
        name = plan.linears[index].name
        return {
            key: file.get_tensor(f"{name}.{key}")
            for key in ("codes", "scale", "zero")
            if f"{name}.{key}" in known
        }

    return candidate


def load_stored(
    run: Path, device: torch.device | None = None, requantized: Sequence[int] = ()
) -> tuple[LanguageModel, Path]:
    """The run's quantized base with empty adapters, and the folder of its base model.

    Args:
        run: the run's folder.
        device: where the model goes; default CPU.
        requantized: steps after which bits changed, of what is loaded; none: as planned.

    Raises:
        ModelError: if the run or its base model is not there, or damaged.
    """
    if not (run / BASE).is_dir() or not (run / "plan.json").is_file():
        raise ModelError(
            "This folder holds no tuned model.",
            where=run.name,
            action="Choose the folder of a finished run.",
            code="adapter.missing",
        )
    check_manifest(run / BASE, contents=True)
    changes = list(_changes(run, requantized))
    plan = _changed_plan(run, {name: bits for name, bits, _ in changes})
    config = RunConfig.load(run / "config.json")
    path = base_folder(run, config)
    candidate = base_candidate(run, plan)
    bases = bases_of(config, plan)
    if bases is not None:
        bases.load(run / BASE)
    changed = {name: file for name, _, file in changes}
    index = {p.name: k for k, p in enumerate(plan.linears)}

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> AdapterLinear:
        linear = plan.linears[index[name]]
        scheme = scheme_of(plan, linear, config.quant.group)
        found = load_file(changed[name]) if name in changed else candidate(index[name])
        return adapted_linear(name, found, scheme, read, bias, transposed, bases)

    return build(path, store, embedding_bits=plan.embedding_bits, device=device), path


def bases_of(config: RunConfig, plan: Plan) -> Bases | None:
    """What finds the singular directions of a run whose singular values train, else None."""
    if config.adapter.parametrisation != "svd":
        return None
    ranks = {linear.name: linear.rank for linear in plan.linears}
    return Bases(ranks, additive=config.adapter.diagonal == "additive")


def basis_facts(run: Path) -> dict[str, str]:
    """What ties the adapter of a run to its base weights, where singular values trained."""
    if not (run / BASE / BASIS).is_file():
        return {}
    return {"base_sha256": sha256_of_bases(run / BASE)}


def load_run(run: Path, device: torch.device | None = None) -> tuple[LanguageModel, Path]:
    """The tuned model of a run, quantized base and adapter apart; and its base model's folder.

    Raises:
        ModelError: if the adapter is missing or damaged.
    """
    if not (run / ADAPTER).is_dir():
        raise ModelError(
            "This run has no finished adapter yet.",
            where=run.name,
            action="Let the training finish, or resume it.",
            code="adapter.missing",
        )
    check_manifest(run / ADAPTER, contents=True)
    model, path = load_stored(run, device, _final_changes(run))
    tensors = load_file(run / ADAPTER / "adapter.safetensors")
    for name, layer in adapted(model).items():
        layer.set_state({key: tensors[f"{name}.{key}"] for key in layer.TRAINED})
    return model, path


def adapted(model: LanguageModel) -> dict[str, AdapterLinear]:
    """The adapted layers of a model by name."""
    return {n: m for n, m in model.model.named_modules() if isinstance(m, AdapterLinear)}


def start_triplets(run: Path) -> dict[str, Tensor]:
    """U, s, V, m of every layer at step 0."""
    return load_file(run / BASE / START)


def unlearned_triplets(run: Path) -> dict[str, Tensor]:
    """U, s, V, m of every layer that a finished run would have, had it learned nothing.

    The triplets at step 0 and, where the bits of a layer changed, what its triplets were moved by
    then: what is left of the adapter without them was learned.
    """
    found = start_triplets(run)
    for name, _, file in _changes(run, _final_changes(run)):
        moved = load_file(file)
        ones = torch.ones(moved["U"].shape[1])
        for key, value, dim in (("U", moved["U"], 1), ("s", ones, 0), ("V", moved["V"], 0)):
            found[f"{name}.{key}"] = torch.cat([found[f"{name}.{key}"], value], dim)
        found[f"{name}.m"] = torch.cat([found[f"{name}.m"], ones])
    return found


def load_adapted(path: Path, *, merged: bool = True) -> tuple[Any, Any, ChatFormat]:
    """The tuned model of a run folder as a ``transformers`` model, its tokenizer and chat format.

    Args:
        path: a run folder.
        merged: with dense effective weights (fast to answer), or as stored (small).

    Raises:
        ModelError: if it cannot be loaded.
    """
    whole = whole_model(path)
    if whole is not None:
        check_manifest(whole, contents=True)
        tokenizer = modelload.load_tokenizer(whole)
        dtype = compute_dtype(torch.device("cpu"))
        return modelload.load_dense(whole, dtype), tokenizer, ChatFormat.of(tokenizer)
    if peers.is_adapter(path / ADAPTER):
        return _load_peft(path, merged=merged)
    model, base = load_run(path)
    if merged:
        make_dense(model)
    tokenizer = modelload.load_tokenizer(base)
    return model.model, tokenizer, ChatFormat.of(tokenizer)


def _load_peft(run: Path, *, merged: bool) -> tuple[Any, Any, ChatFormat]:
    """The tuned model of a run whose adapter is PEFT's own, as :func:`load_adapted` gives it."""
    check_manifest(run / ADAPTER, contents=True)
    base = base_folder(run, RunConfig.load(run / "config.json"))
    dtype = compute_dtype(torch.device("cpu"))
    model = peers.load_adapter(base, run / ADAPTER, dtype, merged=merged)
    tokenizer = modelload.load_tokenizer(base)
    return model, tokenizer, ChatFormat.of(tokenizer)


def make_dense(model: LanguageModel) -> None:
    """Replace adapted layers by plain linear layers with the effective weight."""
    model.unfuse()
    for name, layer in adapted(model).items():
        dense = torch.nn.Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        dense.weight = torch.nn.Parameter(
            layer.effective_weight().to(model.dtype), requires_grad=False
        )
        if layer.bias is not None:
            dense.bias = torch.nn.Parameter(layer.bias.to(model.dtype), requires_grad=False)
        put(model.model, name, dense)
    embedding = model.model.get_output_embeddings()
    if hasattr(embedding, "table"):
        weight = embedding.table.dequantize(model.dtype)
        head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = torch.nn.Parameter(weight, requires_grad=False)
        if embedding.bias is not None:
            head.bias = torch.nn.Parameter(embedding.bias, requires_grad=False)
        head_name = next(n for n, m in model.model.named_modules() if m is embedding)
        put(model.model, head_name, head)
