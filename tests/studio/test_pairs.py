"""The page "Same question?" without a browser: what it shows, asks for and starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.config import RunConfig
from core.errors import StudioError
from studio import draft, library
from studio.api import Downloads
from studio.backend import Backend
from studio.charts import live_delta
from studio.pages import pairs
from studio.text import LANGUAGES, Words

MARKS = {"accuracy": 0.75, "f1": 0.7, "mcc": 0.5, "examples": 4, "confusion": {}}


@pytest.fixture(autouse=True)
def fresh(home: Path) -> None:
    for name in (draft.ANSWERS, draft.PAIRS):
        (home / f"{name}.json").unlink(missing_ok=True)


@pytest.fixture
def run_id(backend: Backend) -> str:
    library.choose_pair_sample("pairs_en")
    return backend.start(draft.load(draft.PAIRS))


def answers(backend: Backend, result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    backend.service.messages = [{"event": "done", "result": result}]
    backend.service.asked.clear()
    return backend.service.asked


@pytest.mark.parametrize("language", LANGUAGES)
def test_sample_pairs_are_shown_with_their_counts(backend: Backend, language: str) -> None:
    words = Words(language)
    nothing = pairs._view(backend, words)
    assert words("pairs.none") in nothing[2]
    library.choose_pair_sample(f"pairs_{language}")
    _, samples, summary, *_ = pairs._view(backend, words)
    assert "checked" in samples
    assert words("pairs.count", n=120) in summary
    assert words("pairs.count_same", n=60) in summary
    assert summary.count("<tr>") == 1 + pairs.ROWS_SHOWN


def test_the_class_of_the_other_task_stays_as_it_was() -> None:
    library.choose_sample("en")
    before = draft.load()
    library.choose_pair_sample("pairs_zh")
    draft.change(draft.PAIRS, train__epochs=9.0)
    assert draft.load() == before
    assert draft.load(draft.PAIRS).method == "pairs"
    assert draft.load(draft.PAIRS).train.epochs == 9.0


def test_a_file_that_holds_no_pairs_is_refused_with_its_findings(
    backend: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "class.csv"
    path.write_text("question,answer\nWhat is 2 + 2?,4\nWhat is 3 + 3?,6\n", "utf-8")
    library.choose_pairs(path, "class.csv")
    refusal, _, summary, *_ = pairs._view(backend, Words("zh"))
    assert "需要两列问题" in refusal
    assert summary == ""


def test_an_upload_is_kept_and_read(home: Path, tmp_path: Path) -> None:
    upload = tmp_path / "mine.csv"
    shutil.copyfile(library.PAIR_SAMPLES[1].path, upload)
    kept, label = library.keep_upload(upload, "mine.csv")
    library.choose_pairs(kept, label)
    assert len(library.read_pair_file(kept, label).pairs) == 120
    assert draft.load(draft.PAIRS).name == "mine.csv"


def test_the_start_button_queues_a_run_of_this_task(client: TestClient, backend: Backend) -> None:
    refused = client.post("/api/runs", json={"task": "pairs", "key": "a"})
    assert refused.status_code == 409
    library.choose_pair_sample("pairs_en")
    run = client.post("/api/runs", json={"task": "pairs", "key": "b"}).json()["run"]
    assert backend.run(run).config["method"] == "pairs"
    rows = client.get("/api/overview").json()["runs"]
    assert next(r["task"] for r in rows if r["id"] == run) == "pairs"
    assert client.post("/api/runs", json={"task": "pairs", "key": "b"}).json()["run"] == run


def test_marks_reach_the_live_view() -> None:
    event = {"kind": "pairs", "step": 4, "slice": "calibration", "marks": MARKS, "seq": 1}
    said = live_delta([event], Words("en"))["pairs"]
    assert said == [{"step": 4, "slice": "calibration", "marks": MARKS}]
    json.dumps(said)


def test_two_questions_are_asked_of_the_run_and_the_verdict_is_told(
    backend: Backend, run_id: str
) -> None:
    words = Words("en")
    asked = answers(backend, {"probability": 0.912, "threshold": 0.6, "same": True})
    said = pairs._answer(backend, words, run_id, "Why?", "What for?")
    folder = str(backend.run(run_id).folder)
    assert asked == [("same", {"run": folder, "first": "Why?", "second": "What for?"})]
    assert "The same question" in said
    assert "91 %" in said
    assert words("pairs.no_run") in pairs._answer(backend, words, "", "a", "b")


def test_a_refusal_of_the_service_is_a_sentence(
    backend: Backend, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StudioError("Two questions are needed.", code="pairs.empty_question")

    monkeypatch.setattr(backend.service, "stream", refuse)
    assert "两个问题都要填写" in pairs._answer(backend, Words("zh"), run_id, "", "")


def test_duplicates_are_listed_with_their_places_and_texts_stay_text(
    backend: Backend, run_id: str
) -> None:
    words = Words("en")
    assert words("pairs.no_class") in "".join(pairs._search(backend, words, run_id))
    library.choose_sample("en")
    group = [{"text": "What is <b>?", "where": "row 2"}, {"text": "And?", "where": "row 9"}]
    asked = answers(backend, {"questions": 116, "groups": [group], "pairs": []})
    *_, last = pairs._search(backend, words, run_id)
    assert asked[0][0] == "duplicates"
    assert asked[0][1]["data"]["path"] == draft.load().data.path
    assert "What is &lt;b&gt;?" in last
    assert "row 9" in last
    assert "1 groups" in last


def test_the_share_page_offers_what_such_a_model_can_be_exported_to(
    backend: Backend, run_id: str
) -> None:
    from studio.pages import share

    backend.store.update(run_id, status="done")
    _, cards = share._view(backend, Words("en"), Downloads(), run_id)
    assert cards.count("data-press") == 1
    assert 'data-press="merged"' in cards


def test_the_try_page_sends_such_a_run_here(backend: Backend, run_id: str) -> None:
    from studio.pages import try_it

    notice, *_ = try_it._view(backend, Words("en"), run_id)
    assert "compares two questions" in notice
    assert RunConfig.from_json(backend.run(run_id).config).method == "pairs"
