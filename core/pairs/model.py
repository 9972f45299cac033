"""A model that reads two questions and says whether they mean the same.

    h = pool(blocks(tokens of both questions)),   logits = h W_head^T

``pool`` is the last token of a decoder (which has seen all others) and the mean over the tokens of
an encoder. Asked about (a, b), the logits of both orders are averaged,

    z(a, b) = 1/2 (logits(a, b) + logits(b, a)),

and both orders are always computed in the same arrangement, so that z(a, b) = z(b, a) exactly. The
head has no bias: with both weights at the class means it would add nothing, and an export needs one
matrix less (our interpretation).

Shapes: B texts, T tokens, d hidden width; logits (B, 2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModel

from core import modelload
from core.assemble import has_bias, materialise_rest, put
from core.data.chat import IGNORED, Encoded
from core.data.pairs import Pair
from core.layers.magnitude import MagnitudeLinear
from core.modelcheck import ENCODERS
from core.objectives.classify import classification_losses, r_drop_loss
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight

# What stands around two questions for a decoder; encoders have separators of their own.
FRAME = ("Question 1: ", "\nQuestion 2: ", "\nSame meaning?")
BATCH_TOKENS = 2048  # of a forward pass without gradients
HEAD_SPREAD = 0.02  # standard deviation of the head's weights at the start


class PairEncoder:
    """Lays two questions out as the model's tokens. Texts never become control tokens."""

    def __init__(self, tokenizer: Any, *, encoder: bool, max_length: int) -> None:
        """Prepare.

        Args:
            tokenizer: the base model's.
            encoder: whether the model is one (``[CLS] a [SEP] b [SEP]``).
            max_length: most tokens of a pair; the longer question is cut first.
        """
        self.tokenizer, self.encoder, self.max_length = tokenizer, encoder, max_length
        if encoder:
            begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
            # RoBERTa's family writes two separators between the texts.
            double = tokenizer("a", "b")["input_ids"].count(end) == 3
            self.frame = ([begin], [end, end] if double else [end], [end])
        else:
            first = tokenizer("a")["input_ids"][:1]
            opening = first if first == [tokenizer.bos_token_id] else []
            parts = [self.tokens(text) for text in FRAME]
            self.frame = (opening + parts[0], parts[1], parts[2])

    def tokens(self, text: str) -> list[int]:
        """Token ids of a plain text."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(found["input_ids"])

    def ids(self, first: str, second: str) -> tuple[list[int], bool]:
        """Token ids of two questions in this order, and whether something was cut off."""
        a, b = self.tokens(first), self.tokens(second)
        room = max(2, self.max_length - sum(map(len, self.frame)))
        cut = len(a) + len(b) > room
        if cut:
            kept = min(len(a), max(room - len(b), room // 2))
            a, b = a[:kept], b[: room - kept]
        begin, between, end = self.frame
        return [*begin, *a, *between, *b, *end], cut

    def examples(self, pairs: Sequence[Pair]) -> list[Encoded]:
        """Both orders of every pair, with the label at the last token."""
        found = []
        for pair in pairs:
            for texts in ((pair.first, pair.second), (pair.second, pair.first)):
                ids, cut = self.ids(*texts)
                found.append(Encoded(ids, [IGNORED] * (len(ids) - 1) + [pair.same], cut))
        return found


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a pair model is made like, apart from what was trained.

    Attributes:
        bits: of the frozen weights.
        group: weights that share a scale.
        scheme: ``affine`` or ``nf4``.
        dropout: of the adapters' inputs in training.
        r_drop: weight of the agreement of two passes.
    """

    bits: int = 16
    group: int = 64
    scheme: str = "affine"
    dropout: float = 0.0
    r_drop: float = 0.0


