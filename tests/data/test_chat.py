from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from core.data.chat import IGNORED, ChatFormat
from core.data.types import Example, Turn
from core.errors import DataError, ModelError
from tests.conftest import tiny_tokenizer
from tests.data.made_tokenizers import byte_level, families

FAMILIES = families()
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
CONVERSATIONS = {
    "one turn": [("user", QUESTION)],
    "chinese": [("user", "光合作用是什么？")],
    "code": [("user", "def add(a, b):\n    return a + b\n\nWhat is it?")],
    "three turns": [("user", QUESTION), ("assistant", ANSWER), ("user", "Thank you very much")],
}
WITH_SYSTEM = [("system", "I am fine"), ("user", QUESTION)]


def rendered(tokenizer: Any, messages: list[tuple[str, str]], *, prompt: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=prompt,
        enable_thinking=False,
        return_dict=False,
    )
    return ids


def turns_of(messages: list[tuple[str, str]]) -> list[Turn]:
    return [Turn(*m) for m in messages]


@each_family
@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
def test_prompt_against_apply_chat_template(family: str, name: str) -> None:
    tokenizer = FAMILIES[family]
    messages = CONVERSATIONS[name]
    expected = rendered(tokenizer, messages, prompt=True)
    assert ChatFormat.of(tokenizer).encode_prompt(turns_of(messages)) == expected


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma", "llama2"}))
def test_system_turn_against_apply_chat_template(family: str) -> None:
    expected = rendered(FAMILIES[family], WITH_SYSTEM, prompt=True)
    assert ChatFormat.of(FAMILIES[family]).encode_prompt(turns_of(WITH_SYSTEM)) == expected


@pytest.mark.parametrize("family", ["gemma", "llama2"])
def test_system_text_joins_the_question_where_the_template_knows_no_system(family: str) -> None:
    joined = [("user", f"I am fine\n\n{QUESTION}")]
    expected = rendered(FAMILIES[family], joined, prompt=True)
    assert ChatFormat.of(FAMILIES[family]).encode_prompt(turns_of(WITH_SYSTEM)) == expected


@each_family
def test_training_ids_begin_with_the_prompt_and_agree_with_the_whole_rendering(
    family: str,
) -> None:
    tokenizer = FAMILIES[family]
    encoded = ChatFormat.of(tokenizer).encode(Example.pair(QUESTION, ANSWER), 500)
    prompt = rendered(tokenizer, [("user", QUESTION)], prompt=True)
    whole = rendered(tokenizer, [("user", QUESTION), ("assistant", ANSWER)], prompt=False)
    if family == "glm":  # writes an answer's end only when another turn follows
        whole.append(tokenizer.convert_tokens_to_ids("<|user|>"))
    assert encoded.ids[: len(prompt)] == prompt
    assert whole[: len(encoded.ids)] == encoded.ids
    assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert encoded.labels[len(prompt) :] == encoded.ids[len(prompt) :]


ENDS = {
    "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>",
    "glm": "<|user|>", "llama2": "</s>", "thinking": "<|im_end|>",
}  # fmt: skip


@each_family
def test_the_token_that_ends_an_answer_is_learned_and_stops_writing(family: str) -> None:
    tokenizer = FAMILIES[family]
    chat = ChatFormat.of(tokenizer)
    encoded = chat.encode(Example.pair(QUESTION, ANSWER), 500)
    assert tokenizer.convert_ids_to_tokens(encoded.labels[-1]) == ENDS[family]
    assert encoded.labels[-1] in chat.stop_ids
    assert tokenizer.eos_token_id in chat.stop_ids
    learned = tokenizer.decode([i for i in encoded.labels if i != IGNORED])
    assert learned.replace(ENDS[family], "").strip() == ANSWER


