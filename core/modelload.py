"""Opening a checked model folder with torch and ``transformers``: offline, no foreign code.

``core.models`` decides whether a folder may be opened; everything here only reads local files.

``python -m core.modelload convert FILE.gguf FOLDER`` is the child process that turns a GGUF file
of the starter's kind into a safetensors folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from core.errors import ConfigError, ModelError, StudioError
from core.modelcheck import STARTER_TEMPLATE, TensorEntry, safetensors_header, weight_files
from core.process import apart

_quiet: Any = transformers_logging.disable_progress_bar
_quiet()  # ours are the only progress lines

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load_config(path: Path) -> PretrainedConfig:
    """Return the configuration of a checked model folder.

    Raises:
        ModelError: if ``transformers`` cannot read it.
    """
    with _said(path, "config.json"):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    return config


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a checked model folder, with a padding token.

    Raises:
        ModelError: if it cannot be read.
    """
    with _said(path, "tokenizer.json"):
        loaded: Any = apart(
            lambda: AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        )
    tokenizer: PreTrainedTokenizerFast = loaded
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fast_dtype() -> torch.dtype:
    """Return bfloat16 where this CPU multiplies it in hardware, float32 elsewhere.

    Without such instructions a bfloat16 product takes about eight times as long as a float32 one.
    """
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def load_dense(path: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return the model with its own dense weights, in evaluation mode on the CPU.

    Args:
        path: a checked model folder.
        dtype: of weights and activations; by default :func:`fast_dtype`.

    Raises:
        ModelError: if the weights do not fit the configuration.
    """
    with _said(path, "the weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype or fast_dtype(),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model: PreTrainedModel = loaded.eval()
    return model


def load_nf4(path: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Return the model with its linear layers in NF4, doubly quantized, as bitsandbytes does it.

    Args:
        path: a checked model folder.
        dtype: of all other weights, of activations and of products with expanded weights.
        device: where it goes.

    Raises:
        ConfigError: if bitsandbytes is not installed.
        ModelError: if the weights do not fit the configuration, or lie transposed (``Conv1D``).
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "Weights in NF4 come with the package bitsandbytes, which is not installed.",
            where="method",
            action="Choose method qlora, which needs no package, or: pip install bitsandbytes.",
            code="model.bitsandbytes",
        )
    if any(isinstance(module, Conv1D) for module in empty_model(path).modules()):
        raise ModelError(
            "This model's weights lie transposed, and are not stored in NF4 by bitsandbytes here.",
            where=path.name,
            action="Choose method qlora of the studio's own.",
            code="model.nf4_transposed",
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    with _said(path, "the weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            quantization_config=settings,
            device_map={"": str(device)},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model: PreTrainedModel = loaded.eval()
    return model


def empty_model(path: Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Return the model without storage (``meta`` device): structure and shapes only.

    Raises:
        ModelError: if the configuration is not usable.
    """
    config = load_config(path)
    with _said(path, "config.json"), torch.device("meta"):
        build: Any = AutoModelForCausalLM.from_config
        model: PreTrainedModel = build(config, dtype=dtype, trust_remote_code=False).eval()
    return model


class _said:  # noqa: N801  (reads as a phrase: ``with _said(...)``)
    """Turn what the libraries raise on a bad folder into one sentence."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        spared = (MemoryError, torch.OutOfMemoryError, StudioError)
        if isinstance(error, Exception) and not isinstance(error, spared):
            raise ModelError(
                f"{self.what} of this model cannot be used ({type(error).__name__}).",
                where=Path(self.path).name,
                action="Check that the folder is a complete, unchanged copy of the model.",
                code="model.unusable",
            ) from error


# --- structure ----------------------------------------------------------------------------------


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a matrix product: ``nn.Linear`` or GPT-2's ``Conv1D``."""
    return isinstance(module, (nn.Linear, Conv1D))


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return ``(out_features, in_features)``; ``Conv1D`` stores its weight transposed.

    Raises:
        TypeError: if the module is no linear layer.
    """
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    raise TypeError(f"{type(module).__name__} is no linear layer")


def decoder_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the dotted name and the list of decoder blocks.

    It is the one ``ModuleList`` with as many entries as the configuration has hidden layers.

    Raises:
        ModelError: if there is no such list.
    """
    layers = int(model.config.num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return name, module
    raise ModelError(
        f"{type(model).__name__} has no plain list of decoder blocks.",
        where="model",
        action="Choose a model of one of the listed families.",
        code="model.structure",
    )


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """Return the module that turns hidden states into logits, None if the model has none."""
    get: Any = model.get_output_embeddings
    head: nn.Module | None = get()
    return head


def linear_targets(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return all linear layers inside the decoder blocks by dotted name, in order of execution.

    Found by type, never by name; the output head and the embeddings lie outside the blocks.
    """
    prefix, blocks = decoder_blocks(model)
    head = output_head(model)
    return {
        f"{prefix}.{name}": module
        for name, module in blocks.named_modules()
        if is_linear(module) and module is not head
    }


def block_of(name: str) -> int:
    """Return the index of the decoder block in a dotted module name, -1 outside the blocks."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), -1)


@dataclass(frozen=True)
class DecoderParts:
    """A causal model split before its output head.

    Attributes:
        inner: called as the model, returns ``last_hidden_state`` (batch, tokens, hidden) after the
            final norm.
        head: output head weight (vocabulary, hidden).
        head_bias: its bias (vocabulary) or None.
        tied: the head shares its weight with the input embedding.
        divisor: logits are divided by it (Granite's ``logits_scaling``).
        softcap: logits z become ``softcap * tanh(z / softcap)``; 0: they stay.
    """

    inner: nn.Module
    head: Tensor
    head_bias: Tensor | None
    tied: bool
    divisor: float = 1.0
    softcap: float = 0.0

    @property
    def scale(self) -> float:
        """What logits are multiplied by."""
        return 1.0 / self.divisor

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocabulary) of hidden states (..., hidden)."""
        scores = nn.functional.linear(hidden, self.head, self.head_bias)
        return finished_logits(scores, self.divisor, self.softcap)


def decoder_parts(model: PreTrainedModel) -> DecoderParts:
    """Split a causal model into what gives hidden states and what turns them into logits.

    Raises:
        ModelError: if the model has no separate output head.
    """
    head = output_head(model)
    inner = model.base_model
    if head is None or inner is model:
        raise ModelError(
            f"{type(model).__name__} has no separate output head.", code="model.structure"
        )
    embedding = model.get_input_embeddings()
    config = model.config
    weight: Any = head.weight
    divisor, softcap = _logit_shape(config)
    return DecoderParts(
        inner=inner,
        head=weight,
        head_bias=getattr(head, "bias", None),
        tied=bool(config.tie_word_embeddings) or embedding.weight is weight,
        divisor=divisor,
        softcap=softcap,
    )


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return hidden states (batch, tokens, hidden) after the final norm for ids (batch, tokens)."""
    inner: Any = model.base_model
    hidden: Tensor = inner(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return logits (..., vocabulary) of some hidden states, through the model's own output head.

    Unlike :func:`decoder_parts` it needs no dense head weight: a quantized head stays quantized.
    """
    head: Any = output_head(model)
    return finished_logits(head(hidden), *_logit_shape(model.config))


def finished_logits(scores: Tensor, divisor: float, softcap: float) -> Tensor:
    """Apply what a family does to the head's output: divide (Granite), cap (Gemma)."""
    if divisor != 1.0:
        scores = scores / divisor
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    return scores


def _logit_shape(config: PretrainedConfig) -> tuple[float, float]:
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)
    return divisor, float(getattr(config, "final_logit_softcapping", None) or 0.0)


# --- tensors ------------------------------------------------------------------------------------


class Weights(Mapping[str, Tensor]):
    """The tensors of a model folder by the model's parameter names, read one at a time.

    A tensor is read into memory of its own when asked for; nothing stays mapped or cached, so the
    process holds no more than what the caller keeps. Tied names (an output head that is the
    embedding) and checkpoints saved without the outer prefix are resolved.
    """

    def __init__(self, path: Path, model: PreTrainedModel | None = None) -> None:
        """Read the headers and match them with the model's parameters.

        Args:
            path: a checked model folder.
            model: its :func:`empty_model`, if there is one already.

        Raises:
            ModelError: if a parameter is not in the files, or has another shape there.
        """
        self.path = path
        self._entries: dict[str, tuple[Path, TensorEntry]] = {}
        for file in weight_files(path):
            for name, entry in safetensors_header(file).items():
                self._entries[name] = (file, entry)
        model = model if model is not None else empty_model(path)
        self._names = self._match(model)

    def _match(self, model: PreTrainedModel) -> dict[str, str]:
        """Return parameter name -> name in the files, for all parameters of the model."""
        prefix = model.base_model_prefix + "."
        shared: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            shared.setdefault(id(parameter), []).append(name)
        if model.config.tie_word_embeddings:
            self._add_tied(model, shared)
        names = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            same = [name, *next(group for group in shared.values() if name in group)]
            candidates = [form for n in same for form in (n, n.removeprefix(prefix), prefix + n)]
            stored = next((c for c in candidates if c in self._entries), "")
            if not stored or self._entries[stored][1].shape != tuple(parameter.shape):
                raise ModelError(
                    f"Parameter {name!r} is not in the weight files, or not in this shape.",
                    where=self.path.name,
                    action="Choose an unchanged copy of a model of one of the listed families.",
                    code="model.mismatch",
                )
            names[name] = stored
        return names

    @staticmethod
    def _add_tied(model: PreTrainedModel, shared: dict[int, list[str]]) -> None:
        """Group the output head with the embedding where the model is on no device yet."""
        of_module = {id(module): name for name, module in model.named_modules()}
        head, embedding = output_head(model), model.get_input_embeddings()
        if head is not None and embedding is not None:
            group = [f"{of_module[id(m)]}.weight" for m in (head, embedding)]
            for names in list(shared.values()):
                if group[0] in names:
                    names.append(group[1])

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter in the dtype and shape it is stored in."""
        return self.rows(name, 0, None)

    def rows(self, name: str, start: int, stop: int | None) -> Tensor:
        """Return rows ``start:stop`` of a parameter's first dimension, reading only these."""
        file, entry = self._entries[self._names[name]]
        shape = entry.shape
        if shape and (start or stop is not None):
            start, stop, _ = slice(start, stop).indices(shape[0])
            row = (entry.end - entry.start) // max(shape[0], 1)
            begin, length = entry.start + start * row, max(stop - start, 0) * row
            shape = (max(stop - start, 0), *shape[1:])
        else:
            begin, length = entry.start, entry.end - entry.start
        buffer = bytearray(length)
        with file.open("rb") as handle:
            handle.seek(begin)
            if handle.readinto(buffer) != length:
                raise ModelError(
                    "The weight file became shorter while it was read.",
                    where=file.name,
                    action="Copy the model folder again.",
                    code="model.damaged",
                )
        dtype = _DTYPES[entry.dtype]
        if not length:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a parameter's shape without reading it."""
        return self._entries[self._names[name]][1].shape

    def stored_name(self, name: str) -> str:
        """Return the name under which a parameter is in the files (equal for tied ones)."""
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the parameter names of the model."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of parameter names."""
        return len(self._names)


# --- conversion of GGUF files -------------------------------------------------------------------


def convert_gguf(source: Path, folder: Path) -> None:
    """Write a GGUF file of the starter's kind as a bfloat16 safetensors folder.

    The caller has checked the file's header. The chat template is the known one, never the file's.

    Raises:
        ModelError: if ``transformers`` cannot read the file.
    """
    _report(0.05, "reading the weights")
    with _said(source, "the weights"):
        model = gguf_model(source)
    _report(0.6, "writing the weights")
    model.save_pretrained(folder)
    longest = int(model.config.max_position_embeddings)
    _report(0.7, "writing the tokenizer")
    with _said(source, "the tokenizer"):
        tokenizer = gguf_tokenizer(source)
    tokenizer.model_max_length = longest
    tokenizer.save_pretrained(folder)
    _plain_tokenizer_config(folder / "tokenizer_config.json")
    _report(0.9, "written")


def gguf_model(source: Path) -> Any:
    """The model of a GGUF file, its weights expanded to bfloat16."""
    from transformers import GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
        trust_remote_code=False,
    )


def gguf_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """Rebuild the byte-level BPE tokenizer of a GGUF file.

    ``transformers`` ignores ``tokenizer.ggml.pre``; SmolLM splits numbers into single digits before
    merging, without which ids of numbers differ from those the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(source).fields

    def content(key: str) -> Any:
        return fields[f"tokenizer.ggml.{key}"].contents()

    tokens, kinds = content("tokens"), content("token_type")
    merges = [tuple(pair.split(" ", 1)) for pair in content("merges")]
    bpe = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    backend = Tokenizer(bpe)
    bytes_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    smollm = content("pre") == "smollm"
    steps = [digits, bytes_level] if smollm else [bytes_level]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {
        ours: tokens[int(content(f"{theirs}_token_id"))]
        for ours, theirs in names.items()
        if f"tokenizer.ggml.{theirs}_token_id" in fields
    }
    build: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = build(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        chat_template=STARTER_TEMPLATE,
        **special,
    )
    return tokenizer


def _plain_tokenizer_config(path: Path) -> None:
    """Name the plain fast class, so that ``tokenizer.json`` is taken as it is; drop local notes."""
    tree = json.loads(path.read_text("utf-8"))
    tree["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("is_local", "local_files_only", "backend"):
        tree.pop(key, None)
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")


def _report(share: float, text: str) -> None:
    sys.stdout.write(json.dumps({"share": share, "text": text}) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """``convert FILE.gguf FOLDER``; progress and a problem are JSON lines on standard output."""
    if arguments[:1] != ["convert"] or len(arguments) != 3:
        sys.stderr.write("usage: python -m core.modelload convert FILE.gguf FOLDER\n")
        return 2
    try:
        convert_gguf(Path(arguments[1]), Path(arguments[2]))
    except StudioError as error:
        sys.stdout.write(json.dumps(error.problem.to_json()) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
