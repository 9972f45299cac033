"""A causal language model whose frozen weights are stored, built tensor by tensor from disk.

The unquantized model is never in memory: the model is made without weights, and every linear layer
is read, stored and forgotten before the next is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from core import modelload
from core.layers import attention
from core.layers.blocks import FusedBlock, fuse_block
from core.objectives.language import answer_loss, answer_losses
from core.quant.embedding import QuantizedEmbedding, QuantizedHead
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

# Makes the module that stands for a linear layer: (name, read, bias, transposed). ``read()`` gives
# the weight (o, i) from disk, so that what is not needed is never read.
Store = Callable[[str, Callable[[], Tensor], Tensor | None, bool], nn.Module]

# Of an embedding that are read and stored at a time; with all that is made on the way to 8 bits
# they hold about 10 MB (docs/log.md).
TABLE_NUMBERS = 2**19


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype of activations: bf16 where the device multiplies it fast, else fp32.

    On a CPU without AVX512-BF16 or AMX a bf16 product is about eight times slower than fp32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


class Tensors(Protocol):
    """Tensors by parameter name."""

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return its shape without reading it."""
        ...


@dataclass
class LanguageModel:
    """A ``transformers`` model with stored weights and what training needs of it.

    Attributes:
        model: the causal model (its linear layers in blocks replaced).
        inner: the part that gives last hidden states.
        head: the stored output head (v, d).
        blocks: the decoder blocks in order.
        dtype: dtype of activations.
    """

    model: Any
    inner: Any
    head: QuantizedWeight
    head_bias: Tensor | None
    scale: float
    softcap: float
    blocks: list[nn.Module]
    dtype: torch.dtype
    device: torch.device
    _checkpointed: dict[int, Any] = field(default_factory=dict)
    _fused: dict[int, FusedBlock] = field(default_factory=dict)

    def hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states (T, d) of a packed row; ids and positions (T,).

        Positions that restart separate examples; where they restart at p, the first p tokens are
        the beginning of every example. For p = 0, without a cache and without a mask,
        ``transformers`` keeps the examples apart exactly; with a cache they leak into each other.
        """
        packed = self.model.config._attn_implementation == attention.NAME
        mask = attention.bounds_of(positions) if packed else shared_mask(self, positions)
        out = self.inner(
            input_ids=ids[None],
            position_ids=positions[None],
            attention_mask=mask,
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def loss(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Mean answer loss of a packed row; ``labels`` (T,) are not shifted yet."""
        targets = shifted(labels)
        return answer_loss(self.hidden(ids, positions), self.head, targets, **self._head())

    def losses(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Loss of every learned token, without gradients."""
        with torch.no_grad():
            hidden = self.hidden(ids, positions)
        return answer_losses(hidden, self.head, shifted(labels), **self._head())

    def set_checkpointing(self, on: bool) -> None:
        """Recompute every block in the backward pass (``on``), or none."""
        self.recompute(len(self.blocks) if on else 0)

    def recompute(self, blocks: int) -> None:
        """Recompute the first ``blocks`` blocks in the backward pass; keep the others' activations.

        The first ones, because the backward pass comes to them last, when what the others keep is
        gone.
        """
        for k, block in enumerate(self.blocks):
            on = k < blocks
            if on and k not in self._checkpointed:
                self._checkpointed[k] = block.forward
                block.forward = recomputed(block.forward)
            elif not on and k in self._checkpointed:
                block.forward = self._checkpointed.pop(k)
            if k in self._fused:
                self._fused[k].keep.recomputed = on

    @property
    def fused(self) -> bool:
        """Whether the blocks compute as :mod:`core.layers.blocks` describes."""
        return bool(self._fused)

    def fuse(self) -> None:
        """Let blocks of a known shape keep less for the backward pass; others stay as they are."""
        config = self.model.config
        activation = str(
            getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", "")
        )
        found = {k: fuse_block(block, k, activation) for k, block in enumerate(self.blocks)}
        self._fused = {k: fused for k, fused in found.items() if fused is not None}
        if self._fused and config._attn_implementation == "sdpa":
            self.model.set_attn_implementation(attention.NAME)

    def unfuse(self) -> None:
        """Give the blocks back the computation of ``transformers``."""
        for fused in self._fused.values():
            fused.undo()
        if self._fused and self.model.config._attn_implementation == attention.NAME:
            self.model.set_attn_implementation("sdpa")
        self._fused = {}

    def shorten(self, blocks: int) -> Callable[[], None]:
        """Run only the first ``blocks`` blocks until the returned function is called."""
        config, all_blocks = self.model.config, self.blocks
        prefix, found = modelload.decoder_blocks(self.model)
        put(self.model, prefix, nn.ModuleList(list(found)[:blocks]))
        config.num_hidden_layers, self.blocks = blocks, all_blocks[:blocks]

        def undo() -> None:
            put(self.model, prefix, found)
            config.num_hidden_layers, self.blocks = len(all_blocks), all_blocks

        return undo

    def _head(self) -> dict[str, Any]:
        return {"bias": self.head_bias, "scale": self.scale, "softcap": self.softcap}


def skeleton(path: Path, blocks: int | None = None) -> Any:
    """The model without weights, but with its computed buffers (rotary frequencies) in place.

    Args:
        path: a local model folder.
        blocks: only its first blocks, for measurements.

    Raises:
        ModelError: if the configuration is not usable.
    """
    config = modelload.load_config(path)
    if blocks is not None:
        config.num_hidden_layers = min(blocks, config.num_hidden_layers)
        if getattr(config, "layer_types", None):
            config.layer_types = list(config.layer_types)[:blocks]
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    return model.eval()


def shared_of(positions: Tensor) -> int:
    """Tokens p that all examples of a packed row begin with, from its positions (T,)."""
    restarts = positions[1:][positions[1:] != positions[:-1] + 1]
    return int(restarts[0]) if len(restarts) else 0


def seen(positions: Tensor) -> Tensor:
    """Who sees whom (T, T) in a packed row with positions (T,): a query a row, a key a column."""
    order = torch.arange(len(positions), device=positions.device)
    example = (positions == shared_of(positions)).cumsum(0)  # 0: the beginning
    sees = (example[:, None] == example) | (example == 0)
    return sees & (order[:, None] >= order)


def shared_mask(model: Any, positions: Tensor) -> Tensor | None:
    """Who sees whom (1, 1, T, T) where the examples of a row share a beginning, else None.

    All models of ``transformers`` take a mask of this shape as it is.

    Args:
        model: holds the ``transformers`` model as ``model``, and the ``dtype`` of activations.
        positions: of the row (T,).
    """
    if not shared_of(positions):
        return None
    sees = seen(positions)
    if model.model.config._attn_implementation == "sdpa":
        return sees[None, None]
    least = torch.finfo(model.dtype).min
    return torch.zeros_like(sees, dtype=model.dtype).masked_fill_(~sees, least)[None, None]


def shifted(labels: Tensor) -> Tensor:
    """Targets (T,): row t predicts label t+1; -100 at the end."""
    return torch.cat([labels[1:], labels.new_full((1,), -100)])


def recomputed(forward: Any) -> Any:
    """A block's ``forward`` that keeps its inputs only and computes anew in the backward pass."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # Nothing in a block is random (dropout is off), so no generator state needs keeping.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def build(
    path: Path,
    store: Store,
    *,
    embedding_bits: int = 16,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    on_linear: Callable[[int, int], None] = lambda done, total: None,
) -> LanguageModel:
    """Build the model at ``path`` with every linear layer of its blocks made by ``store``.

    Args:
        path: a local folder of safetensors.
        store: makes the module of one linear layer from its weight.
        embedding_bits: 8 or 16, of the embedding table and the output head (once where tied).
        device: where it runs; default CPU.
        dtype: of activations; default by :func:`compute_dtype`.
        on_linear: progress (done, total).

    Raises:
        ModelError: if a weight is missing or damaged.
    """
    model = skeleton(path)
    weights = modelload.Weights(path, model)
    place = device or torch.device("cpu")
    scheme = Scheme(embedding_bits)
    return assemble(
        model,
        weights,
        store,
        table=lambda name: table_of(weights, name, scheme, place),
        device=place,
        dtype=dtype,
        on_linear=on_linear,
    )


