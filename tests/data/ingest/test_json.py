"""JSON and JSONL from text to examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.data.ingest import read_file
from core.data.types import ReadResult
from core.errors import DataError


def read_text(text: str, folder: Path, name: str = "class.jsonl") -> ReadResult:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_file(path)


def read_lines(folder: Path, *records: object) -> ReadResult:
    return read_text("".join(json.dumps(r) + "\n" for r in records), folder)


def read_json(folder: Path, value: object) -> ReadResult:
    return read_text(json.dumps(value), folder, "class.json")


def found(result: ReadResult) -> dict[str, str]:
    return {p.code: p.where for p in result.problems if p.code != "health.one_example"}


def messages(*turns: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


SHAREGPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
GOOD = messages(("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(("text", "name"), [
    ('[{"question": "a", "answer": "b"}]', "c.json"),
    ('[{"question": "a", "answer": "b"}]', "c.jsonl"),
    ('{"question": "a", "answer": "b"}', "c.json"),
    ('{"version": 1, "data": [{"question": "a", "answer": "b"}]}', "c.json"),
    ('{"version": 1, "data": [{"question": "a", "answer": "b"}]}', "c.jsonl"),
    ('{\n "data": [\n  {"question": "a", "answer": "b"}]}', "c.json"),
    ('[[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]', "c.json"),
    ('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]', "c.json"),
    (json.dumps(SHAREGPT), "c.json"),
    ('\ufeff\n{"prompt": "a", "completion": "b"}\n\n', "c.jsonl"),
])  # fmt: skip
def test_shapes_of_json(text: str, name: str, tmp_path: Path) -> None:
    result = read_text(text, tmp_path, name)
    assert [(e.question, e.answer) for e in result.examples] == [("a", "b")]
    assert found(result) == {}


def test_objects_after_each_other_are_read(tmp_path: Path) -> None:
    text = '{\n "question": "a",\n "answer": "b"\n}\n{\n "question": "c",\n "answer": "d"\n}\n'
    result = read_text(text, tmp_path, "c.json")
    assert [e.where for e in result.examples] == ["item 1", "item 2"]


def test_numbers_and_truth_values_stay_as_they_were_written(tmp_path: Path) -> None:
    lines = '{"question": "a", "answer": 1.50}\n{"question": "b", "answer": true}\n'
    answers = [e.answer for e in read_text(lines, tmp_path).examples]
    assert answers == ["1.50", "true"]


def test_nan_is_named(tmp_path: Path) -> None:
    result = read_text('{"question": "a", "answer": NaN}\n', tmp_path)
    assert found(result) == {"json.not_a_number": "line 1"}


@pytest.mark.parametrize(("line", "code"), [
    ('{"question": "a", "answ', "json.bad_line"),
    ('{"question": "a",}', "json.bad_line"),
    ("[" * 5000, "json.bad_line"),
    ('"text"', "json.no_object"),
    ('{"question": "a\\ud800", "answer": "b"}', "text.half_character"),
    ('{"question": "a", "question": "b", "answer": "c"}', "json.duplicate_key"),
])  # fmt: skip
def test_a_bad_line_is_named_and_the_others_are_read(line: str, code: str, tmp_path: Path) -> None:
    good = '{"question": "x", "answer": "y"}'
    result = read_text(f"{good}\n{line}\n{good.replace('x', 'z')}\n", tmp_path)
    assert found(result) == {code: "line 2"}
    assert {"x", "z"} <= {e.question for e in result.examples}


@pytest.mark.parametrize(("text", "said"), [
    ('[{"question": "a"},]', "line 1.*column"),
    ('[\n{"question": "a", "answer"', "line 2.*column"),
    ("[" * 100_000, "too deeply"),
    ("[]", "list"),
    ("42", "list"),
    ('["a", "b"]', "list"),
    ("{}", "keys"),
    ('[{"id": 1, "tags": [7]}]', "column"),
    ("[{'question': 'a'}]", "double quotes"),
])  # fmt: skip
def test_what_cannot_be_used_is_said(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_text(text, tmp_path, "c.json")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("record", "code"), [
    (messages(), "chat.empty"),
    (messages(("user", None), ("assistant", "b")), "chat.bad_message"),
    (messages(("teacher", "a"), ("assistant", "b")), "chat.unknown_role"),
    (messages((None, "a"), ("assistant", "b")), "chat.unknown_role"),
    (messages(("user", "a")), "chat.no_reply"),
    (messages(("assistant", "a")), "chat.no_reply"),
    (messages(("user", [{"type": "image_url"}]), ("assistant", "b")), "chat.picture"),
    ({"messages": ["a", "b"]}, "chat.bad_message"),
    ({"question": "a"}, "chat.no_messages"),
])  # fmt: skip
def test_a_conversation_that_cannot_be_learned_is_named(
    record: object, code: str, tmp_path: Path
) -> None:
    result = read_lines(tmp_path, GOOD, record)
    assert len(result.examples) == 1
    assert found(result)[code] == "line 2"


U, A, S = ("user", "q"), ("assistant", "a"), ("system", "s")


@pytest.mark.parametrize(("turns", "kept", "code"), [
    ([U, A, U], [U, A], "chat.trailing_question"),
    ([A, U, A], [U, A], "chat.leading_reply"),
    ([U, U, A], [("user", "q\n\nq"), A], "chat.merged"),
    ([U, A, S, U, A], [U, A, U, A], "chat.late_system"),
    ([S, U, A], [S, U, A], ""),
    ([("human", "q"), ("gpt", "a")], [U, A], ""),
    ([("user", [{"type": "text", "text": "q"}]), A], [U, A], ""),
])  # fmt: skip
def test_turns_are_put_in_order_and_changes_told(
    turns: list[tuple[object, object]], kept: list[tuple[str, str]], code: str, tmp_path: Path
) -> None:
    result = read_lines(tmp_path, messages(*turns))
    assert [(t.role, t.content) for t in result.examples[0].turns] == kept
    assert found(result) == ({code: "line 1"} if code else {})


def test_a_system_text_beside_the_messages_comes_first(tmp_path: Path) -> None:
    result = read_lines(tmp_path, {"system": "s", **GOOD})
    assert result.examples[0].turns[0].content == "s"


def test_an_alpaca_history_is_what_was_said_before(tmp_path: Path) -> None:
    record = {"instruction": "q2", "input": "", "output": "a2", "history": [["q1", "a1"]]}
    result = read_lines(tmp_path, record)
    assert [t.content for t in result.examples[0].turns] == ["q1", "a1", "q2", "a2"]
    assert result.rows == (("user: q1\nassistant: a1", "q2", "a2"),)


def test_pairs_of_message_lists_teach_the_chosen_one(tmp_path: Path) -> None:
    reply = [{"role": "assistant", "content": "good"}]
    bad = [{"role": "assistant", "content": "bad"}]
    result = read_lines(
        tmp_path,
        {"prompt": "q", "chosen": reply, "rejected": bad},
        {"prompt": [{"role": "user", "content": "p"}], "chosen": reply, "rejected": bad},
        {"prompt": "q", "chosen": reply, "rejected": reply},
    )
    assert [(e.question, e.answer) for e in result.examples] == [("q", "good"), ("p", "good")]
    assert result.format == "preference"
    assert found(result)["table.chosen_is_rejected"] == "line 3"


@pytest.mark.parametrize(("record", "kind"), [
    ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
    (GOOD, "messages"),
    (SHAREGPT, "sharegpt"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
    ({"question": "a", "answer": "b"}, "jsonl"),
])  # fmt: skip
def test_the_format_is_named(record: object, kind: str, tmp_path: Path) -> None:
    assert read_lines(tmp_path, record).format == kind


def test_extra_keys_do_no_harm(tmp_path: Path) -> None:
    record = {"__class__": "os.system", "__proto__": {"x": 1}, "question": "a", "answer": "b"}
    assert read_lines(tmp_path, record).examples[0].answer == "b"


PAIR = [("1 + 1?", "2"), ("2 + 2?", "4")]


@pytest.mark.parametrize("value", [
    {"question": ["1 + 1?", "2 + 2?"], "answer": ["2", "4"]},
    {"question": {"0": "1 + 1?", "1": "2 + 2?"}, "answer": {"0": "2", "1": "4"}},
    {"1 + 1?": "2", "2 + 2?": "4"},
    [["1 + 1?", "2"], ["2 + 2?", "4"]],
    [["question", "answer"], ["1 + 1?", "2"], ["2 + 2?", "4"]],
    {"data": {"train": [{"q": "1 + 1?", "a": "2"}, {"q": "2 + 2?", "a": "4"}]}},
    {"first": {"q": "1 + 1?", "a": "2"}, "second": {"q": "2 + 2?", "a": "4"}},
    [{"questionText": "1 + 1?", "correctAnswer": 2},
     {"questionText": "2 + 2?", "correctAnswer": 4}],
    [{"qa": {"question": "1 + 1?", "answer": ["2", "two"]}},
     {"qa": {"question": "2 + 2?", "answer": ["4"]}}],
    [{"question": "1 + 1?", "answers": {"text": ["2"], "answer_start": [0]}},
     {"question": "2 + 2?", "answers": {"text": ["4"], "answer_start": [0]}}],
])  # fmt: skip
def test_every_way_to_nest_pairs(value: object, tmp_path: Path) -> None:
    result = read_json(tmp_path, value)
    assert [(e.question, e.answer) for e in result.examples] == PAIR


@pytest.mark.parametrize("record", [
    {"question": "Sky?", "options": ["red", "blue"], "answer": "B"},
    {"question": "Sky?", "options": ["(A)red", "(B)blue"], "label": "B", "answer": None},
    {"question": "Sky?", "choices": ["red", "blue"], "answer": 1},
    {"question": "Sky?", "options": {"A": "red", "B": "blue"}, "answer": "B"},
    {"question": {"stem": "Sky?", "choices": [{"label": "A", "text": "red"},
                                              {"label": "B", "text": "blue"}]}, "answerKey": "B"},
    {"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]},
     "answerKey": "B"},
    {"question": "Sky?", "A": "red", "B": "blue", "C": "", "answer": "B"},
])  # fmt: skip
def test_options_of_a_record(record: dict[str, object], tmp_path: Path) -> None:
    other = {**record, "answer": 0} if record.get("answer") == 1 else record
    result = read_json(tmp_path, [record, other])
    assert (result.examples[0].question, result.examples[0].answer) == (
        "Sky?\nA. red\nB. blue", "blue",
    )  # fmt: skip


def test_squad_comes_out_with_its_passages(tmp_path: Path) -> None:
    asked = [{"id": "1", "question": "Which is long?", "answers": [{"text": "the Nile"}]},
             {"id": "2", "question": "Which is short?", "answers": []}]  # fmt: skip
    article = {"title": "Rivers", "paragraphs": [{"context": "The Nile is long.", "qas": asked}]}
    result = read_json(tmp_path, {"version": "2.0", "data": [article]})
    (example,) = result.examples
    assert example.question == "The Nile is long.\n\nWhich is long?"
    assert (example.answer, example.topic, example.where) == ("the Nile", "Rivers", "item 1")
    assert found(result)["table.no_answer"] == "item 2"


@pytest.mark.parametrize("record", [
    {"prompt": [{"role": "user", "content": "a?"}],
     "completion": [{"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a?"}],
     "chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}},
    {"dialog": [{"speaker": "用户", "text": "a?"}, {"speaker": "助手", "text": "b"}]},
])  # fmt: skip
def test_other_ways_to_write_a_conversation(record: object, tmp_path: Path) -> None:
    result = read_json(tmp_path, [record])
    assert [[t.content for t in e.turns] for e in result.examples] == [["a?", "b"]]


ONE, TWO = '{"question": "a?", "answer": "b"}', '{"question": "c?", "answer": "d"}'


@pytest.mark.parametrize("name", ["class.json", "class.jsonl"])
@pytest.mark.parametrize("text", [
    f"[{ONE}]\n[{TWO}]\n",
    f"[\n{ONE},\n{TWO}\n]\n",
    f"[\n{ONE}\n{TWO}\n]\n",
    f"{ONE},\n{TWO}\n",
])  # fmt: skip
def test_a_list_whose_objects_stand_on_lines(text: str, name: str, tmp_path: Path) -> None:
    result = read_text(text, tmp_path, name)
    assert [(e.question, e.answer) for e in result.examples] == [("a?", "b"), ("c?", "d")]
    assert found(result) == {}


def test_a_few_objects_inside_a_record_say_all_their_texts(tmp_path: Path) -> None:
    forms = [{"t": "吧", "m": ["bar", "puff"]}, {"t": "吧", "m": ["a particle"]}]
    result = read_json(tmp_path, [{"question": "吧", "answer": "x", "f": forms}])
    assert dict(zip(result.columns, result.rows[0], strict=True)) == {
        "question": "吧", "answer": "x", "t": "吧", "m": "bar; puff; a particle"
    }  # fmt: skip
