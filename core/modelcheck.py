"""Is this model folder whole and harmless? Asked before any library opens it. No torch in here.

Files of models come from strangers. Only JSON, ``safetensors`` and the GGUF header are read here,
with every length compared with the size of the file before it is believed. Nothing is unpickled,
no key that makes a library run code of the folder is let through, and a chat template that is not
known is rendered once in a sandbox in a child process with a time limit.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import ModelError
from core.home import CHECKOUT, cache_folder

# Families tried by the test-suite with transformers' own classes.
FAMILIES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "granite": "GraniteForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
# These read a text and write none: they serve where texts are compared (core.pairs).
ENCODERS = {
    "bert": "BertModel",
    "distilbert": "DistilBertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
# Long enough for a child process on a machine that is busy training; what loops is ended by the
# processor time that the child allows itself.
TEMPLATE_SECONDS = 60.0
STARTER_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KNOWN_TEMPLATES = {hashlib.sha256(STARTER_TEMPLATE.encode()).hexdigest(): "SmolLM2 Instruct"}

_REFUSED_KEYS = {
    "auto_map",
    "trust_remote_code",
    "custom_pipelines",
    "custom_generate",
    "code_revision",
    "attn_implementation",
    "experts_implementation",
    "parent_library",
    "quantization_config",
}
_HARMLESS_UNDERSCORE = {"_name_or_path", "_model_name_or_path", "_from_model_config"}
_HARMLESS_UNDERSCORE |= {"_sliding_window_pattern", "_commit_hash"}
_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_LARGEST_JSON = 64 * 2**20
_LARGEST_HEADER = 100 * 10**6
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
_DTYPE_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}


def damaged(name: str, why: str) -> ModelError:
    """Return the error for a file that is not what it should be."""
    return ModelError(
        f"The file is damaged: {why}.",
        where=name,
        action="Copy or download it again.",
        code="model.damaged",
    )


def unsafe(name: str, why: str) -> ModelError:
    """Return the error for a file that could make the program do something unasked."""
    return ModelError(
        f"This model is not safe to open: {why}.",
        where=name,
        action="Choose a model that works without code of its own.",
        code="model.unsafe",
    )


# --- JSON ---------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: if it is missing, too large or no JSON object.
    """
    if not path.is_file():
        raise ModelError(
            f"{path.name} is missing.",
            where=path.parent.name,
            action="Choose a complete model folder (config.json, tokenizer.json, *.safetensors).",
            code="model.missing",
        )
    if path.stat().st_size > _LARGEST_JSON:
        raise damaged(path.name, "it is far larger than such a file is")
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path.name, "it is not readable JSON") from error
    if not isinstance(tree, dict):
        raise damaged(path.name, "it holds no JSON object")
    return tree


def refused_keys(tree: Any) -> Iterator[str]:
    """Yield keys, at any depth, that could make a library load code or foreign kernels.

    Private keys (leading underscore) set internals of the libraries from a file; only those known
    to be plain notes pass.
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            private = key.startswith("_") and key not in _HARMLESS_UNDERSCORE
            if key in _REFUSED_KEYS or private:
                yield key
            yield from refused_keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from refused_keys(value)


def check_json(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files and refuse keys that load code.

    Raises:
        ModelError: names the key.
    """
    tree = read_json(path)
    key = next(refused_keys(tree), "")
    if key == "quantization_config":
        raise ModelError(
            "This model is already quantized.",
            where=path.name,
            action="Choose its original weights (bfloat16 or float32); the studio quantizes them.",
            code="model.quantized",
        )
    if key:
        raise unsafe(path.name, f"{path.name} has the key {key!r}, which loads foreign code")
    return tree


