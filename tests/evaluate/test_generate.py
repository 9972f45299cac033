"""Writing answers: the same tokens as transformers, whole characters, batches, stopping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import modelload
from core.data.chat import ChatFormat
from core.data.types import Turn
from core.errors import DataError
from core.evaluate import generate

Tiny = Callable[[str], Path]
QUESTIONS = [
    "What is the capital of France?",
    "学习",
    "user assistant the answer is 42, is it not? " * 3,
    "Hi",
]


def _open(folder: Path) -> tuple[Any, Any, ChatFormat]:
    tokenizer = modelload.load_tokenizer(folder)
    return modelload.load_dense(folder, torch.float32), tokenizer, ChatFormat.of(tokenizer)


def _user(text: str) -> list[Turn]:
    return [Turn("user", text)]


def _reference(model: Any, chat: ChatFormat, question: str, length: int) -> list[int]:
    """What ``generate`` writes, without the prompt and the tokens that end an answer."""
    prompt = torch.tensor([chat.encode_prompt(_user(question))])
    written = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=chat.stop_ids,
        pad_token_id=0,
    )[0, prompt.shape[1] :].tolist()
    return [token for token in written if token not in chat.stop_ids]


def test_greedy_answers_equal_generate(tiny: Tiny, architecture: str) -> None:
    model, tokenizer, chat = _open(tiny(architecture))
    prompts = [_user(question) for question in QUESTIONS]
    references = [_reference(model, chat, question, 24) for question in QUESTIONS]
    expected = [generate.decode(tokenizer, ids) for ids in references]
    single = [
        generate.answer(model, tokenizer, chat, turns, max_new_tokens=24) for turns in prompts
    ]
    assert single == expected
    together = generate.answers(model, tokenizer, chat, prompts, max_new_tokens=24, batch=3)
    assert together == expected


@pytest.mark.parametrize("kind", ["llama", "gemma3"])  # gemma3 has a sliding cache
def test_answers_that_end_early_leave_the_batch(tiny: Tiny, kind: str) -> None:
    model, tokenizer, chat = _open(tiny(kind))
    first = [_reference(model, chat, question, 12) for question in QUESTIONS]
    chat.stop_ids = [*chat.stop_ids, first[0][3], first[2][7]]
    expected = [
        generate.decode(tokenizer, _reference(model, chat, question, 12)) for question in QUESTIONS
    ]
    heard: dict[int, str] = {}
    written = generate.answers(
        model,
        tokenizer,
        chat,
        [_user(question) for question in QUESTIONS],
        max_new_tokens=12,
        on_answer=heard.__setitem__,
    )
    assert written == expected
    assert [heard[i] for i in range(len(QUESTIONS))] == expected
    assert len({len(text) for text in written}) > 1


def test_the_pieces_add_up_and_hold_whole_characters(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("qwen2"))
    pieces: list[str] = []
    text = generate.answer(
        model,
        tokenizer,
        chat,
        _user("学"),
        max_new_tokens=60,
        temperature=1.5,
        seed=3,
        on_text=pieces.append,
    )
    assert "".join(pieces) == text and len(pieces) > 1


@pytest.mark.parametrize("text", ["你好，学习进步！", "naïve café 😀 ok", "日本語とemoji👩‍🏫 x"])
def test_a_character_is_sent_only_when_it_is_whole(tiny: Tiny, text: str) -> None:
    tokenizer = modelload.load_tokenizer(tiny("llama"))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > len(text)  # bytes, not characters
    pieces: list[str] = []
    stream = generate.TextStream(tokenizer, pieces.append)
    for token in ids:
        stream.put(token)
        assert text.startswith("".join(pieces))
    assert stream.end() == text == "".join(pieces)


def test_half_a_character_at_the_end_is_left_out(tiny: Tiny) -> None:
    tokenizer = modelload.load_tokenizer(tiny("llama"))
    ids = tokenizer("ok 中", add_special_tokens=False).input_ids
    assert generate.decode(tokenizer, ids[:-1]) == "ok "


def test_a_meant_replacement_character_does_not_block_the_stream(tiny: Tiny) -> None:
    tokenizer = modelload.load_tokenizer(tiny("llama"))
    text = "a\ufffd" * 12 + "b"
    assert generate.decode(tokenizer, tokenizer(text).input_ids) == text


def test_the_same_seed_draws_the_same_answer(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("qwen3"))

    def draw(seed: int) -> str:
        return generate.answer(
            model, tokenizer, chat, _user("Hi"), max_new_tokens=20, temperature=1.0, seed=seed
        )

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_top_p_leaves_out_the_unlikely() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float) -> set[int]:
        return {generate.choose(logits, 1.0, top_p, generator) for _ in range(400)}

    assert drawn(0.79) == {0, 1}
    assert drawn(0.81) == {0, 1, 2}
    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(0.0) == {0}


def test_drawing_follows_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.25, 0.75]))
    generator = torch.Generator().manual_seed(0)
    ones = sum(generate.choose(logits, 1.0, 1.0, generator) for _ in range(2000))
    assert abs(ones / 2000 - 0.75) < 0.04


def test_stopping_keeps_what_was_written(tiny: Tiny) -> None:
    model, tokenizer, chat = _open(tiny("llama"))
    asked = iter(range(100))
    whole = generate.answer(model, tokenizer, chat, _user("Hi"), max_new_tokens=30)
    part = generate.answer(
        model,
        tokenizer,
        chat,
        _user("Hi"),
        max_new_tokens=30,
        should_stop=lambda: next(asked) >= 5,
    )
    assert whole.startswith(part) and 0 < len(part) < len(whole)


def test_the_oldest_turns_are_left_out_when_it_gets_too_long(tiny: Tiny) -> None:
    model, _, chat = _open(tiny("llama"))
    long = [Turn("user", "x" * 300), Turn("assistant", "y"), Turn("user", "z" * 300)]
    assert generate.fitting_prompt(model, chat, long) == chat.encode_prompt(long[2:])
    with pytest.raises(DataError, match="too long"):
        generate.fitting_prompt(model, chat, _user("x" * 600))


@pytest.mark.slow
def test_the_starter_answers_as_generate_does(starter: Path) -> None:
    model, tokenizer, chat = _open(starter)
    questions = ["What is the capital of France?", "Name the largest planet.", "2+3=?"]
    expected = [generate.decode(tokenizer, _reference(model, chat, q, 24)) for q in questions]
    prompts = [_user(question) for question in questions]
    assert generate.answers(model, tokenizer, chat, prompts, max_new_tokens=24) == expected
    assert generate.answer(model, tokenizer, chat, prompts[0], max_new_tokens=24) == expected[0]
    assert "Paris" in expected[0]
