"""What is kept of a teacher is what it says, and is kept for that teacher and class alone."""

import pytest
import torch

from core.assemble import shifted
from core.dense import DenseModel
from core.distill import teacher as module
from core.distill.teacher import answer_counts, cached, row_answers


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refuse():
    raise AssertionError("the teacher was asked again")


def ask(deep, encoded, teacher, *, k=8, temperature=2.0):
    found, shared, _ = encoded
    return cached(
        teacher,
        deep("llama"),
        found,
        shared=shared,
        k=k,
        temperature=temperature,
        vocabulary=300,
        row_tokens=96,
    )


@pytest.fixture
def teacher(deep):
    return DenseModel.load(deep("llama"), torch.float32, torch.device("cpu"))


def test_a_rows_answers_come_back_as_the_teacher_gave_them(deep, encoded, teacher, home):
    kept = ask(deep, encoded, lambda: teacher)
    for row in encoded[2]:
        ids, logs = kept.of_row(row)
        wanted_ids, wanted = row_answers(teacher, row, 8, 2.0, 300)
        assert sum(answer_counts(row)) == len(ids)
        assert torch.equal(ids, wanted_ids)
        assert torch.allclose(logs, wanted, atol=2e-3)  # half precision
        assert torch.allclose(logs.exp().sum(-1), torch.ones(len(ids)), atol=1e-5)


def test_another_order_of_the_examples_finds_the_same(deep, encoded, teacher, home):
    from core.data.packing import make_row

    found, shared, _ = encoded
    kept = ask(deep, encoded, lambda: teacher)
    row = make_row(found, [5, 1, 3], shared)
    ids, logs = kept.of_row(row)
    wanted_ids, wanted = row_answers(teacher, row, 8, 2.0, 300)
    assert torch.equal(ids, wanted_ids)
    assert torch.allclose(logs, wanted, atol=2e-3)


def test_it_is_asked_once(deep, encoded, teacher, home):
    first = ask(deep, encoded, lambda: teacher)
    second = ask(deep, encoded, refuse)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.logs, second.logs)
    kept_token_bytes = first.ids.element_size() + first.logs.element_size()
    assert kept_token_bytes == 6


def test_another_temperature_number_or_class_is_another_question(deep, encoded, teacher, home):
    ask(deep, encoded, lambda: teacher)
    for other in ({"temperature": 1.0}, {"k": 9}):
        with pytest.raises(AssertionError, match="asked again"):
            ask(deep, encoded, refuse, **other)
    fewer = (encoded[0][:-1], *encoded[1:])
    with pytest.raises(AssertionError, match="asked again"):
        ask(deep, fewer, refuse)


def test_a_damaged_cache_is_made_anew(deep, encoded, teacher, home):
    first = ask(deep, encoded, lambda: teacher)
    (file,) = (home / "cache" / module.FOLDER).rglob("teacher.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(bytes(data))
    again = ask(deep, encoded, lambda: teacher)
    assert torch.equal(first.tail, again.tail)


def test_counts_are_those_that_the_loss_sees(encoded):
    for row in encoded[2]:
        learned = shifted(torch.tensor(row.labels)) != -100
        assert int(learned.sum()) == sum(answer_counts(row))