# --- safetensors --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorEntry:
    """Place of one tensor in a safetensors file; ``start`` and ``end`` are offsets in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors that a safetensors file lists, none of them read.

    Raises:
        ModelError: if lengths, shapes and offsets do not agree with each other and the file.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        raw = handle.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise damaged(path.name, "the length of its header is impossible")
        try:
            listed = json.loads(handle.read(length))
        except (ValueError, RecursionError) as error:
            raise damaged(path.name, "its header is not readable") from error
    if not isinstance(listed, dict):
        raise damaged(path.name, "its header is not readable")
    base, entries = 8 + length, {}
    for name, facts in listed.items():
        if name != "__metadata__":
            entries[name] = _tensor_entry(path.name, name, facts, base)
    end = base
    for entry in sorted(entries.values(), key=lambda e: e.start):
        if entry.start != end:
            raise damaged(path.name, "its tensors overlap or leave holes")
        end = entry.end
    if end != size:
        raise damaged(path.name, f"it has {size} bytes and should have {end}")
    return entries


def _tensor_entry(file: str, name: str, facts: Any, base: int) -> TensorEntry:
    try:
        dtype, shape, (start, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        numbers = [*shape, start, end]
        good = all(type(n) is int and 0 <= n < 2**62 for n in numbers)
        if good and math.prod(shape) * _DTYPE_BYTES[dtype] == end - start:
            return TensorEntry(dtype, tuple(shape), base + start, base + end)
    except (KeyError, TypeError, ValueError):
        pass
    raise damaged(file, f"tensor {name[:80]!r} has an impossible shape or place")


def first_not_finite(path: Path) -> str:
    """Return the name of the first tensor with a NaN or infinity, empty if there is none.

    Reads the file in pieces of a few megabytes; numbers are judged by their exponent bits, so
    bfloat16 needs no library that knows it.
    """
    import numpy as np

    masks = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
    masks["F64"] = ("<u8", 0x7FF0000000000000)
    with path.open("rb") as handle:
        for name, entry in safetensors_header(path).items():
            if entry.dtype not in masks:
                continue
            kind, mask = masks[entry.dtype]
            handle.seek(entry.start)
            left = entry.end - entry.start
            while left:
                piece = np.frombuffer(handle.read(min(left, 1 << 22)), dtype=kind)
                left -= piece.nbytes
                if ((piece & mask) == mask).any():
                    return name
    return ""


def is_shape(folder: Path) -> bool:
    """Tell whether a folder has a configuration and no weights in any format."""
    endings = (".safetensors", ".gguf", *PICKLES)
    return (folder / "config.json").is_file() and not any(
        p.suffix.lower() in endings for p in folder.iterdir()
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up a model, in order.

    Raises:
        ModelError: if there is none, a shard is missing, or weights come only as pickles.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted({str(v) for v in read_json(index).get("weight_map", {}).values()})
        if not names or any(Path(name).name != name for name in names):
            raise damaged(index.name, "its list of files is empty or leaves the folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{missing[0]} is missing ({len(missing)} of {len(names)} weight files).",
                where=folder.name,
                action="Finish the download or copy the folder again.",
                code="model.missing",
            )
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    refuse_pickles(folder)
    raise ModelError(
        "The folder holds no weights (model.safetensors).",
        where=folder.name,
        action="Choose a complete model folder.",
        code="model.missing",
    )


def check_weights(folder: Path) -> dict[str, TensorEntry]:
    """Check the headers of all weight files of a folder against the files and the index.

    Returns:
        All tensors by name.

    Raises:
        ModelError: names the file that is missing or damaged.
    """
    entries: dict[str, TensorEntry] = {}
    for path in weight_files(folder):
        entries |= safetensors_header(path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        lost = read_json(index)["weight_map"].keys() - entries.keys()
        if lost:
            raise damaged(index.name, f"tensor {sorted(lost)[0]!r} is in none of the weight files")
    return entries


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose contents come as pickles; they can run code and are never opened.

    Raises:
        ModelError: names the first such file.
    """
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if names:
        raise ModelError(
            f"{names[0]} is not imported: such files can run code, only .safetensors is opened.",
            where=folder.name,
            action="Ask for the same in safetensors format.",
            code="model.pickle",
        )


# --- adapters from elsewhere --------------------------------------------------------------------

_ADAPTER_KEYS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "r",
    "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "peft_version", "lora_bias",
    "alora_invocation_tokens", "arrow_config", "corda_config", "ensure_weight_tying", "eva_config",
    "layer_replication", "loftq_config", "megatron_config", "megatron_core", "qalora_group_size",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "lora_ga_config",
    "monteclora_config", "kappa_tune_config", "velora_config",
    "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
    "total_step",
}  # fmt: skip


def check_adapter_config(path: Path, bases: list[str]) -> dict[str, Any]:
    """Read a foreign ``adapter_config.json``: known keys only, base from our own list.

    Args:
        path: the file.
        bases: ids and paths of models that are listed.

    Raises:
        ModelError: names the key, or the base that is not listed.
    """
    tree = read_json(path)
    given = {key: value for key, value in tree.items() if value is not None}
    for key in [*refused_keys(given), *sorted(given.keys() - _ADAPTER_KEYS)]:
        raise unsafe(path.name, f"the adapter has the key {key!r}, which is not a known one")
    base = str(tree.get("base_model_name_or_path", ""))
    if base not in bases:
        raise ModelError(
            f"The adapter was made for the base model {base[:80]!r}, which is not in the list.",
            where=path.name,
            action="Add that base model first, then open the adapter again.",
            code="adapter.base",
        )
    return tree


