"""Own steps hold what the student writes now, drawn the same way each time."""

import torch

from core import modelload
from core.data.chat import ChatFormat
from core.data.packing import Schedule
from core.distill.own import OwnAnswers, writer


def test_own_steps_hold_the_students_answers_and_others_the_classes(deep, encoded, examples):
    found, shared, _ = encoded
    model = modelload.load_dense(deep("llama"), torch.float32)
    tokenizer = modelload.load_tokenizer(deep("llama"))
    chat = ChatFormat.of(tokenizer)
    settings = {"tokens_per_step": 96, "micro_batch_tokens": 96, "seed": 0, "shared": shared}
    write = writer(model, tokenizer, chat, examples, seed=0, longest=6)
    schedule = OwnAnswers(found, own=lambda step: step == 1, write=write, **settings)
    plain = Schedule(found, **settings)
    assert schedule.rows(0) == plain.rows(0)
    rows = schedule.rows(1)
    assert rows == schedule.rows(1)
    assert rows != plain.rows(1)
    members = [i for row in plain.rows(1) for i in row.members]
    prompts = {tuple(chat.encode_prompt(examples[i].prompt)) for i in members}
    for row in rows:
        assert 0 < row.answer_tokens <= 6 * len(row.lengths)
        at = row.shared
        for length in row.lengths:
            labels = row.labels[at : at + length]
            prompt = row.ids[: row.shared] + row.ids[at : at + labels.count(-100)]
            assert tuple(prompt) in prompts
            at += length


def test_drawing_depends_on_the_step(deep, encoded, examples):
    model = modelload.load_dense(deep("llama"), torch.float32)
    tokenizer = modelload.load_tokenizer(deep("llama"))
    chat = ChatFormat.of(tokenizer)
    write = writer(model, tokenizer, chat, examples, seed=0, longest=8)
    assert write(1, [0, 1]) == write(1, [0, 1])
    assert write(1, [0, 1]) != write(2, [0, 1])
