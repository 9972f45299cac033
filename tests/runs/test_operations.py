"""What the helper process does with real (tiny, random) models."""

import threading

import pytest
import torch

from core.config import DataConfig, RunConfig
from core.errors import ConfigError, StudioError
from core.layers.lora import AdapterLinear
from core.modelload import load_dense
from core.runs import operations
from core.runs.examination import STEPS
from core.runs.residents import Residents
from core.runs.serve import Request


def quiet(share, text):
    pass


def asked(op, **arguments):
    """Do one operation as the helper process would; return its result and what it said."""
    said = []
    request = Request("1", op, arguments, said.append)
    return operations.OPERATIONS[op](request), said


@pytest.fixture
def model(tiny):
    return str(tiny("llama"))


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "class.csv"
    rows = [f"What is the capital {n}?,The answer is {n}." for n in range(6)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return str(path)


def turns(text="What is the capital of France?"):
    return [{"role": "user", "content": text}]


def test_an_answer_streams_exactly_what_it_returns(model):
    result, said = asked(
        "chat", which="base", model=model, turns=turns(), max_new_tokens=12, temperature=0.0
    )
    tokens = [answer["text"] for answer in said if answer["event"] == "token"]
    assert "".join(tokens) == result["answer"]
    assert result["answer"]
    assert not result["stopped"]
    again, _ = asked("chat", which="base", model=model, turns=turns(), max_new_tokens=12)
    assert again["answer"] == result["answer"]


def test_the_same_seed_gives_the_same_answer(model):
    sampling = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12}
    ask = {"which": "base", "model": model, "turns": turns(), **sampling}
    first, second, other = (asked("chat", **ask, seed=seed)[0]["answer"] for seed in (1, 1, 2))
    assert first == second != other


def test_a_cancelled_answer_ends_early(model):
    request = Request(
        "1", "chat", {"which": "base", "model": model, "turns": turns()}, lambda a: None
    )
    request.arguments["max_new_tokens"] = 400
    said = []

    def stop_after_three(answer):
        said.append(answer)
        if len([a for a in said if a["event"] == "token"]) == 3:
            request.cancelled.set()

    request.send = stop_after_three
    result = operations.OPERATIONS["chat"](request)
    assert result["stopped"]
    assert len([a for a in said if a["event"] == "token"]) < 10


def test_which_must_be_base_or_tuned(model):
    with pytest.raises(ConfigError, match="neither base nor tuned"):
        asked("chat", which="both", model=model, turns=turns())


def test_an_unknown_model_is_a_sentence():
    with pytest.raises(StudioError, match="no model 'nothing-like-this'"):
        asked("load", model="nothing-like-this")


def test_the_base_is_loaded_from_its_own_files_without_an_adapter(model, tiny):
    base = Residents().base(model, quiet).model
    assert not [m for m in base.modules() if isinstance(m, AdapterLinear)]
    fresh = load_dense(tiny("llama"), next(base.parameters()).dtype)
    assert all(
        torch.equal(a, b) for a, b in zip(base.parameters(), fresh.parameters(), strict=True)
    )


def test_a_model_stays_loaded_until_another_is_asked_for(model, tiny):
    residents = Residents()
    first = residents.base(model, quiet)
    assert residents.base(model, quiet) is first
    other = residents.base(str(tiny("qwen2")), quiet)
    assert other is not first
    assert residents.base(model, quiet) is not first


def test_room_is_made_only_when_nobody_is_answering(model, tiny):
    residents = Residents()
    busy = residents.base(model, quiet)
    loaded = threading.Event()

    def load_another():
        residents.base(str(tiny("qwen2")), quiet)
        loaded.set()

    with busy.lock:
        thread = threading.Thread(target=load_another)
        thread.start()
        assert not loaded.wait(0.3)
    thread.join(timeout=30)
    assert loaded.is_set()


def test_tokens_of_a_class_are_counted(model, csv):
    result, _ = asked("lengths", model=model, data={"path": csv})
    assert result["examples"] == 6
    assert 0 < result["answer_tokens"] < result["tokens"] <= 6 * result["longest"]
    short, _ = asked("lengths", model=model, data={"path": csv}, max_length=result["longest"] - 1)
    assert short["cut"] > 0


def test_a_class_is_examined_with_the_model_s_tokenizer(model, tmp_path):
    path = tmp_path / "class.csv"
    rows = [f"What is {n} and {n}?,It is {n}{n}." for n in range(8)]
    path.write_text("\n".join(["question,answer", *rows, "mail?,a@example.org", ""]), "utf-8")
    config = RunConfig(model=model, data=DataConfig(path=str(path))).to_json()
    result, said = asked("health", config=config)
    found = {f["code"]: f for f in result["findings"]}
    assert (found["health.email"]["count"], found["health.email"]["rows"]) == (1, ["row 10"])
    assert "Possible personal data found" in found["health.email"]["what"]
    tokens = result["tokens"]
    assert tokens["examples"] == tokens["teaching"] == sum(n for _, n in tokens["histogram"]) == 9
    assert "<|im_end|>" in tokens["control"]
    assert result["refusal"] is None
    assert said[-1]["phase"] == "health"
    assert list(dict.fromkeys(s["detail"] for s in said)) == list(STEPS)  # what it is doing
    shares = [s["share"] for s in said]
    assert shares == sorted(shares)
    assert shares[-1] >= STEPS["lengths"]
    config["train"]["max_length"] = 64
    path.write_text("question,answer\n" + f"{'long ' * 99}?,yes\n" * 2, "utf-8")
    refusal = asked("health", config=config)[0]["refusal"]
    assert refusal["code"] == "data.questions_fill"


def test_a_class_is_examined_without_a_usable_model(csv):
    config = RunConfig(model="nothing-like-this", data=DataConfig(path=csv)).to_json()
    result, _ = asked("health", config=config)
    assert result["tokens"] is None
    assert "nothing-like-this" in result["model_problem"]["what"]
    assert result["counts"]["examples"] == 6


def test_marks_of_a_file_count_all_its_examples(model, csv):
    result, said = asked("evaluate", model=model, data={"path": csv}, max_new_tokens=4)
    assert result["examples"] == 6
    assert len(result["answers"]) == 6
    assert result["perplexity"] == pytest.approx(torch.tensor(result["nll"]).exp().item(), rel=1e-4)
    assert said[0]["event"] == "progress"


def test_progress_of_a_cancelled_request_ends_it(model, csv):
    request = Request("1", "evaluate", {"model": model, "data": {"path": csv}}, lambda a: None)
    request.cancelled.set()
    with pytest.raises(StudioError, match="cancelled"):
        operations.OPERATIONS["evaluate"](request)
