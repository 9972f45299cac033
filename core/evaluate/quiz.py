"""The quiz: how well a model answers held-out questions, and base against tuned.

Two kinds of marks. *Loss*: the negative log-likelihood (nats) of every token of the right answer,
over all examples; precise with few questions. *Writing*: the model answers the first questions
itself, greedily, and each answer is compared with the right one.

A teacher's mark is ``100 x mean ROUGE-L F1`` of the written answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.data.chat import IGNORED, ChatFormat
from core.data.types import Example
from core.errors import DataError
from core.evaluate import metrics
from core.evaluate.generate import BATCH, answers
from core.events import Emit, PhaseChanged
from core.modelload import hidden_states, logits_of

LOGIT_ROWS = 64  # answer tokens whose logits exist at once: 64 x 150 000 x 4 bytes = 38 MB
CLEAR_DIFFERENCE = 0.05  # ROUGE-L; less is neither better nor worse
ShouldStop = Callable[[], object]


def mark(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    examples: Sequence[Example],
    *,
    questions: int = 24,
    max_new_tokens: int = 64,
    max_length: int = 1024,
    batch: int = BATCH,
    batch_tokens: int = 1024,
    emit: Emit = lambda event: None,
    should_stop: ShouldStop = lambda: False,
) -> dict[str, Any]:
    """Mark a model on held-out examples.

    Args:
        model: a causal model of ``transformers`` in evaluation mode, base or tuned.
        tokenizer: its tokenizer.
        chat: how conversations are written.
        examples: the quiz.
        questions: how many of them, from the first, are answered in writing.
        max_new_tokens: longest written answer, in tokens.
        max_length: longest example for the loss, in tokens; longer answers are cut.
        batch: answers written at once.
        batch_tokens: tokens of one forward pass for the loss, padding included.
        emit: hears how far it is.
        should_stop: asked before each token; if true, what is marked so far is returned.

    Returns:
        ``nll`` (nats per answer token), ``perplexity``, ``tokens``, ``examples``, ``left_out``
        (too long to be asked), ``losses[]`` (``nll`` sum and ``tokens`` of each example) and, if
        anything was written, ``rouge_l`` and ``exact_match`` and ``cer`` (means, 0..1), ``bleu``
        (0..100), ``marks`` (0..100) and ``answers[]``; otherwise these are None and empty.

    Raises:
        DataError: if no example can be asked.
    """
    losses = example_losses(
        model,
        tokenizer,
        chat,
        examples,
        max_length=max_length,
        batch_tokens=batch_tokens,
        on_done=lambda share: emit(PhaseChanged("quiz", 0.5 * share, "loss")),
    )
    asked = [loss for loss in losses if loss is not None]
    if not asked:
        raise DataError(
            "The quiz has no question that can be asked.",
            where="quiz",
            action="Keep more questions for the quiz, or shorten them.",
            code="quiz.empty",
        )
    tokens = sum(count for _, count in asked)
    nll = sum(loss for loss, _ in asked) / tokens
    written = written_answers(
        model,
        tokenizer,
        chat,
        examples[:questions],
        max_new_tokens=max_new_tokens,
        batch=batch,
        should_stop=should_stop,
        on_done=lambda share: emit(PhaseChanged("quiz", 0.5 + 0.5 * share, "answers")),
    )
    return {
        "nll": nll,
        "perplexity": math.exp(min(nll, 700.0)),
        "tokens": tokens,
        "examples": len(asked),
        "left_out": len(losses) - len(asked),
        "losses": [None if x is None else {"nll": x[0], "tokens": x[1]} for x in losses],
        **_writing_marks(written),
        "answers": written,
    }


def example_losses(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    examples: Sequence[Example],
    *,
    max_length: int,
    batch_tokens: int = 1024,
    on_done: Callable[[float], None] = lambda share: None,
) -> list[tuple[float, int] | None]:
    """Return, for each example, the summed loss (nats) of its answer tokens and their number.

    None where the question leaves no room for its answer in ``max_length`` tokens.
    """
    encoded: dict[int, tuple[list[int], list[int]]] = {}
    for i, example in enumerate(examples):
        try:
            one = chat.encode(example, max_length)
        except DataError:
            continue  # counted as left out
        if any(label != IGNORED for label in one.labels[1:]):
            encoded[i] = one.ids, one.labels
    found: list[tuple[float, int] | None] = [None] * len(examples)
    order = sorted(encoded, key=lambda i: len(encoded[i][0]))
    for group in _groups([(i, len(encoded[i][0])) for i in order], batch_tokens):
        sums = _batch_losses(model, tokenizer, [encoded[i] for i in group])
        for i, result in zip(group, sums, strict=True):
            found[i] = result
        on_done((order.index(group[-1]) + 1) / len(order))
    return found


def _groups(lengths: Sequence[tuple[int, int]], batch_tokens: int) -> list[list[int]]:
    """Put neighbours together while the padded batch stays within ``batch_tokens``."""
    groups: list[list[int]] = []
    for index, length in lengths:  # ascending, so the newest is the longest
        if groups and length * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@torch.no_grad()
def _batch_losses(
    model: Any, tokenizer: Any, encoded: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[float, int]]:
    """Loss sums and token counts of a batch; padded on the right, where nothing looks at it."""
    longest, pad = max(len(ids) for ids, _ in encoded), tokenizer.pad_token_id or 0
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    rows = [ids + [pad] * (longest - len(ids)) for ids, _ in encoded]
    targets = [
        labels[1:] + [IGNORED] * (longest - len(labels) + 1) for _, labels in encoded
    ]  # row t predicts token t+1
    hidden = hidden_states(model, torch.tensor(rows, device=device))  # (B, T, d)
    wanted = torch.tensor(targets, device=device)
    learned = wanted != IGNORED
    losses = _token_losses(model, hidden[learned], wanted[learned])
    per_example = torch.split(losses, learned.sum(1).tolist())
    return [(float(part.sum()), part.numel()) for part in per_example]


def _token_losses(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Loss (N) in double precision of targets (N) from hidden states (N, d), in pieces."""
    pieces = [
        torch.nn.functional.cross_entropy(
            logits_of(model, hidden[k : k + LOGIT_ROWS]).float(),
            targets[k : k + LOGIT_ROWS],
            reduction="none",
        )
        for k in range(0, len(targets), LOGIT_ROWS)
    ]
    return torch.cat(pieces).double().cpu()


