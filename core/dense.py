"""A causal language model whose own weights are trained, or which teaches: dense, from a folder.

Where :mod:`core.assemble` builds a model from stored weights with adapters, this one keeps the
weights as they are. Both take packed rows and keep the logits of a batch from ever existing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import modelload
from core.assemble import recomputed, shared_mask, shifted
from core.objectives.directed import Dense, Directed
from core.objectives.head import DenseHead, each_chunk, head_loss


@dataclass
class DenseModel:
    """A ``transformers`` model and what training needs of it.

    Attributes:
        model: the causal model.
        inner: the part that gives last hidden states.
        head: its output head.
        blocks: the decoder blocks in order.
    """

    model: Any
    inner: Any
    head: DenseHead
    blocks: list[nn.Module]
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(model: Any, *, trained: bool = False) -> DenseModel:
        """Take a loaded model; ``trained``: all of its weights get gradients, else none.

        Raises:
            ModelError: if it has no separate output head or no plain list of blocks.
        """
        model.requires_grad_(trained)
        parts = modelload.decoder_parts(model)
        head = DenseHead(parts.head, parts.head_bias, parts.scale, parts.softcap)
        _, blocks = modelload.decoder_blocks(model)
        weight = parts.head
        return DenseModel(model, parts.inner, head, list(blocks), weight.dtype, weight.device)

    @staticmethod
    def load(
        path: Path, dtype: torch.dtype, device: torch.device, *, trained: bool = False
    ) -> DenseModel:
        """Load a checked model folder.

        Raises:
            ModelError: if it cannot be used.
        """
        model: Any = modelload.load_dense(path, dtype)
        return DenseModel.of(model.to(device), trained=trained)

    def recompute(self) -> None:
        """From now on recompute every block in the backward pass."""
        for block in self.blocks:
            block.forward = recomputed(block.forward)

    def directed(self) -> dict[str, Directed]:
        """The linear layers of the blocks, whose weights train: what penalties and decay see.

        No tables, norms or biases.
        """
        return {
            name: Dense(module, transposed=not isinstance(module, nn.Linear))
            for name, module in modelload.linear_targets(self.model).items()
        }

    def hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states (T, d) of a packed row; ids and positions (T,)."""
        out = self.inner(
            input_ids=ids[None],
            position_ids=positions[None],
            attention_mask=shared_mask(self, positions),
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def loss(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Mean answer loss of a packed row; ``labels`` (T,) are not shifted yet."""
        targets = shifted(labels)
        learned = targets != -100
        wanted = targets[learned]

        def summed(logits: Tensor, part: slice) -> Tensor:
            return nn.functional.cross_entropy(logits, wanted[part], reduction="sum")

        hidden = self.hidden(ids, positions)[learned]
        return head_loss(hidden, self.head, summed) / learned.sum()

    @torch.no_grad()
    def losses(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Loss of every learned token, without gradients."""
        targets = shifted(labels)
        learned = targets != -100
        wanted = targets[learned]
        found: list[Tensor] = []

        def see(logits: Tensor, part: slice) -> None:
            found.append(nn.functional.cross_entropy(logits, wanted[part], reduction="none"))

        each_chunk(self.hidden(ids, positions)[learned], self.head, see)
        return torch.cat(found) if found else wanted.new_zeros(0, dtype=torch.float32)