def assemble(
    model: Any,
    weights: Tensors,
    store: Store,
    *,
    table: Callable[[str], QuantizedWeight],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    on_linear: Callable[[int, int], None] = lambda done, total: None,
) -> LanguageModel:
    """Fill an empty ``model`` from ``weights``; ``table`` makes a stored embedding by name."""
    device = device or torch.device("cpu")
    dtype = dtype or compute_dtype(device)
    targets = modelload.linear_targets(model)
    parts = modelload.decoder_parts(model)
    _, blocks = modelload.decoder_blocks(model)
    for k, (name, module) in enumerate(targets.items()):
        transposed = not isinstance(module, nn.Linear)
        bias = weights[f"{name}.bias"].to(device, dtype) if has_bias(module) else None
        read = _reader(weights, f"{name}.weight", device, transposed)
        put(model, name, store(name, read, bias, transposed))
        on_linear(k + 1, len(targets))
    head, head_bias = _place_embeddings(model, weights, table, parts.tied, (device, dtype))
    materialise_rest(model, weights, device, dtype)
    model.eval()
    built = LanguageModel(
        model,
        parts.inner,
        head,
        head_bias,
        parts.scale,
        parts.softcap,
        list(blocks),
        dtype,
        device,
    )
    built.fuse()
    return built