def check_adapter_folder(folder: Path, bases: list[str]) -> dict[str, Any]:
    """Check a PEFT adapter folder and return its configuration.

    Raises:
        ModelError: for pickles, unknown keys, a foreign base, damaged or non-finite weights.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        refuse_pickles(folder)
        raise damaged(folder.name, "adapter_model.safetensors is missing")
    config = check_adapter_config(folder / "adapter_config.json", bases)
    check_finite([weights])
    return config


def check_finite(paths: list[Path]) -> None:
    """Refuse weights with numbers that are none.

    Raises:
        ModelError: names the tensor.
    """
    for path in paths:
        if name := first_not_finite(path):
            raise ModelError(
                f"Tensor {name!r} holds NaN or infinite numbers.",
                where=path.name,
                action="Choose an undamaged copy of the model.",
                code="model.nan",
            )


# --- chat templates -----------------------------------------------------------------------------


def template_hash(template: str) -> str:
    """Return the SHA-256 of a template's text."""
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()


def templates_of(folder: Path) -> list[str]:
    """Return all chat templates that a folder carries, the one that counts first."""
    found = []
    files = [folder / "chat_template.jinja"]
    files += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    found += [path.read_text("utf-8") for path in files if path.is_file()]
    config = folder / "tokenizer_config.json"
    inline = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(inline, str):
        found.append(inline)
    elif isinstance(inline, list):
        found += [str(t.get("template", "")) for t in inline if isinstance(t, dict)]
    return found


def check_template(template: str, where: str) -> None:
    """Let a template pass if it is known, or renders a short chat in the sandboxed child.

    Raises:
        ModelError: if it tries to leave the sandbox, fails, or does not end in time.
    """
    digest = template_hash(template)
    passed = cache_folder() / "templates"
    if digest in KNOWN_TEMPLATES or (passed / digest).exists():
        return
    command = [sys.executable, "-m", "core.template_probe"]
    try:
        done = subprocess.run(
            command,
            input=template.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=TEMPLATE_SECONDS,
            cwd=CHECKOUT,
            check=False,
        )
        reason = done.stderr.decode("utf-8", "replace")[-200:]
        if done.returncode < 0:  # a signal: the limit of processor time
            reason = "it does not end"
    except subprocess.TimeoutExpired:
        reason = "it does not end"
        done = None
    if done is None or done.returncode != 0:
        raise ModelError(
            f"The model's chat template is refused: {reason.strip() or 'it failed'}.",
            where=where,
            action="Choose a model with an ordinary chat template.",
            code="model.template",
        )
    passed.mkdir(exist_ok=True)
    (passed / digest).touch()


# --- GGUF ---------------------------------------------------------------------------------------