def written_answers(
    model: Any,
    tokenizer: Any,
    chat: ChatFormat,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch: int = BATCH,
    on_done: Callable[[float], None] = lambda share: None,
    should_stop: ShouldStop = lambda: False,
) -> list[dict[str, Any]]:
    """Let the model answer in writing and mark each answer.

    Returns:
        One record per example answered: ``question, reference, answer, where, rouge_l,
        exact_match, cer``.
    """
    done: dict[int, str] = {}

    def on_answer(index: int, text: str) -> None:
        done[index] = text
        on_done(len(done) / len(examples))

    prompts = [example.prompt for example in examples]
    answers(
        model,
        tokenizer,
        chat,
        prompts,
        max_new_tokens=max_new_tokens,
        batch=batch,
        on_answer=on_answer,
        should_stop=should_stop,
    )
    return [_marked(examples[i], done[i].strip()) for i in sorted(done)]


def _marked(example: Example, text: str) -> dict[str, Any]:
    return {
        "question": example.question,
        "reference": example.answer,
        "answer": text,
        "where": example.where,
        "rouge_l": metrics.rouge_l(text, example.answer),
        "exact_match": metrics.exact_match(text, example.answer),
        "cer": metrics.cer(text, example.answer),
    }


def _writing_marks(written: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    if not written:
        return dict.fromkeys(("rouge_l", "bleu", "exact_match", "cer", "marks"))
    rouge = _mean([w["rouge_l"] for w in written])
    return {
        "rouge_l": rouge,
        "bleu": metrics.bleu4([w["answer"] for w in written], [w["reference"] for w in written]),
        "exact_match": _mean([float(w["exact_match"]) for w in written]),
        "cer": _mean([w["cer"] for w in written]),
        "marks": 100 * rouge,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- base against tuned -------------------------------------------------------------------------


def compare(base: dict[str, Any], tuned: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Compare two results of :func:`mark` on the same examples, question by question.

    Returns:
        ``nll`` and ``rouge_l`` (None without written answers): each ``base``, ``tuned``,
        ``difference`` (tuned - base), ``interval`` (95 %, paired bootstrap over questions) and
        ``clear`` (the interval excludes zero); ``marks`` of both and their ``difference``;
        ``better[]`` and ``worse[]`` (the answers whose ROUGE-L moved by more than 0.05, the
        largest move first) and ``same``, the number of the others.

    Raises:
        ValueError: if the two were not marked on the same examples.
    """
    if len(base["losses"]) != len(tuned["losses"]):
        raise ValueError("base and tuned were marked on different examples")
    pairs = [
        (tuned_loss["nll"] - base_loss["nll"], base_loss["tokens"])
        for base_loss, tuned_loss in zip(base["losses"], tuned["losses"], strict=True)
        if base_loss and tuned_loss
    ]
    interval = metrics.bootstrap_interval(
        [d for d, _ in pairs], [float(n) for _, n in pairs], seed=seed
    )
    written = list(zip(base["answers"], tuned["answers"], strict=False))
    moves = [_move(a, b) for a, b in written]
    clear = [m for m in moves if abs(m["difference"]) > CLEAR_DIFFERENCE]
    clear.sort(key=lambda m: -abs(m["difference"]))
    return {
        "nll": _difference(base["nll"], tuned["nll"], interval),
        "rouge_l": _rouge_difference(moves, seed) if moves else None,
        "marks": _marks_difference(base, tuned) if moves else None,
        "better": [m for m in clear if m["difference"] > 0],
        "worse": [m for m in clear if m["difference"] < 0],
        "same": len(moves) - len(clear),
    }


def _move(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    if base["question"] != tuned["question"]:
        raise ValueError("base and tuned answered different questions")
    return {
        "question": base["question"],
        "reference": base["reference"],
        "where": base["where"],
        "base": base["answer"],
        "tuned": tuned["answer"],
        "base_rouge_l": base["rouge_l"],
        "tuned_rouge_l": tuned["rouge_l"],
        "difference": tuned["rouge_l"] - base["rouge_l"],
    }


def _rouge_difference(moves: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    interval = metrics.bootstrap_interval([m["difference"] for m in moves], seed=seed)
    base = _mean([m["base_rouge_l"] for m in moves])
    return _difference(base, _mean([m["tuned_rouge_l"] for m in moves]), interval)


def _marks_difference(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, float]:
    a, b = float(base["marks"]), float(tuned["marks"])
    return {"base": a, "tuned": b, "difference": b - a}


def _difference(base: float, tuned: float, interval: tuple[float, float]) -> dict[str, Any]:
    low, high = interval
    return {
        "base": base,
        "tuned": tuned,
        "difference": tuned - base,
        "interval": [low, high],
        "clear": low > 0 or high < 0,
    }
