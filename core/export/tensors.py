"""Writing model folders tensor by tensor: one dense tensor in memory at a time."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.assemble import LanguageModel, name_of
from core.errors import ModelError
from core.layers.lora import AdapterLinear, adapter_layers
from core.modelload import Weights
from core.quant.weight import QuantizedWeight

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    read: Callable[[str], Tensor],
    on_done: Callable[[float], None] = lambda share: None,
) -> None:
    """Write a safetensors file, asking for each tensor only when it is its turn.

    Args:
        path: the file.
        shapes: shape of each tensor by name, in the order of writing.
        dtype: float32, bfloat16 or float16, of all tensors.
        read: gives a tensor by name.
        on_done: called with the share written, 0..1.

    Raises:
        ModelError: if a tensor holds numbers that are not finite.
        ValueError: if a tensor has another shape than announced.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for done, (name, shape) in enumerate(shapes.items(), 1):
            tensor = read(name).detach().to("cpu", dtype).contiguous()
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(shape)}")
            if not torch.isfinite(tensor).all():
                raise ModelError(
                    "The model holds numbers that are not finite and was not exported.",
                    where=name,
                    action="Train again with a smaller learning rate.",
                    code="export.not_finite",
                )
            handle.write(tensor.view(torch.uint8).numpy().data)
            on_done(done / len(shapes))


class DenseReader:
    """Gives the dense parameters of a tuned model by the names of its base.

    Adapted layers give ``Q + U diag(s*m) V`` (``adapter=True``) or the dequantized ``Q`` alone;
    embedding and output head what is stored of them; all else comes from the base unchanged.
    """

    def __init__(self, model: LanguageModel, base: Path, *, adapter: bool) -> None:
        """Match the tuned model with its base.

        Raises:
            ModelError: if the base does not fit.
        """
        self.weights = Weights(base)
        self._adapter = adapter
        self._layers = {f"{n}.weight": layer for n, layer in adapter_layers(model.model).items()}
        self._tables: dict[str, QuantizedWeight] = {}
        for module in (model.model.get_input_embeddings(), model.model.get_output_embeddings()):
            if hasattr(module, "table"):
                self._tables[f"{name_of(model.model, module)}.weight"] = module.table

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters; of tied ones only the first."""
        found: dict[str, tuple[int, ...]] = {}
        seen: set[str] = set()
        for name in self.weights:
            stored = self.weights.stored_name(name)
            if stored not in seen:
                found[name] = self.weights.shape(name)
            seen.add(stored)
        return found

    def __call__(self, name: str) -> Tensor:
        """Return a parameter as the base would store it ((in, out) for ``Conv1D``), in fp32."""
        if name in self._layers:
            return self._linear(self._layers[name])
        if name in self._tables:
            return self._tables[name].dequantize(torch.float32)
        return self.weights[name].float()

    def _linear(self, layer: AdapterLinear) -> Tensor:
        whole = self._adapter and layer.rank
        weight = layer.effective_weight() if whole else layer.quantized.dequantize(torch.float32)
        return weight.t() if layer.transposed else weight


def write_model(
    folder: Path,
    reader: DenseReader,
    base: Path,
    template: str,
    dtype: torch.dtype,
    on_done: Callable[[float], None] = lambda share: None,
) -> None:
    """Write a plain ``transformers`` folder: weights, configuration, tokenizer, chat template.

    Args:
        folder: an empty folder.
        reader: gives the weights.
        base: the base model's folder; its configuration and tokenizer are taken over.
        template: the chat template that was trained with.
        dtype: of the weights.
        on_done: called with the share written, 0..1.

    Raises:
        ModelError: if a weight is not finite.
        OSError: if the disk is full.
    """
    write_config(base, folder, dtype)
    copy_tokenizer(base, folder, template)
    write_safetensors(folder / "model.safetensors", reader.shapes(), dtype, reader, on_done)


def write_config(base: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write the base's configuration, without paths, for weights of ``dtype``."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    for key in ("_name_or_path", "_model_name_or_path", "torch_dtype"):
        config.pop(key, None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")


def copy_tokenizer(base: Path, folder: Path, template: str) -> None:
    """Copy the base's tokenizer and licence, and write the chat template that was trained with."""
    for path in [*(base / name for name in _TOKENIZER_FILES), *sorted(base.glob("LICENSE*"))]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / "chat_template.jinja").write_text(template, "utf-8", newline="\n")
