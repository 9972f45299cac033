"""The quiz: losses as transformers counts them, and an honest comparison."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import modelload
from core.data.chat import ChatFormat
from core.data.types import Example, Turn
from core.errors import DataError
from core.evaluate import quiz
from core.events import Event, PhaseChanged

Tiny = Callable[[str], Path]
EXAMPLES = [
    Example.pair("What is the capital of France?", "Paris.", "row 2"),
    Example.pair("你好", "学习进步", "row 3"),
    Example(
        (
            Turn("system", "Be short."),
            Turn("user", "Hi"),
            Turn("assistant", "Hello"),
            Turn("user", "Bye"),
            Turn("assistant", "See you"),
        ),
        "row 4",
    ),
    Example.pair("What is it?", "the answer is the answer " * 4, "row 5"),
]


def _open(folder: Path) -> tuple[Any, Any, ChatFormat]:
    tokenizer = modelload.load_tokenizer(folder)
    return modelload.load_dense(folder, torch.float32), tokenizer, ChatFormat.of(tokenizer)


def test_losses_equal_the_loss_of_transformers(tiny: Tiny, architecture: str) -> None:
    model, tokenizer, chat = _open(tiny(architecture))
    found = quiz.example_losses(model, tokenizer, chat, EXAMPLES, max_length=256, batch_tokens=200)
    for example, result in zip(EXAMPLES, found, strict=True):
        encoded = chat.encode(example, 256)
        ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
        with torch.no_grad():
            expected = model(input_ids=ids, labels=labels).loss
        assert result is not None
        assert result[1] == int((labels[:, 1:] != -100).sum())
        assert result[0] / result[1] == pytest.approx(float(expected), rel=1e-4)


def test_marks_are_json_and_count_all_examples(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("llama"))
    events: list[Event] = []
    result = quiz.mark(
        model, tokenizer, chat, EXAMPLES, questions=2, max_new_tokens=8, emit=events.append
    )
    assert json.loads(json.dumps(result)) == result
    assert result["examples"] == 4 and len(result["answers"]) == 2
    assert (
        result["answers"][0]["reference"] == "Paris." and result["answers"][0]["where"] == "row 2"
    )
    total = sum(loss["nll"] for loss in result["losses"])
    assert result["nll"] == pytest.approx(total / result["tokens"])
    assert result["perplexity"] == pytest.approx(math.exp(result["nll"]))
    assert result["marks"] == pytest.approx(100 * result["rouge_l"])
    shares = [e.share for e in events if isinstance(e, PhaseChanged)]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_without_written_answers_there_are_losses_only(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("llama"))
    result = quiz.mark(model, tokenizer, chat, EXAMPLES, questions=0)
    assert result["rouge_l"] is None and result["answers"] == [] and result["nll"] > 0
    comparison = quiz.compare(result, result)
    assert comparison["rouge_l"] is None and comparison["nll"]["difference"] == 0


def test_what_does_not_fit_is_left_out_and_counted(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("llama"))
    long = Example.pair("x" * 300, "y")
    result = quiz.mark(model, tokenizer, chat, [*EXAMPLES, long], questions=0, max_length=200)
    assert (result["examples"], result["left_out"]) == (4, 1)
    assert result["losses"][-1] is None
    with pytest.raises(DataError, match="no question"):
        quiz.mark(model, tokenizer, chat, [long], questions=0, max_length=200)


def test_a_stopped_quiz_keeps_the_answers_it_has(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("llama"))
    asked = iter(range(1000))
    result = quiz.mark(
        model,
        tokenizer,
        chat,
        EXAMPLES,
        questions=4,
        max_new_tokens=6,
        batch=1,
        should_stop=lambda: next(asked) >= 10,
    )
    assert 0 < len(result["answers"]) < 4


def _result(losses: list[float], rouges: list[float]) -> dict[str, Any]:
    answers = [
        {"question": f"q{i}", "reference": "r", "answer": f"a{r}", "where": "", "rouge_l": r}
        for i, r in enumerate(rouges)
    ]
    return {
        "nll": sum(losses) / (10 * len(losses)),
        "losses": [{"nll": x, "tokens": 10} for x in losses],
        "marks": 100 * sum(rouges) / len(rouges),
        "answers": answers,
    }


def test_a_steady_gain_is_clear_and_a_mixed_one_is_not() -> None:
    base = _result([20.0, 30.0, 25.0, 22.0] * 5, [0.1, 0.5, 0.4, 0.2])
    better = _result([15.0, 24.0, 21.0, 17.0] * 5, [0.6, 0.5, 0.1, 0.3])
    found = quiz.compare(base, better)
    assert found["nll"]["difference"] == pytest.approx(-0.5)
    low, high = found["nll"]["interval"]
    assert low < -0.5 < high < 0 and found["nll"]["clear"]
    assert [m["question"] for m in found["better"]] == ["q0", "q3"]
    assert [m["question"] for m in found["worse"]] == ["q2"]
    assert found["same"] == 1 and not found["rouge_l"]["clear"]
    assert found["marks"]["difference"] == pytest.approx(7.5)


def test_different_quizzes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different examples"):
        quiz.compare(_result([1.0], [0.1]), _result([1.0, 2.0], [0.1, 0.2]))
    other = _result([1.0], [0.1])
    other["answers"][0]["question"] = "else"
    with pytest.raises(ValueError, match="different questions"):
        quiz.compare(_result([1.0], [0.1]), other)
