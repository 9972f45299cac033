"""The whole health check of a class, as the helper process does it: findings, rows, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core.config import RunConfig
from core.data.health import examine
from core.data.health.lengths import forecast
from core.data.health.report import MOST_LISTED, Tick
from core.data.split import split
from core.data.trainable import nothing_to_learn
from core.data.types import Example
from core.errors import ModelError, StudioError
from core.events import Emit, PhaseChanged

if TYPE_CHECKING:
    from core.data.chat import ChatFormat

# What the check is doing (the detail of its progress), and the share of it that is done before.
# The first two take seconds, whatever the class; of a large class they are little.
STEPS = {"read": 0.0, "model": 0.08, "split": 0.3, "rows": 0.35, "lengths": 0.65}


def tell(emit: Emit, step: str, done: float = 0.0) -> None:
    """Say how far a step of the check is.

    Args:
        emit: is told; what it raises ends the work.
        step: a key of ``STEPS``.
        done: share of the step, 0..1.
    """
    later = [start for start in STEPS.values() if start > STEPS[step]]
    end = min(later, default=1.0)
    emit(PhaseChanged("health", STEPS[step] + (end - STEPS[step]) * done, step))


def examination(config: RunConfig, examples: Sequence[Example], emit: Emit) -> dict[str, Any]:
    """Look through a class with the chosen model's tokenizer.

    Args:
        config: the model, the quiz and the longest example.
        examples: the class.
        emit: is told how far it is; what it raises ends the work.

    Returns:
        ``counts``; ``findings``, each a problem with ``count`` and ``rows`` (places); ``tokens``
        (see :meth:`Forecast.to_json`, with the tokenizer's ``control`` tokens) and ``refusal``, the
        problem of a class that teaches nothing. Without a usable model ``tokens`` is ``None`` and
        ``model_problem`` says why.
    """
    chat, control, missing = None, [], None
    tell(emit, "model")
    try:
        chat = _chat(config.model)
        control = [t.content for t in chat.tokenizer.added_tokens_decoder.values() if t.special]
    except StudioError as error:
        missing = error.problem.to_json()
    d = config.data
    tell(emit, "split")
    sides = split(examples, share=d.quiz_share, largest=d.max_quiz, seed=config.train.seed)
    report = examine(
        examples, split=sides, tokens=control, tick=partial(tell, emit, "rows")
    ).to_json(examples)
    answer = {**report, "tokens": None, "refusal": None, "model_problem": missing}
    if chat is not None:
        answer |= _lengths(config, chat, examples, partial(tell, emit, "lengths"))
        # what is too long is known to the token now, not by a rule of thumb
        told = [f for f in answer["findings"] if f["code"] != "health.long"]
        answer["findings"] = [*told, *answer.pop("cut")]
        answer["tokens"]["control"] = control
    return answer


def _chat(model: str) -> ChatFormat:
    from core.data.chat import ChatFormat
    from core.modelload import load_tokenizer
    from core.models import ensure_local, resolve

    info = resolve(model)
    if not info.ready:  # a look at a class is no reason to convert or to download a model
        raise ModelError(
            "The chosen model is not ready on this computer yet.",
            action="Lengths are counted once a plan was made with it.",
            code="model.not_ready",
        )
    return ChatFormat.of(load_tokenizer(ensure_local(info)))


def _lengths(
    config: RunConfig, chat: ChatFormat, examples: Sequence[Example], tick: Tick
) -> dict[str, Any]:
    found = forecast(chat, examples, config.train.max_length, tick)
    tokens = found.to_json(examples)
    rows = {"tokens.truncated": list(tokens["truncated"]), "tokens.no_room": tokens["no_room"]}
    cut = [
        {**p.to_json(), "count": len(rows[p.code]), "rows": rows[p.code][:MOST_LISTED]}
        for p in found.problems(examples)
    ]
    refusal = None
    if not found.teaching:
        refused = len(found.refused) + len(found.unwritable)
        empty = len(examples) - refused
        error = nothing_to_learn(empty=empty, refused=refused, limit=found.limit)
        refusal = error.problem.to_json()
    return {"tokens": tokens, "cut": cut, "refusal": refusal}
