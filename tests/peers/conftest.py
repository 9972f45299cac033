"""A class, the methods of other libraries, and finished runs of them on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import modelload, pipeline
from core.config import RunConfig
from core.data.chat import ChatFormat
from core.data.types import Turn
from core.evaluate.marks import marks
from core.whole import write_whole

TREE = {
    "train": {"steps": 6, "tokens_per_step": 96, "max_length": 64, "eval_every": 3},
    "adapter": {"rank": 4},
    "quiz": {"generate": False},
}


@pytest.fixture(scope="session")
def config(tiny, tmp_path_factory):
    """Settings of six steps on a class of 16 rows."""
    path = tmp_path_factory.mktemp("class") / "class.csv"
    rows = [f"What follows the number {n}?,The number {n + 1} follows." for n in range(16)]
    path.write_text("\n".join(["question,answer", *rows]), "utf-8")
    return RunConfig.from_json({**TREE, "model": str(tiny("llama")), "data": {"path": str(path)}})


@pytest.fixture(scope="session")
def model_path(config):
    """The folder of the base model."""
    return Path(config.model)


@pytest.fixture(autouse=True)
def marked_here(monkeypatch):
    """The quiz in this process: starting another costs more than marking a tiny model."""

    def mark_run(out, emit, should_stop):
        write_whole(out / "quiz.json", json.dumps(marks(out, lambda share: None)))

    monkeypatch.setattr(pipeline, "mark_run", mark_run)


@pytest.fixture(scope="session")
def trained():
    """Return a function: configuration, folder -> folder, result and events of its run."""

    def train(config, out):
        events = []
        result = pipeline.run(config, out, events.append, lambda: "")
        (out / "result.json").write_text(json.dumps(result), "utf-8")  # as the worker leaves it
        return out, result, events

    return train


@pytest.fixture(scope="session")
def kept_runs():
    """Finished runs by method."""
    return {}


@pytest.fixture
def done(config, trained, kept_runs, tmp_path_factory):
    """Return a function: method -> folder, result and events of a finished run."""

    def get(method):
        if method in ("peft-qlora", "loftq"):
            pytest.importorskip("bitsandbytes")
        if method not in kept_runs:
            chosen = replace(config, method=method)
            kept_runs[method] = trained(chosen, tmp_path_factory.mktemp(method) / "run")
        return kept_runs[method]

    return get


@pytest.fixture(scope="session")
def logits():
    """Return a function: model -> its logits (1, T, v) for a question."""

    @torch.no_grad()
    def of(model, path):
        chat = ChatFormat.of(modelload.load_tokenizer(path))
        ids = chat.encode_prompt([Turn("user", "What follows the number 3?")])
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits

    return of