_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q"}
_GGUF_SCALARS |= {11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
# ggml type -> (weights of a block, bytes of a block)
_GGML_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24)}
_GGML_BLOCKS |= {8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176)}
_GGML_BLOCKS |= {14: (256, 210), 30: (1, 2)}


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        fields: scalars and strings; an array is represented by its length.
        parameters: number of weights.
        types: ggml type numbers of the tensors.
    """

    fields: dict[str, Any]
    parameters: int
    types: frozenset[int] = field(default_factory=frozenset)


class _Cursor:
    """Reads forward in a file and never more than it holds."""

    def __init__(self, handle: BinaryIO, name: str, size: int) -> None:
        self.handle, self.name, self.left, self.size = handle, name, size, size

    def take(self, count: int) -> bytes:
        self.must_hold(count)
        self.left -= count
        return self.handle.read(count)

    def must_hold(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise damaged(self.name, "it claims to hold more than its size")

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")


def gguf_header(path: Path) -> GgufHeader:
    """Read a GGUF header: every count and length is checked against the size of the file.

    Raises:
        ModelError: if the file is damaged or of an unknown kind.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        cursor = _Cursor(handle, path.name, size)
        if cursor.take(min(4, size)) != b"GGUF" or cursor.number("I") not in (2, 3):
            raise damaged(path.name, "it is no GGUF file of version 2 or 3")
        tensors, pairs = cursor.number("Q"), cursor.number("Q")
        cursor.must_hold(tensors * 24 + pairs * 13)  # the least that such entries take
        fields = {}
        for _ in range(pairs):
            key = cursor.text()
            fields[key] = _gguf_value(cursor, cursor.number("I"))
        listed = [_gguf_tensor(cursor) for _ in range(tensors)]
        start = size - cursor.left
    alignment = fields.get("general.alignment", 32)
    if not (isinstance(alignment, int) and 1 <= alignment <= 4096):
        raise damaged(path.name, "its alignment is impossible")
    data = size - -(-start // alignment) * alignment
    for _, count, length, offset in listed:
        if count > 2**48 or offset + length > data:
            raise damaged(path.name, "a tensor lies outside the file")
    parameters = sum(count for _, count, _, _ in listed)
    return GgufHeader(fields, parameters, frozenset(kind for kind, _, _, _ in listed))


def _gguf_value(cursor: _Cursor, kind: int) -> Any:
    if kind == _GGUF_STRING:
        return cursor.text()
    if kind in _GGUF_SCALARS:
        return cursor.number(_GGUF_SCALARS[kind])
    if kind != _GGUF_ARRAY:
        raise damaged(cursor.name, "it holds a value of an unknown kind")
    inner, count = cursor.number("I"), cursor.number("Q")
    if inner in _GGUF_SCALARS:
        cursor.take(count * struct.calcsize("<" + _GGUF_SCALARS[inner]))
    elif inner == _GGUF_STRING:
        cursor.must_hold(count * 8)
        for _ in range(count):
            cursor.take(cursor.number("Q"))
    else:
        raise damaged(cursor.name, "it holds a list of an unknown kind")
    return count


def _gguf_tensor(cursor: _Cursor) -> tuple[int, int, int, int]:
    """Return ``(ggml type, weights, bytes, offset)`` of the next tensor."""
    cursor.text()
    dims = cursor.number("I")
    if not 1 <= dims <= 4:
        raise damaged(cursor.name, "a tensor has an impossible number of dimensions")
    count = math.prod(cursor.number("Q") for _ in range(dims))
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in _GGML_BLOCKS:
        raise ModelError(
            f"The file stores weights in a way (ggml type {kind}) that cannot be read here.",
            where=cursor.name,
            action="Choose the same model in F16, Q8_0, Q4_1 or another common type.",
            code="model.unsupported",
        )
    block, size = _GGML_BLOCKS[kind]
    return kind, count, -(-count // block) * size, offset


def check_gguf(path: Path) -> GgufHeader:
    """Check that a GGUF file is whole, of the starter's kind, and carries a known template only.

    Raises:
        ModelError: says which of these fails.
    """
    header = gguf_header(path)
    template = header.fields.get("tokenizer.chat_template", "")
    if template and template_hash(template) not in KNOWN_TEMPLATES:
        raise ModelError(
            "The chat template in this file is not a known one and is not taken from it.",
            where=path.name,
            action="Use the model's original folder with safetensors files instead.",
            code="model.template",
        )
    architecture = header.fields.get("general.architecture", "unknown")
    tokens = header.fields.get("tokenizer.ggml.pre", "")
    if architecture != "llama" or tokens not in ("smollm", "gpt-2"):
        raise ModelError(
            f"GGUF files of kind {architecture[:40]!r} with {tokens[:40]!r} tokens are not read.",
            where=path.name,
            action="Use the model's original folder with safetensors files instead.",
            code="model.unsupported",
        )
    return header


# --- the whole folder ---------------------------------------------------------------------------

_CLASS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_folder(folder: Path) -> dict[str, Any]:
    """Check a model folder before any library opens it (headers only, fast).

    Returns:
        ``config.json``.

    Raises:
        ModelError: the first thing that is missing, damaged, unsafe or not supported.
    """
    config = check_json(folder / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES and family not in ENCODERS:
        raise ModelError(
            f"Models of the family {str(family)[:40]!r} are not supported.",
            where=folder.name,
            action=f"Supported: {', '.join([*FAMILIES, *ENCODERS])}.",
            code="model.unsupported",
        )
    for name in _JSON_FILES[1:]:
        if (folder / name).is_file():
            tree = check_json(folder / name)
            tokenizer = str(tree.get("tokenizer_class") or "PreTrainedTokenizerFast")
            if not _CLASS_NAME.fullmatch(tokenizer):
                raise unsafe(name, "tokenizer_class is no plain name")
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            "tokenizer.json is missing.",
            where=folder.name,
            action="Choose a folder with a fast tokenizer (tokenizer.json).",
            code="model.missing",
        )
    for template in templates_of(folder):
        check_template(template, folder.name)
    check_weights(folder)
    return config
