"""Small tokenizers of the kinds there are, with the chat templates of families."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is the capital of France? The capital of France is Paris.\nuser\nassistant\nsystem\n",
    "Hello there, how are you today? I am fine, thank you very much indeed.",
    "光合作用是什么？光合作用是植物利用光能制造有机物的过程。",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 23456))  # a comment",
] * 4

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + "
    "message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
THINKING = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@cache
def byte_level(template: str, special: tuple[str, ...], bos: str, eos: str) -> Any:
    """Byte-level BPE, as Llama 3, Qwen, SmolLM and GPT-2 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=template or None
    )


@cache
def sentencepiece(
    template: str, special: tuple[str, ...], bos: str, eos: str, *, scheme: str, rstrip: bool
) -> Any:
    """BPE over text whose spaces are ``▁``; ``scheme`` says where one is put before a text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="▁", prepend_scheme=scheme, split=False
        )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))],
        max_token_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(c.split()) for c in CORPUS], trainer)
    # bytes are ordinary tokens of the vocabulary, not added ones
    tokenizer = Tokenizer.from_str(
        json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": []})
    )
    marks = [AddedToken(s, special=True, normalized=False, rstrip=rstrip) for s in special]
    tokenizer.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>",
        chat_template=template or None,
    )


def _thinking() -> Any:
    tokenizer = byte_level(THINKING, ("<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_end|>")
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>")])
    return tokenizer


def families() -> dict[str, Any]:
    """Return a tokenizer with its chat template for each family."""
    chatml = ("<|im_start|>", "<|im_end|>")
    llama3 = ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end|>")
    gemma = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
    phi3 = ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
    glm = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>")
    return {
        "chatml": byte_level(CHATML, chatml, *chatml),
        "llama3": byte_level(LLAMA3, llama3, "<|begin|>", "<|eot_id|>"),
        "gemma": sentencepiece(GEMMA, gemma, "<bos>", "<eos>", scheme="never", rstrip=False),
        "phi3": sentencepiece(PHI3, phi3, "<s>", "<|endoftext|>", scheme="legacy", rstrip=True),
        "glm": byte_level(GLM, glm, "[gMASK]", "<|endoftext|>"),
        "llama2": sentencepiece(
            LLAMA2, ("<s>", "</s>"), "<s>", "</s>", scheme="first", rstrip=False
        ),
        "thinking": _thinking(),
    }