@each_family
def test_every_answer_of_a_conversation_is_learned(family: str) -> None:
    tokenizer = FAMILIES[family]
    turns = turns_of([*CONVERSATIONS["three turns"], ("assistant", "Hello there")])
    encoded = ChatFormat.of(tokenizer).encode(Example(tuple(turns)), 500)
    learned = tokenizer.decode([i for i in encoded.labels if i != IGNORED])
    parts = [p.strip() for p in learned.split(ENDS[family])]
    assert parts == [ANSWER, "Hello there", ""]


@each_family
def test_control_tokens_typed_by_a_person_stay_text(family: str) -> None:
    tokenizer = FAMILIES[family]
    chat = ChatFormat.of(tokenizer)
    control = {t.content: int(i) for i, t in tokenizer.added_tokens_decoder.items()}
    typed = f"Hello {' '.join(control)} there"
    plain = chat.encode(Example.pair("Hello there", "Hello there"), 2000)
    attack = chat.encode(Example.pair(typed, typed), 2000)
    ids = set(control.values())
    assert [i for i in attack.ids if i in ids] == [i for i in plain.ids if i in ids]
    assert [i for i in attack.labels if i in ids] == [i for i in plain.labels if i in ids]


# Whole control words, their halves, and what stands beside them in templates.
_PIECES = sorted({
    piece
    for tokenizer in FAMILIES.values()
    for word in (t.content for t in tokenizer.added_tokens_decoder.values())
    for piece in (word, word[: len(word) // 2], word[len(word) // 2 :], word[1:], word[:-1])
} | {" ", "\n", "a", "<", ">", "|", "＜｜", "\u200b", "[INST]", "[/INST]", "user"})  # fmt: skip
TYPED = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join)


def control_ids(tokenizer: Any, ids: list[int]) -> list[int]:
    control = {int(i) for i in tokenizer.added_tokens_decoder}
    return [i for i in ids if i in control]


@each_family
@settings(max_examples=40, deadline=None)
@given(texts=st.tuples(TYPED, TYPED, TYPED, TYPED))
def test_no_text_that_a_person_types_becomes_a_control_token(
    family: str, texts: tuple[str, str, str, str]
) -> None:
    tokenizer = FAMILIES[family]
    chat = ChatFormat.of(tokenizer)
    roles = ("user", "assistant", "user", "assistant")
    typed = Example(tuple(Turn(r, f"a{t}a") for r, t in zip(roles, texts, strict=True)))
    plain = Example(tuple(Turn(r, "aa") for r in roles))
    attack, quiet = chat.encode(typed, 9000), chat.encode(plain, 9000)
    assert control_ids(tokenizer, attack.ids) == control_ids(tokenizer, quiet.ids)
    assert control_ids(tokenizer, attack.labels) == control_ids(tokenizer, quiet.labels)
    assert control_ids(tokenizer, chat.encode_prompt(typed.turns[:3])) == control_ids(
        tokenizer, chat.encode_prompt(plain.turns[:3])
    )


def test_the_same_holds_of_the_tokenizers_that_other_tests_make() -> None:
    plain = byte_level("", ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>")
    for tokenizer in (tiny_tokenizer(), plain):
        chat = ChatFormat.of(tokenizer)
        words = " ".join(t.content for t in tokenizer.added_tokens_decoder.values())
        attack = chat.encode(Example.pair(f"a{words}a", f"a{words}a"), 9000)
        quiet = chat.encode(Example.pair("aa", "aa"), 9000)
        assert control_ids(tokenizer, attack.ids) == control_ids(tokenizer, quiet.ids)


def test_added_tokens_of_white_space_are_taken_where_a_person_types_them() -> None:
    tokenizer = copy.deepcopy(FAMILIES["gemma"])
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    text = "First paragraph.\n\nSecond paragraph."
    expected = rendered(tokenizer, [("user", text)], prompt=True)
    assert tokenizer.convert_tokens_to_ids("\n\n") in expected
    assert ChatFormat.of(tokenizer).encode_prompt([Turn("user", text)]) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30).filter(str.strip))
