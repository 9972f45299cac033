"""The page "Compare methods" without a browser: what it offers, starts, shows and lets download."""

import csv
import io
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.config import DataConfig, RunConfig
from core.methods import METHODS
from studio import draft
from studio.backend import Backend
from studio.text import LANGUAGES, Words

TWO = [{"method": "adaq"}, {"method": "adaq", "setting": "adapter.rank", "value": 4}]


@pytest.fixture(autouse=True)
def fresh(home: Path) -> None:
    (home / "draft.json").unlink(missing_ok=True)


def asked(**changes: Any) -> dict[str, Any]:
    known = {"choices": TWO, "data": "en", "budget_mb": 900, "seeds": 1, "key": uuid.uuid4().hex}
    return {**known, **changes}


def started(client: TestClient, **changes: Any) -> list[str]:
    answer = client.post("/api/lab/runs", json=asked(**changes))
    assert answer.status_code == 201, answer.text
    runs: list[str] = answer.json()["runs"]
    return runs


@pytest.fixture
def finished(backend: Backend) -> Callable[..., str]:
    """Return a function that makes a finished run."""

    def make(method: str = "adaq", seed: int = 0, nll: float = 0.5, name: str = "Class 8b") -> str:
        config = RunConfig(method=method, name=name, data=DataConfig(path="class.csv"))
        config = replace(config, train=replace(config.train, seed=seed))
        run_id = backend.start(config, key=uuid.uuid4().hex)
        events = [
            {"kind": "data", "sha256": f"quiz {seed}"},
            {"kind": "evaluated", "step": 0, "nll": 0.8, "which": "base"},
            {"kind": "evaluated", "step": 2, "nll": 0.6, "which": "tuned"},
            {"kind": "step", "step": 2, "steps": 4},
            {"kind": "evaluated", "step": 4, "nll": nll, "which": "tuned"},
        ]
        backend.store.append_events(run_id, events)
        marks = {"base": {"nll": 0.8}, "tuned": {"nll": nll, "rouge_l": 0.5, "exact_match": 0.1}}
        result = {"quiz": marks, "measured_peak_bytes": 5e8, "seconds": {"total": 60.0}}
        backend.store.update(run_id, status="done", result=result)
        return run_id

    return make


def query(runs: list[str], **more: str) -> str:
    return "&".join([*(f"run={run}" for run in runs), *(f"{k}={v}" for k, v in more.items())])


@pytest.mark.parametrize("language", LANGUAGES)
def test_methods_that_learn_a_class_are_offered_with_their_settings(
    client: TestClient, language: str
) -> None:
    found = client.get(f"/api/lab/options?lang={language}").json()
    by_id = {method["id"]: method for method in found["methods"]}
    assert set(by_id) == {m.id for m in METHODS if "class data" in m.needs}
    assert not any(method["problem"] for method in found["methods"])
    assert "adapter.rank" in [s["path"] for s in by_id["adaq"]["settings"]]
    assert "quant.bits" not in [s["path"] for s in by_id["qlora"]["settings"]]
    assert found["budget_mb"] == draft.DEFAULT_BUDGET_BYTES // 10**6
    assert {choice["id"] for choice in found["data"]} == {"en", "zh"}  # no class chosen yet
    assert found["data"][0]["id"] == language


def test_the_class_of_the_other_pages_comes_first(client: TestClient, tmp_path: Path) -> None:
    draft.save(RunConfig(name="Class 8b", data=DataConfig(path=str(tmp_path / "class.csv"))))
    found = client.get("/api/lab/options").json()
    assert found["data"][0] == {"id": "draft", "name": "Class 8b"}


def test_choices_that_a_method_refuses_are_said_and_the_others_still_offered(
    client: TestClient,
) -> None:
    draft.change(train__optimizer="prodigy")
    found = {m["id"]: m for m in client.get("/api/lab/options?lang=zh").json()["methods"]}
    assert found["svd"]["problem"]
    assert found["adaq"]["settings"]


def test_all_runs_are_queued_with_names_that_say_what_they_are(
    client: TestClient, backend: Backend
) -> None:
    before = draft.load()
    runs = [backend.run(run) for run in started(client, seeds=2)]
    assert [run.status for run in runs] == ["queued"] * 4
    assert [run.config["adapter"]["rank"] for run in runs] == [8, 4, 8, 4]
    assert [run.config["train"]["seed"] for run in runs] == [0, 0, 1, 1]
    assert {run.config["budget_bytes"] for run in runs} == {900_000_000}
    assert all(run.config["data"]["path"].endswith("english.csv") for run in runs)
    names = [run.name for run in runs]
    assert len(set(names)) == 4
    assert names[1] == "World capitals · Edu-ADAQ-LoRA · rank 4 · seed 0"
    assert draft.load() == before  # the choices of the other pages stay as they were


