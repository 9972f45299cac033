"""The page "Concept map" without a browser: made, shown, corrected, used, taken away."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from core.config import DataConfig, RunConfig
from core.data.frozen import freeze, load_frozen
from core.data.split import Split
from core.data.types import Example
from core.graph import document
from core.graph.document import MapDocument
from core.graph.material import passages_of
from core.graph.names import mentions_in
from core.graph.types import Concept, ConceptMap, Relation, concept_id
from core.runs.runner import Runner
from core.runs.store import Store
from studio import concepts, draft, maps
from studio.backend import Backend, map_key
from studio.text import LANGUAGES, Words
from tests.graph.small import CLASS, NAMES

EDGES = [
    ("denominator", "fraction", 0.9),
    ("fraction", "ratio", 0.7),
    ("denominator", "ratio", 0.6),
]
RATIO, FRACTION, POLYGON = (concept_id(n) for n in ("ratio", "fraction", "polygon"))
MARKS = {"gcn-gat": {"auc": 0.874}, "none": {"auc": 0.865}}


def found_in(examples: list[Example], names: tuple[str, ...] = NAMES) -> ConceptMap:
    """What a search would find, without one."""
    passages, questions = passages_of(examples)
    at = mentions_in({n: n for n in names}, passages)
    listed = tuple(Concept(concept_id(n), n, mentions=at.get(n, ()), confidence=0.8) for n in names)
    relations = tuple(
        Relation(concept_id(a), concept_id(b), "prerequisite", p) for a, b, p in EDGES
    )
    used = {"used": "gcn-gat", "validation": MARKS}
    metrics = {"relations": used, "encoder": "starter"}
    return ConceptMap("fractions", "en", passages, questions, listed, relations, metrics)


Finish = Callable[[], dict[str, Any]]


class MapService:
    """Finds what a test lays down, and says how far it is."""

    def __init__(self) -> None:
        self.found: ConceptMap | None = None
        self.asked: list[dict[str, Any]] = []

    def stream(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:
        self.asked.append({"op": op, **request})
        if self.found is None:
            yield {"event": "error", "what": "No concept was found: the texts are too few or too "
                   "short.", "action": "Add more.", "code": "graph.no_concept_found"}  # fmt: skip
            return
        yield {"event": "progress", "phase": "graph", "share": 0.4, "detail": "reading"}
        made = MapDocument(self.found)
        document.save(made, Path(request["save"]))
        yield {"event": "done", "result": made.to_json()}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("concepts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(folder))
        store = Store(folder / "studio.db")
        yield Backend(store, Runner(store), MapService())
        store.close()


@pytest.fixture(scope="module")
def client(backend: Backend) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=concepts.routes(backend))) as client:
        yield client


@pytest.fixture
def examples() -> list[Example]:
    return [Example.pair(q, a, f"row {i}") for i, (q, a) in enumerate(CLASS, 2)]


@pytest.fixture
def folder(backend: Backend, examples: list[Example], tmp_path: Path) -> Path:
    """The folder of the map of a class of its own, not made yet."""
    file = tmp_path / "class.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("question", "answer"), *CLASS])
    draft.save(RunConfig(name="Class 6a", data=DataConfig(path=str(file), quiz_share=0.4)))
    backend.service.found = found_in(examples)  # type: ignore[attr-defined]
    return maps.folder_of(draft.load())


@pytest.fixture
def finish(client: TestClient, backend: Backend) -> Finish:
    """Return a function that waits for the search and says how things stand."""

    def wait() -> dict[str, Any]:
        task = backend.tasks.get(map_key(maps.folder_of(draft.load())))
        assert task is not None
        for _ in task.follow():
            pass
        state: dict[str, Any] = client.get("/api/concepts/state").json()
        return state

    return wait


@pytest.fixture
def made(client: TestClient, folder: Path, finish: Finish) -> Path:
    assert client.post("/api/concepts/make", json={}).status_code == 202
    assert finish()["map"]["counts"]["concepts"] == len(NAMES)
    return folder


def edit(client: TestClient, **asked: str) -> dict[str, Any]:
    answer = client.post("/api/concepts/edit", json=asked)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["map"]
    return told


def drawn(client: TestClient, language: str = "en") -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/concepts/map?lang={language}").json()
    return found


def names(client: TestClient) -> set[str]:
    return {c["name"] for c in drawn(client)["concepts"]}


def test_nothing_is_there_before_it_is_made(client: TestClient, folder: Path) -> None:
    state = client.get("/api/concepts/state").json()
    assert state["map"] is None
    assert state["class"] == {"name": "Class 6a", "chosen": True}
    answer = client.get("/api/concepts/map?lang=zh")
    assert answer.status_code == 409
    assert re.search("[\u4e00-\u9fff]", answer.json()["problems"][0])


def test_without_class_and_text_there_is_nothing_to_make_a_map_of(
    client: TestClient, folder: Path, finish: Finish
) -> None:
    draft.reset()
    assert client.post("/api/concepts/make", json={}).status_code == 409
    kept = client.post("/api/concepts/material?name=notes.txt", content=b"A ratio is a share.")
    assert kept.status_code == 201
    assert client.post("/api/concepts/make", json={}).status_code == 202
    assert finish()["map"]["stamp"]


def test_what_a_map_is_made_of_goes_to_the_helper_process(
    client: TestClient, backend: Backend, folder: Path, finish: Finish
) -> None:
    client.post("/api/concepts/material?name=..%2F..%2Fnotes%20of%20mine.md", content=b"# Ratios")
    client.post("/api/concepts/make", json={})
    finish()
    asked = backend.service.asked[-1]  # type: ignore[attr-defined]
    assert asked["op"] == "graph"
    assert asked["data"]["path"] == draft.load().data.path
    (text,) = map(Path, asked["material"])
    assert text.is_relative_to(folder)
    assert text.read_bytes() == b"# Ratios"
    assert "notes of mine.md" in text.name


@pytest.mark.parametrize(
    ("name", "content"), [("virus.exe", b"MZ"), ("empty.txt", b" \n"), ("", b"text")]
)
def test_a_text_that_cannot_be_used_is_refused_with_a_sentence(
    client: TestClient, folder: Path, name: str, content: bytes
) -> None:
    answer = client.post(f"/api/concepts/material?name={name}", content=content)
    assert answer.status_code == 409
    assert answer.json()["problems"][0]
    assert client.get("/api/concepts/state").json()["material"] == []


def test_a_text_is_kept_once_and_can_be_removed(client: TestClient, made: Path) -> None:
    for name in ("a.txt", "b.txt"):
        client.post(f"/api/concepts/material?name={name}", content=b"A ratio is a share.")
    state = client.get("/api/concepts/state").json()
    assert [m["name"] for m in state["material"]] == ["a.txt"]
    assert state["map"]["stale"]
    client.post("/api/concepts/material/remove", json={"id": state["material"][0]["id"]})
    state = client.get("/api/concepts/state").json()
    assert state["material"] == []
    assert not state["map"]["stale"]


def test_a_failed_search_says_why_and_keeps_the_map(
    client: TestClient, backend: Backend, made: Path, finish: Finish
) -> None:
    backend.service.found = None  # type: ignore[attr-defined]
    client.post("/api/concepts/make", json={})
    finish()
    state = client.get("/api/concepts/state?lang=zh").json()
    assert "没有找到概念" in state["task"]["problems"][0]
    assert state["map"]["counts"]["concepts"] == len(NAMES)


def test_a_map_is_shown_with_its_relations_gaps_and_order(client: TestClient, made: Path) -> None:
    found = drawn(client)
    by_name = {c["name"]: c for c in found["concepts"]}
    assert by_name["ratio"]["questions"] == 3
    assert by_name["ratio"]["explained"] == 0
    shown = {(r["source"], r["target"]): r["shown"] for r in found["relations"]}
    assert shown[concept_id("denominator"), RATIO] is False  # it follows from the others
    assert shown[FRACTION, RATIO] is True
    assert found["order"].index(FRACTION) < found["order"].index(RATIO)
    gap = next(g for g in found["gaps"] if g["concept"] == RATIO)
    assert gap["sentence"] == "3 questions need “ratio”; no answer explains it."


def test_gaps_and_notes_speak_the_language_of_the_page(client: TestClient, made: Path) -> None:
    assert all(re.search("[\u4e00-\u9fff]", g["sentence"]) for g in drawn(client, "zh")["gaps"])
    notes = {
        language: client.get(f"/api/concepts/state?lang={language}").json()["map"]["notes"]
        for language in LANGUAGES
    }
    assert "0.87 against 0.86" in notes["en"][0].replace("0.865", "0.86")
    assert Words("en")("concepts.note_starter") in notes["en"]
    assert Words("zh")("concepts.note_starter") in notes["zh"]


def test_a_concept_is_shown_with_its_sentences(client: TestClient, made: Path) -> None:
    told = client.get(f"/api/concepts/one?id={POLYGON}").json()
    first, second = told["sentences"]
    assert first["explains"]
    assert first["text"] == "A polygon is a closed shape of straight lines."
    assert [first["text"][a:b] for a, b in first["spans"]] == ["polygon"]
    assert first["where"] == "row 9"
    assert not second["explains"]
    assert client.get("/api/concepts/one?id=nobody").status_code == 404


@pytest.mark.parametrize("way", ["order", "near"])
def test_every_concept_has_a_place_and_focus_leaves_what_comes_before(
    client: TestClient, made: Path, way: str
) -> None:
    every = client.get(f"/api/concepts/layout?way={way}").json()["places"]
    assert len(every) == len(NAMES)
    focused = client.get(f"/api/concepts/layout?focus={FRACTION}").json()["places"]
    assert set(focused) == {concept_id(n) for n in ("denominator", "fraction", "ratio")}


def test_corrections_are_kept_taken_back_and_brought_again(client: TestClient, made: Path) -> None:
    told = edit(client, op="rename", concept=RATIO, text="proportion")
    assert (told["corrections"], told["undo"], told["redo"]) == (1, True, False)
    edit(client, op="add", text="percentage")
    edit(client, op="merge", concept=concept_id("numerator"), other=FRACTION)
    edit(client, op="confirm-relation", concept=FRACTION, other=RATIO, text="prerequisite")
    edit(client, op="remove", concept=POLYGON)
    assert names(client) == {"fraction", "denominator", "proportion", "percentage"}
    told = edit(client, op="undo")
    assert told["redo"]
    assert "polygon" in names(client)
    assert Backend(None, None, None).maps.current(made).concept(POLYGON)  # type: ignore[arg-type]
    edit(client, op="redo")
    assert "polygon" not in names(client)
    for _ in range(5):
        told = edit(client, op="undo")
    assert names(client) == set(NAMES)
    assert not told["undo"]


@pytest.mark.parametrize(
    "asked",
    [
        {"op": "rename", "concept": RATIO, "text": "Fractions"},
        {"op": "merge", "concept": RATIO, "other": RATIO},
        {"op": "burn", "concept": RATIO},
        {"op": "remove", "concept": "nobody"},
        {"op": "add", "text": " "},
        {},
    ],
)
def test_a_correction_that_makes_no_sense_is_a_sentence_and_changes_nothing(
    client: TestClient, made: Path, asked: dict[str, str]
) -> None:
    before = (made / maps.MAP).read_bytes()
    answer = client.post("/api/concepts/edit?lang=zh", json=asked)
    assert answer.status_code == 409
    assert re.search("[\u4e00-\u9fff]", answer.json()["problems"][0])
    assert (made / maps.MAP).read_bytes() == before


def test_looking_again_keeps_corrections_also_those_made_meanwhile(
    client: TestClient, backend: Backend, made: Path, examples: list[Example], finish: Finish
) -> None:
    told = edit(client, op="rename", concept=RATIO, text="proportion")
    assert told["fresh"] == 1
    backend.service.found = found_in(examples, (*NAMES, "line"))  # type: ignore[attr-defined]
    client.post("/api/concepts/make", json={})
    state = finish()
    assert names(client) == {
        "fraction",
        "denominator",
        "numerator",
        "proportion",
        "polygon",
        "line",
    }
    assert state["map"]["fresh"] == 0
    assert backend.service.asked[-1]["previous"] == str(made / maps.MAP)  # type: ignore[attr-defined]


def test_a_changed_class_is_told(client: TestClient, made: Path) -> None:
    assert not client.get("/api/concepts/state").json()["map"]["stale"]
    draft.change(data__question="question")
    assert client.get("/api/concepts/state").json()["map"]["stale"]


def test_a_damaged_map_is_a_sentence_and_can_be_made_anew(
    client: TestClient, made: Path, finish: Finish
) -> None:
    (made / maps.MAP).write_text("{", "utf-8")
    state = client.get("/api/concepts/state").json()
    assert state["map"]["problem"]
    client.post("/api/concepts/make", json={})
    assert finish()["map"]["counts"]["concepts"] == len(NAMES)


def test_the_map_can_be_taken_away(client: TestClient, made: Path) -> None:
    edit(client, op="rename", concept=RATIO, text="=1+1")
    told = json.loads(client.get("/api/concepts/file/map.json").content)
    assert {e["name"] for e in told["entities"]} >= {"=1+1", "fraction"}
    graph = ET.fromstring(client.get("/api/concepts/file/map.graphml").content)
    assert len(graph.findall(".//{*}node")) == len(NAMES)
    table = client.get("/api/concepts/file/concepts.csv")
    assert 'filename="concepts.csv"' in table.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(table.content.decode("utf-8-sig"))))
    assert "'=1+1" in {row[1] for row in rows}
    edges = client.get("/api/concepts/file/relations.csv").content.decode("utf-8-sig")
    assert len(list(csv.reader(io.StringIO(edges)))) == 1 + len(EDGES)
    assert client.get("/api/concepts/file/secrets.txt").status_code == 404


def test_the_next_run_keeps_whole_concepts_for_its_quiz(
    client: TestClient, backend: Backend, made: Path
) -> None:
    told = client.post("/api/concepts/quiz", json={"on": True}).json()["quiz"]
    assert told["held"]
    assert not told["stale"]
    run = backend.run(backend.start(draft.load()))
    sides = load_frozen(Path(run.config["data"]["path"]))
    assert (len(sides.train), len(sides.quiz)) == (told["train"], told["quiz"])
    learned = " ".join(e.question for e in sides.train).lower()
    assert not [name for name in told["held"] if name in learned]
    assert draft.load().data.path.endswith("class.csv")  # the choices of the pages stay
    assert (
        backend.run(backend.start(replace(draft.load(), method="pairs")))
        .config["data"]["path"]
        .endswith("class.csv")
    )
    client.post("/api/concepts/quiz", json={"on": False})
    assert backend.run(backend.start(draft.load())).config["data"]["path"].endswith("class.csv")


def test_examples_about_gaps_come_again(client: TestClient, made: Path) -> None:
    plain = client.post("/api/concepts/quiz", json={"on": True}).json()["quiz"]
    told = client.post("/api/concepts/quiz", json={"on": True, "weighted": True}).json()["quiz"]
    assert (plain["repeated"], told["weighted"]) == (0, True)
    sides = load_frozen(Path(told["folder"]))
    assert len(sides.train) == told["train"] + told["repeated"]


def test_a_changed_class_is_learned_with_the_ordinary_quiz_and_told(
    client: TestClient, backend: Backend, made: Path
) -> None:
    client.post("/api/concepts/quiz", json={"on": True})
    draft.change(data__answer="answer")
    assert client.get("/api/concepts/state").json()["quiz"]["stale"]
    assert backend.run(backend.start(draft.load())).config["data"]["path"].endswith("class.csv")


def test_the_quiz_by_concept_needs_a_map(client: TestClient, folder: Path) -> None:
    assert client.post("/api/concepts/quiz", json={"on": True}).status_code == 409


@pytest.fixture
def marked(backend: Backend, examples: list[Example]) -> Callable[[str], str]:
    """Return a function that makes a finished run of the class at a path, with quiz marks."""

    def make(path: str) -> str:
        config = RunConfig(name="Run 1", data=DataConfig(path=path))
        run = backend.run(backend.runner.submit(config))
        quiz = tuple(examples[2:5])
        freeze(examples, Split(tuple(examples[:2]), quiz), run.folder / "data")
        losses = {
            which: {"losses": [{"nll": nll, "tokens": 2} for _ in quiz], "answers": []}
            for which, nll in (("base", 4.0), ("tuned", 1.0))
        }
        (run.folder / "quiz.json").write_text(json.dumps(losses), "utf-8")
        backend.store.update(run.id, status="done", result={"quiz": {}})
        return run.id

    return make


def test_mastery_before_and_after_comes_from_a_run_of_the_class(
    client: TestClient, made: Path, marked: Callable[[str], str]
) -> None:
    run = marked(draft.load().data.path)
    marked("another-class.csv")
    assert [r["id"] for r in client.get("/api/concepts/state").json()["runs"]] == [run]
    rows = {r["name"]: r for r in client.get(f"/api/concepts/mastery?run={run}").json()["rows"]}
    assert set(rows) == {"ratio", "fraction"}
    assert rows["ratio"]["questions"] == 3
    assert rows["ratio"]["base"] == pytest.approx(2.718281828**-2)
    assert rows["ratio"]["tuned"] == pytest.approx(2.718281828**-0.5)
    assert rows["ratio"]["verdict"] == "better"
    assert client.get("/api/concepts/mastery?run=nobody").status_code == 409


def test_runs_with_a_quiz_by_concept_count_for_their_class(
    client: TestClient, made: Path, marked: Callable[[str], str]
) -> None:
    told = client.post("/api/concepts/quiz", json={"on": True}).json()["quiz"]
    run = marked(told["folder"])
    assert [r["id"] for r in client.get("/api/concepts/state").json()["runs"]] == [run]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frame_of_the_page_has_a_label_for_every_field(language: str) -> None:
    from studio.pages import concepts as page

    html = str(page._page(Words(language)))
    ids = re.findall(r'<(?:select|input)[^>]* id="([a-z_-]+)"', html)
    assert len(ids) == len(re.findall("<(?:select|input) ", html))
    for field in ids:
        ticked = re.search(rf'<label class="con-tick"><input [^>]*id="{field}"', html)
        assert ticked or f'for="{field}"' in html, field