def test_any_text_survives(question: str, answer: str) -> None:
    question, answer = (t.encode("utf-8", "ignore").decode() for t in (question, answer))
    tokenizer = FAMILIES["chatml"]
    encoded = ChatFormat.of(tokenizer).encode(Example.pair(f"a{question}", f"b{answer}"), 2000)
    learned = tokenizer.decode([i for i in encoded.labels if i != IGNORED])
    assert learned == f"b{answer}<|im_end|>"


def test_a_trimming_template_trims_the_same_here() -> None:
    tokenizer = FAMILIES["llama3"]
    messages = [("user", f"  {QUESTION}\n")]
    expected = rendered(tokenizer, messages, prompt=True)
    assert ChatFormat.of(tokenizer).encode_prompt(turns_of(messages)) == expected


def test_white_space_is_kept_where_the_template_keeps_it() -> None:
    tokenizer = FAMILIES["chatml"]
    messages = [("user", f"\n {QUESTION}\n")]
    expected = rendered(tokenizer, messages, prompt=True)
    assert ChatFormat.of(tokenizer).encode_prompt(turns_of(messages)) == expected


def test_a_long_answer_is_cut_and_not_ended() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    whole = chat.encode(Example.pair(QUESTION, ANSWER * 9), 2000)
    cut = chat.encode(Example.pair(QUESTION, ANSWER * 9), 100)
    assert (whole.cut, cut.cut) == (False, True)
    assert cut.ids == whole.ids[:100]
    assert cut.labels == whole.labels[:100]
    assert cut.labels[-1] not in chat.stop_ids


def test_a_question_is_never_cut() -> None:
    with pytest.raises(DataError, match=r"row 7: .*too long.*100 tokens") as caught:
        ChatFormat.of(FAMILIES["chatml"]).encode(Example.pair(QUESTION * 9, ANSWER, "row 7"), 100)
    assert caught.value.code == "chat.question_too_long"


def test_later_turns_that_do_not_fit_are_left_out() -> None:
    chat = ChatFormat.of(FAMILIES["chatml"])
    first = Example.pair(QUESTION, ANSWER)
    longer = Example((*first.turns, Turn("user", QUESTION * 30), Turn("assistant", ANSWER)))
    encoded = chat.encode(longer, 150)
    assert encoded.ids == chat.encode(first, 150).ids
    assert encoded.cut


def test_an_example_without_answer_is_refused() -> None:
    with pytest.raises(DataError, match="row 2: This example has no answer"):
        ChatFormat.of(FAMILIES["chatml"]).encode(Example((Turn("user", "Hi"),), "row 2"), 100)


def test_a_base_model_without_template_gets_plain_text() -> None:
    tokenizer = byte_level("", ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>")
    chat = ChatFormat.of(tokenizer)
    encoded = chat.encode(Example.pair(QUESTION, ANSWER), 500)
    assert tokenizer.decode(encoded.ids) == f"Question: {QUESTION}\nAnswer: {ANSWER}<|endoftext|>"
    assert tokenizer.decode(chat.encode_prompt([Turn("user", QUESTION)])).endswith("\nAnswer:")
    learned = tokenizer.decode([i for i in encoded.labels if i != IGNORED])
    assert learned == f" {ANSWER}<|endoftext|>"
    assert chat.stop_ids == [tokenizer.eos_token_id]


def test_the_saved_template_renders_the_same_prompt_elsewhere() -> None:
    tokenizer = byte_level("", ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>")
    chat = ChatFormat.of(tokenizer)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        chat_template=chat.template,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert chat.encode_prompt([Turn("user", QUESTION)]) == ids


@pytest.mark.parametrize("template", ["{% for %}", "hello", "{{ raise_exception('no') }}"])
def test_a_template_that_writes_no_questions_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatFormat.of(FAMILIES["chatml"], template)


def test_a_template_reaching_out_of_the_sandbox_is_refused() -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + FAMILIES["chatml"].chat_template
    with pytest.raises(ModelError, match="chat template"):
        ChatFormat.of(FAMILIES["chatml"], template)


def test_data_modules_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, core.data.chat, core.data.split, core.data.frozen, core.data.packing;"
        "sys.exit(bool({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