class PairModel:
    """A base model without its output head, adapters in its blocks, and a head of two classes."""

    def __init__(self, inner: Any, *, encoder: bool, shape: Shape, device: torch.device) -> None:
        """Put a head on ``inner``; it starts small and by the torch generator's state."""
        self.inner, self.encoder, self.shape, self.device = inner, encoder, shape, device
        self.width = int(inner.config.hidden_size)
        self.head = nn.Parameter((torch.randn(2, self.width) * HEAD_SPREAD).to(device))
        self.weights: Tensor | None = None  # of the classes
        self.pad = int(inner.config.pad_token_id or 0)
        self.separator = -1  # token after which an encoder's second text begins
        kinds = int(getattr(inner.config, "type_vocab_size", None) or 0)
        self.typed = encoder and kinds > 1  # whether the second text is marked as such

    @property
    def layers(self) -> dict[str, MagnitudeLinear]:
        """The adapted layers by name."""
        named = self.inner.named_modules()
        return {name: m for name, m in named if isinstance(m, MagnitudeLinear)}

    def hidden(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Pooled states (B, d) of token ids."""
        longest = max(map(len, texts))
        ids = torch.full((len(texts), longest), self.pad)
        mask = torch.zeros(len(texts), longest, dtype=torch.long)
        for k, text in enumerate(texts):
            ids[k, : len(text)], mask[k, : len(text)] = torch.tensor(text), 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        more: dict[str, Any] = {} if self.encoder else {"use_cache": False}
        if self.typed:
            after = (ids == self.separator).long().cumsum(1) - (ids == self.separator).long()
            more["token_type_ids"] = (after > 0).long() * mask
        states: Tensor = self.inner(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        if self.encoder:
            weight = mask.to(states.dtype)[..., None]
            return (states * weight).sum(1) / weight.sum(1)
        last = mask.sum(1) - 1
        return states[torch.arange(len(texts), device=self.device), last]

    def logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, 2) of token ids, each in the order that it has."""
        return self.hidden(texts).float() @ self.head.t()

    def loss(self, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of the texts that a row holds end to end; what a step of the loop asks for.

        Args:
            ids: token ids (T,) of all texts.
            positions: 0, 1, ... anew in every text (T,).
            labels: the class at the last token of every text, -100 elsewhere (T,).
        """
        texts, classes = unpacked(ids, positions, labels)
        classes = classes.to(self.device)
        with self.noisy():
            first = self.logits(texts)
            if not self.shape.r_drop or not self.shape.dropout:
                return classification_losses(first, classes, self.weights).mean()
            second = self.logits(texts)
        return r_drop_loss(first, second, classes, self.weights, self.shape.r_drop)

    def noisy(self) -> _Noisy:
        """Within it the adapters drop inputs; the base model never does."""
        return _Noisy(list(self.layers.values()))

    @torch.no_grad()
    def scores(
        self,
        encoder: PairEncoder,
        pairs: Sequence[tuple[str, str]],
        on_done: Callable[[int], None] = lambda pairs: None,
    ) -> Tensor:
        """Logits (n, 2) of pairs of texts, both orders averaged: z(a, b) = z(b, a) exactly.

        ``on_done`` hears how many pairs were scored since it was called last.
        """
        ordered = [tuple(sorted(pair)) for pair in pairs]
        texts = [encoder.ids(*texts)[0] for a, b in ordered for texts in ((a, b), (b, a))]
        out = torch.zeros(len(pairs), 2)
        for batch in _batches([len(t) for t in texts[::2]]):
            found = self.logits([texts[2 * k + side] for k in batch for side in (0, 1)])
            out[batch] = found.view(-1, 2, 2).mean(1).cpu()
            on_done(len(batch))
        return out

    @torch.no_grad()
    def embeddings(self, encoder: PairEncoder, questions: Sequence[str]) -> Tensor:
        """Mean states (n, d) of single questions, of length 1: near each other where alike."""
        texts = [encoder.tokens(q)[: encoder.max_length] or [self.pad] for q in questions]
        out = torch.zeros(len(texts), self.width)
        for batch in _batches([len(t) for t in texts]):
            out[batch] = self._means([texts[k] for k in batch])
        return nn.functional.normalize(out, dim=1)

    def _means(self, texts: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, texts))
        ids = torch.tensor([[*t, *[self.pad] * (longest - len(t))] for t in texts])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        found = self.inner(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        weight = mask[..., None].float()
        states: Tensor = found.last_hidden_state.float().cpu()
        return (states * weight).sum(1) / weight.sum(1)


class _Noisy:
    """Puts adapters into training for the length of a ``with`` block."""

    def __init__(self, layers: Sequence[MagnitudeLinear]) -> None:
        self.layers = layers

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.training = True

    def __exit__(self, *error: object) -> None:
        for layer in self.layers:
            layer.training = False


def unpacked(ids: Tensor, positions: Tensor, labels: Tensor) -> tuple[list[list[int]], Tensor]:
    """Texts and their classes (B,) from a row that holds them end to end."""
    starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)]
    listed = ids.tolist()
    texts = [listed[a:b] for a, b in pairwise(starts)]
    return texts, labels[labels != IGNORED]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by length, as many at a time as ``BATCH_TOKENS`` padded tokens allow.

    What stands together depends on the lengths alone, so that the same texts give the same numbers.
    """
    order = sorted(range(len(lengths)), key=lambda k: (lengths[k], k))
    batch: list[int] = []
    for k in order:
        if batch and (len(batch) + 1) * 2 * lengths[k] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def opened(
    path: Path, shape: Shape, max_length: int, *, device: torch.device | None = None
) -> tuple[PairModel, PairEncoder]:
    """The pair model on the base model at ``path``, its adapters empty, and what encodes for it.

    Raises:
        ModelError: if the model cannot be used.
    """
    tokenizer = modelload.load_tokenizer(path)
    model = build(path, shape, device=device)
    longest = int(getattr(model.inner.config, "max_position_embeddings", 0) or max_length)
    # RoBERTa's positions begin behind that of the padding.
    longest -= model.pad + 1 if model.inner.config.model_type.endswith("roberta") else 0
    encoder = PairEncoder(tokenizer, encoder=model.encoder, max_length=min(max_length, longest))
    if model.encoder:
        model.separator = int(tokenizer.sep_token_id)
    return model, encoder


def empty_inner(path: Path) -> Any:
    """The model at ``path`` without an output head and without weights.

    Raises:
        ModelError: if the configuration is not usable.
    """
    config = modelload.load_config(path)
    more = {"add_pooling_layer": False} if getattr(config, "type_vocab_size", None) else {}
    with init_empty_weights(include_buffers=False):
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False, **more)


def build(path: Path, shape: Shape, *, device: torch.device | None = None) -> PairModel:
    """Build the pair model on the base model at ``path``, its adapters empty.

    Raises:
        ModelError: if a weight is missing or damaged.
    """
    device = device or torch.device("cpu")
    inner = empty_inner(path)
    weights = modelload.Weights(path, inner)
    scheme = Scheme(shape.bits, shape.group, shape.scheme if shape.bits == 4 else "affine")
    for name, module in modelload.linear_targets(inner).items():
        transposed = not isinstance(module, nn.Linear)
        dense = weights[f"{name}.weight"].to(device)
        stored = QuantizedWeight.from_dense(dense.t() if transposed else dense, scheme)
        bias = weights[f"{name}.bias"].to(device, torch.float32) if has_bias(module) else None
        layer = MagnitudeLinear(stored, bias, transposed=transposed, dropout=shape.dropout)
        put(inner, name, layer)
        del dense
    materialise_rest(inner, weights, device, torch.float32)
    inner.eval()
    encoder = inner.config.model_type in ENCODERS
    return PairModel(inner, encoder=encoder, shape=shape, device=device)