def _reader(
    weights: Tensors, key: str, device: torch.device, transposed: bool
) -> Callable[[], Tensor]:
    def read() -> Tensor:
        weight = weights[key].to(device)
        return weight.t() if transposed else weight

    return read


def has_bias(module: nn.Module) -> bool:
    """Whether a linear layer has a bias."""
    return getattr(module, "bias", None) is not None


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def name_of(model: nn.Module, module: nn.Module) -> str:
    """Dotted name of a submodule."""
    return str(next(n for n, m in model.named_modules() if m is module))


def _place_embeddings(
    model: Any,
    weights: Tensors,
    table: Callable[[str], QuantizedWeight],
    tied: bool,
    place: tuple[torch.device, torch.dtype],
) -> tuple[QuantizedWeight, Tensor | None]:
    """Replace embedding and output head; they share one table where they are tied."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding_name, head_name = name_of(model, embedding), name_of(model, head)
    stored = table(f"{embedding_name}.weight")
    out = stored if tied else table(f"{head_name}.weight")
    bias = weights[f"{head_name}.bias"].to(*place) if has_bias(head) else None
    put(model, embedding_name, QuantizedEmbedding(stored, embedding, place[1]))
    put(model, head_name, QuantizedHead(out, bias))
    return out, bias


def table_of(
    weights: modelload.Weights, name: str, scheme: Scheme, device: torch.device
) -> QuantizedWeight:
    """Store a table (v, d) block of rows by block of rows, so that it exists once.

    The blocks are written where they belong at once: parts that are joined at the end would take
    the table's bytes twice, which is most of a small model with many words.
    """
    rows, width = weights.shape(name)
    whole = QuantizedWeight(scheme, rows, width)
    block = max(1, TABLE_NUMBERS // width)
    for a in range(0, rows, block):
        part = QuantizedWeight.from_dense(weights.rows(name, a, a + block).to(device), scheme)
        for key, stored in part.named_buffers():
            per_row = len(stored) // part.out_features
            if a == 0:
                room = stored.new_empty(rows * per_row, *stored.shape[1:])
                whole.register_buffer(key, room)
            whole.get_buffer(key)[a * per_row :][: len(stored)] = stored
    return whole


def materialise_rest(
    model: nn.Module, weights: Tensors, device: torch.device, dtype: torch.dtype
) -> None:
    """Read what is still empty (norms, biases, tables); move computed buffers to the device."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent, _, child = name.rpartition(".")
            value = nn.Parameter(weights[name].to(device, dtype), requires_grad=False)
            setattr(model.get_submodule(parent), child, value)
    for module in model.modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            if buffer is not None and not buffer.is_meta and buffer.device != device:
                module._buffers[key] = buffer.to(device)
