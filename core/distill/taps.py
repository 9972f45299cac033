"""What a model computes inside, heard by hooks: hidden states of some blocks, and q, k, v of one.

Hooks on the projections leave attention as fast as it is: the maps of attention themselves would
need another implementation, which keeps a square of every head.

Shapes: T tokens, d hidden, H heads, G heads of keys and values, h size of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from core.modelload import linear_shape

_SEPARATE = ("q_proj", "k_proj", "v_proj")
_TOGETHER = ("qkv_proj", "c_attn", "query_key_value")


@dataclass
class Heard:
    """What one forward pass said.

    Attributes:
        hidden: hidden states (T, d) after a block, by its index.
        qkv: what the query (T, H h), key and value (T, G h) projections of one block gave.
    """

    hidden: dict[int, Tensor] = field(default_factory=dict)
    qkv: dict[str, Tensor] = field(default_factory=dict)

    @property
    def relations(self) -> list[Tensor]:
        """Queries, keys and values, in this order."""
        return [self.qkv[name] for name in ("q", "k", "v")]


class Taps:
    """Hooks on the blocks of one model; they hear only inside :meth:`listen`."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        config: Any,
        *,
        hidden: Sequence[int] = (),
        relations: int | None = None,
    ) -> None:
        """Put the hooks in.

        Args:
            blocks: decoder blocks in order.
            config: the model's configuration.
            hidden: blocks whose hidden states are wanted.
            relations: block whose q, k and v are wanted; None: of none.
        """
        self._heard: Heard | None = None
        self._handles = [
            blocks[index].register_forward_hook(self._hidden_hook(index)) for index in set(hidden)
        ]
        if relations is not None:
            for module, split in projections(blocks[relations], config):
                self._handles.append(module.register_forward_hook(self._qkv_hook(split)))

    @contextlib.contextmanager
    def listen(self) -> Iterator[Heard]:
        """Hear the forward passes of this block of code; a recomputed pass is not heard."""
        heard = self._heard = Heard()
        try:
            yield heard
        finally:
            self._heard = None

    def remove(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()

    def _hidden_hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._heard is not None:
                found = output[0] if isinstance(output, tuple) else output
                self._heard.hidden[index] = found[0]

        return hook

    def _qkv_hook(self, split: dict[str, int]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._heard is not None:
                parts = output[0].split(list(split.values()), -1)
                self._heard.qkv.update(zip(split, parts, strict=True))

        return hook


def projections(block: nn.Module, config: Any) -> list[tuple[nn.Module, dict[str, int]]]:
    """The modules of a block that make queries, keys and values, with the width of each part.

    Returns:
        Modules with ``{"q": width, ...}``; empty if the block makes them in a way not known here.
    """
    named = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
    if all(name in named for name in _SEPARATE):
        return [(named[n], {n[0]: _width(named[n])}) for n in _SEPARATE]
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    for name in _TOGETHER:
        if name in named and _width(named[name]) % (heads + 2 * groups) == 0:
            size = _width(named[name]) // (heads + 2 * groups)
            return [(named[name], {"q": heads * size, "k": groups * size, "v": groups * size})]
    return []


def _width(module: nn.Module) -> int:
    """Outputs of a linear layer, adapted ones included."""
    adapted: int | None = getattr(module, "out_features", None)
    return linear_shape(module)[0] if adapted is None else adapted
