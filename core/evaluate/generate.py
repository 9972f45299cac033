"""Writing answers with any causal model of ``transformers``, base or tuned.

A small loop of our own: the prompt once, then one token at a time on the key-value cache. It can
be stopped between tokens, streams whole characters only, and takes greedy choices exactly as
``model.generate(do_sample=False)`` does.

Shapes: B answers at once, P prompt tokens (left-padded), v vocabulary.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.data.chat import ChatFormat
from core.data.types import Turn
from core.errors import DataError

OnText = Callable[[str], None]
ShouldStop = Callable[[], object]  # anything true stops
_BROKEN = "\ufffd"  # what a decoder writes for a piece of a character
BATCH = 32  # answers written at once; more hardly take longer than one
_LONGEST_CHARACTER = 8  # tokens; after so many a replacement character is really meant


def _never() -> bool:
    return False


def _unheard(text: str) -> None:
    """Drop the text."""


def answer(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    turns: Sequence[Turn],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_text: OnText = _unheard,
    should_stop: ShouldStop = _never,
) -> str:
    """Write the assistant's next turn.

    Args:
        model: a causal model of ``transformers`` in evaluation mode.
        tokenizer: its tokenizer.
        chat: how the conversation is written.
        turns: the conversation so far, ending with the person's turn. If it is too long for the
            model, the oldest turns are left out.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: draw only from the likeliest tokens that together have this probability.
        seed: of the drawing.
        on_text: called with each new piece of text; the pieces add up to the answer.
        should_stop: asked before each token; if true, the answer ends there.

    Returns:
        The answer, without the token that ends it.

    Raises:
        DataError: if even the last turn alone is too long for the model.
    """
    prompt = fitting_prompt(model, chat, turns)
    room = min(max_new_tokens, _positions(model) - len(prompt))
    generator = torch.Generator().manual_seed(seed)
    stream = TextStream(tokenizer, on_text)
    ids = torch.tensor([prompt], device=_device(model))
    decoding = _Decoding(model, ids, torch.ones_like(ids))
    for step in range(room):
        if should_stop():
            break
        token = choose(decoding.logits[0], temperature, top_p, generator)
        if token in chat.stop_ids:
            break
        stream.put(token)
        if step + 1 < room:
            decoding.step([token])
    return stream.end()


def answers(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    prompts: Sequence[Sequence[Turn]],
    *,
    max_new_tokens: int = 64,
    batch: int = BATCH,
    on_answer: Callable[[int, str], None] = lambda index, text: None,
    should_stop: ShouldStop = _never,
) -> list[str]:
    """Write greedy answers to several conversations, ``batch`` at a time.

    Conversations of like length are put together; an answer that has ended leaves the batch.

    Args:
        model: a causal model of ``transformers`` in evaluation mode.
        tokenizer: its tokenizer.
        chat: how conversations are written.
        prompts: one conversation per answer.
        max_new_tokens: longest answer, in tokens.
        batch: answers written at once.
        on_answer: called with the index and the text of each finished answer.
        should_stop: asked before each token; if true, what is written so far is returned.

    Returns:
        One answer per prompt, in their order.

    Raises:
        DataError: if a prompt is too long for the model.
    """
    encoded = [fitting_prompt(model, chat, turns) for turns in prompts]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    texts = [""] * len(encoded)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        written = _batch(
            model, [encoded[i] for i in group], chat, tokenizer, max_new_tokens, should_stop
        )
        for index, ids in zip(group, written, strict=True):
            texts[index] = decode(tokenizer, ids)
            on_answer(index, texts[index])
        if should_stop():
            break
    return texts


def drawn_answers(
    model: Any,
    prompts: list[list[int]],
    chat: ChatFormat,
    tokenizer: Any,
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    batch: int = BATCH,
) -> list[list[int]]:
    """Draw answers at temperature 1 and return their ids, with the token that ended each.

    Args:
        model: a causal model of ``transformers`` in evaluation mode.
        prompts: ids of the conversations.
        chat: how conversations are written.
        tokenizer: the model's tokenizer.
        max_new_tokens: longest answer, in tokens.
        generator: of the drawing, on the CPU.
        batch: answers written at once.
    """

    def pick(logits: Tensor) -> list[int]:
        odds = torch.softmax(logits.float().cpu(), -1)
        tokens: list[int] = torch.multinomial(odds, 1, generator=generator)[:, 0].tolist()
        return tokens

    found: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        group = prompts[start : start + batch]
        found += _batch(model, group, chat, tokenizer, max_new_tokens, _never, pick, with_end=True)
    return found


def tokens_per_second(
    model: Any, chat: ChatFormat, turns: Sequence[Turn], *, tokens: int = 24, repeats: int = 3
) -> float:
    """How fast a model writes one answer after its prompt: the median of some tries.

    Args:
        model: a causal model of ``transformers`` in evaluation mode.
        chat: how the conversation is written.
        turns: a conversation that ends with the person's turn.
        tokens: written in each try, also past an end.
        repeats: tries, after one that is not counted.

    Raises:
        DataError: if the prompt is too long for the model.
    """
    ids = torch.tensor([fitting_prompt(model, chat, turns)], device=_device(model))
    found = []
    for _ in range(repeats + 1):
        decoding = _Decoding(model, ids, torch.ones_like(ids))
        begun = time.monotonic()
        room = min(tokens, _positions(model) - ids.shape[1])
        for _ in range(room):
            decoding.step(decoding.logits.argmax(-1).tolist())
        found.append(room / max(1e-9, time.monotonic() - begun))
    return statistics.median(found[1:])


def fitting_prompt(model: Any, chat: ChatFormat, turns: Sequence[Turn]) -> list[int]:
    """Return the prompt's ids, without the oldest turns where the model cannot take them all.

    Raises:
        DataError: if the last turn alone is too long.
    """
    limit = _positions(model) - 1
    system = [t for t in turns[:1] if t.role == "system"]
    rest = list(turns[len(system) :])
    while True:
        ids = chat.encode_prompt([*system, *rest])
        if len(ids) <= limit:
            return ids
        later = next((i for i, t in enumerate(rest) if i and t.role == "user"), 0)
        if not later:
            raise DataError(
                f"The question is too long for this model ({len(ids)} of {limit} tokens).",
                action="Shorten the question.",
                code="chat.too_long",
            )
        rest = rest[later:]


def choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Choose the next token from logits (v)."""
    if temperature <= 0:
        return int(logits.argmax())
    odds = torch.softmax(logits.float().cpu() / temperature, -1)
    odds, ids = odds.sort(descending=True)
    # The first token that reaches top_p is still in: its predecessors' sum is below.
    odds[odds.cumsum(-1) - odds >= top_p] = 0
    odds[0] = odds[0].clamp_min(torch.finfo(odds.dtype).tiny)
    return int(ids[torch.multinomial(odds, 1, generator=generator)])


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of answer tokens; a character cut off at the end is left out."""
    stream = TextStream(tokenizer, _unheard)
    for token in ids:
        stream.put(token)
    return stream.end()


class TextStream:
    """Turns tokens into text as they come, whole characters only.

    A token may be a few bytes of a character, and some tokenizers swallow the space of a first
    token: each piece is therefore decoded together with the piece before it.
    """

    def __init__(self, tokenizer: Any, on_text: OnText) -> None:
        """Send pieces of text to ``on_text``."""
        self._tokenizer, self._on_text = tokenizer, on_text
        self._ids: list[int] = []
        self._before, self._sent = 0, 0  # context starts at _before, unsent tokens at _sent
        self._pieces: list[str] = []

    def put(self, token: int) -> None:
        """Take one token; send what has become readable."""
        self._ids.append(token)
        context = self._text(self._ids[self._before : self._sent])
        text = self._text(self._ids[self._before :])
        waiting = len(self._ids) - self._sent
        if text.endswith(_BROKEN) and waiting < _LONGEST_CHARACTER:
            return
        self._send(text[len(context) :])
        self._before, self._sent = self._sent, len(self._ids)

    def end(self) -> str:
        """Send what is left, without a broken last character, and return the whole text."""
        context = self._text(self._ids[self._before : self._sent])
        rest = self._text(self._ids[self._before :])[len(context) :]
        self._send(rest.rstrip(_BROKEN))
        self._before = self._sent = len(self._ids)
        return "".join(self._pieces)

    def _text(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _send(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._on_text(text)


# --- the loop -----------------------------------------------------------------------------------


def _batch(
    model: Any,
    prompts: list[list[int]],
    chat: ChatFormat,
    tokenizer: Any,
    max_new_tokens: int,
    should_stop: ShouldStop,
    pick: Callable[[Tensor], list[int]] = lambda logits: logits.argmax(-1).tolist(),
    *,
    with_end: bool = False,
) -> list[list[int]]:
    """Return the answers' ids for prompts that fit into one batch, greedy unless told otherwise."""
    device, longest = _device(model), max(map(len, prompts))
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    decoding = _Decoding(model, ids, mask)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # row of the batch -> prompt
    room = min(max_new_tokens, _positions(model) - longest)
    for step in range(room):
        if should_stop():
            break
        tokens = pick(decoding.logits)
        going = [k for k, token in enumerate(tokens) if token not in chat.stop_ids]
        for k in range(len(rows)) if with_end else going:
            written[rows[k]].append(tokens[k])
        if not going or step + 1 == room:
            break
        if len(going) < len(rows):
            rows = [rows[k] for k in going]
            decoding.keep(going)
        decoding.step([tokens[k] for k in going])
    return written


class _Decoding:
    """A batch in the middle of being written: the cache and which positions are padding."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor) -> None:
        """Take the prompts: ids and mask (B, P), padded on the left."""
        self._model, self._mask = model, mask
        self._positions = mask.cumsum(-1)[:, -1:]  # (B, 1), of the next token
        first = mask.cumsum(-1).sub(1).clamp_min(0)
        last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}
        self._cache: Any = None
        self.logits = self._forward(ids, first)  # (B, v), of the next token

    def step(self, tokens: list[int]) -> None:
        """Append one token to each answer."""
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], -1)
        self.logits = self._forward(ids, self._positions)
        self._positions = self._positions + 1

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch only."""
        index = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._positions = self._mask[index], self._positions[index]

    @torch.no_grad()
    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _device(model: Any) -> torch.device:
    """Return where the ids belong (a tuned model's embedding may be stored as buffers)."""
    tensors = (*model.parameters(), *model.buffers())
    return next((t.device for t in tensors if t.device.type != "meta"), torch.device("cpu"))


def _positions(model: Any) -> int:
    """Return the longest sequence of the model, in tokens."""
    return int(getattr(model.config, "max_position_embeddings", None) or 2**20)