def test_the_same_click_twice_queues_once(client: TestClient) -> None:
    key = uuid.uuid4().hex
    assert started(client, key=key, seeds=3) == started(client, key=key, seeds=3)
    assert len(set(started(client, key=key, seeds=3))) == 6


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "changes",
    [
        {"choices": TWO[:1]},
        {"choices": [TWO[0], TWO[0]]},
        {"choices": [TWO[0], {"method": "pairs"}]},
        {"choices": [TWO[0], {"method": "lora", "setting": "quant.bits", "value": 4}]},
        {"seeds": 9},
        {"data": "draft"},
        {"data": "no-such-sample"},
    ],
)
def test_what_cannot_be_compared_is_a_sentence_and_nothing_is_queued(
    client: TestClient, backend: Backend, changes: dict[str, Any], language: str
) -> None:
    before = len(backend.runs())
    answer = client.post(f"/api/lab/runs?lang={language}", json=asked(**changes))
    assert answer.status_code == 409
    (sentence, *_) = answer.json()["problems"]
    assert any("\u4e00" <= c <= "\u9fff" for c in sentence) == (language == "zh")
    assert len(backend.runs()) == before


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": 3}, {"choices": ["adaq", "lora"]}, asked(seeds="many"), asked(budget_mb=-1)],
)
def test_a_request_of_another_form_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/api/lab/runs", json=body).status_code == 400


def test_curves_go_on_from_their_cursors(
    client: TestClient, backend: Backend, finished: Callable[..., str]
) -> None:
    run = finished()
    (first,) = client.get(f"/api/lab/curves?run={run}:0").json()["runs"]
    assert first["tuned"] == [[2, 0.6], [4, 0.5]]
    assert first["base"]
    assert (first["step"], first["steps"], first["status"]) == (2, 4, "done")
    (second,) = client.get(f"/api/lab/curves?run={run}:{first['cursor']}").json()["runs"]
    assert second["tuned"] == []
    assert second["cursor"] == first["cursor"]
    look = {"kind": "evaluated", "step": 6, "nll": 0.4, "which": "tuned"}
    backend.store.append_events(run, [{"kind": "note", "text": "x"}, look])
    (third,) = client.get(f"/api/lab/curves?run={run}:{first['cursor']}").json()["runs"]
    assert third["tuned"] == [[6, 0.4]]


def test_runs_stand_side_by_side(client: TestClient, finished: Callable[..., str]) -> None:
    ours = [finished(seed=k, nll=0.50 + k / 10) for k in range(3)]
    theirs = [finished("qlora", seed=k, nll=0.61 + k / 10 - k / 1000) for k in range(3)]
    found = client.get(f"/api/lab/comparison?{query([*ours, *theirs])}").json()
    assert [row["label"] for row in found["rows"]] == ["Edu-ADAQ-LoRA", "QLoRA"]
    cell = found["rows"][1]["cells"]["nll"]
    assert (cell["n"], cell["verdict"]) == (3, "worse")
    other = client.get(f"/api/lab/comparison?{query([*ours, *theirs], reference=theirs[0])}")
    assert other.json()["reference"] == 1
    assert other.json()["rows"][0]["cells"]["nll"]["verdict"] == "better"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_failed_run_says_why_in_the_language_of_the_page(
    client: TestClient, backend: Backend, finished: Callable[..., str], language: str
) -> None:
    run = finished("lora")
    failed = {
        "kind": "failed",
        "what": "The training process ended without saying why.",
        "action": "Press Resume to go on from the last checkpoint; see worker.log.",
        "code": "run.vanished",
    }
    backend.store.append_events(run, [failed])
    backend.store.update(run, status="failed", result=None)
    found = client.get(f"/api/lab/comparison?{query([run], lang=language)}").json()
    said = found["rows"][0]["runs"][0]["problem"]
    assert said
    assert ("training process" in said) == (language == "en")
    assert found["rows"][0]["cells"] == {}


def test_the_table_can_be_taken_away(client: TestClient, finished: Callable[..., str]) -> None:
    runs = [finished(name="=1+1"), finished("qlora")]
    answer = client.get(f"/api/lab/comparison.csv?{query(runs)}")
    assert 'filename="comparison.csv"' in answer.headers["content-disposition"]
    text = answer.content.decode("utf-8-sig")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    lines = list(csv.reader(io.StringIO(text)))
    assert len(lines) == 1 + 4
    assert lines[1][2] == "'=1+1"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_can_be_taken_away_or_shown(
    client: TestClient, finished: Callable[..., str], language: str
) -> None:
    runs = [finished(name="<script>alert(1)</script>"), finished("qlora")]
    kept = client.get(f"/api/lab/report.html?{query(runs, lang=language)}")
    assert 'filename="comparison.html"' in kept.headers["content-disposition"]
    shown = client.get(f"/api/lab/report.html?{query(runs, lang=language, view='1')}")
    assert "content-disposition" not in shown.headers
    for answer in (kept, shown):
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text
        assert "0.500" in answer.text


@pytest.mark.parametrize("path", ["comparison", "comparison.csv", "report.html", "curves"])
def test_no_run_too_many_and_unknown_ones_are_sentences(client: TestClient, path: str) -> None:
    many = query([f"r{k}" for k in range(100)])
    for asked_for in ("", many, "run=no-such-run"):
        answer = client.get(f"/api/lab/{path}?{asked_for}&lang=zh")
        assert answer.status_code == 404
        assert answer.json()["problems"][0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frame_of_the_page_has_a_label_for_every_field(language: str) -> None:
    import re

    from studio.pages import lab

    html = str(lab._lab(Words(language)))
    for field in re.findall(r'<(?:select|input)[^>]* id="([a-z-]+)"', html):
        assert f'for="{field}"' in html
    assert len(re.findall("<(?:select|input) ", html)) == 4
