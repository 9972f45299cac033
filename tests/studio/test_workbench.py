"""The class page without a browser: edits, fixes, undo, versions, downloads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openpyxl
import pytest
from starlette.testclient import TestClient

from core.config import RunConfig
from core.data.ingest import read_file
from core.data.ingest.stream import Progress
from core.data.messages import problem
from core.errors import DataError, Stopped
from core.runs.examination import STEPS
from studio import draft, imports, library
from studio.backend import Backend
from studio.pages import data_parts as parts
from studio.pages.data import ALL, Page, mapped
from studio.tasks import Task
from studio.text import LANGUAGES, Words
from studio.workbench import LEFT_OUT, Bench

ROWS = (
    ("Capital of France?", "Paris"),
    ("capital of france", "Paris."),
    ("Who knows?", "mail anna@example.org"),
    ("Nothing here", ""),
    ("Capital of Peru?", "Lima. It lies by the sea."),
)


def finding(code: str, *rows: str) -> dict[str, Any]:
    return {
        "where": ", ".join(rows), "what": f"What {code} is.", "action": "", "severity": "warning",
        "code": code, "values": {}, "count": len(rows), "rows": list(rows),
    }  # fmt: skip


REPORT = {
    "findings": [finding("health.duplicates", "row 3"), finding("health.email", "row 4"),
                 finding("tokens.truncated", "row 6")],
    "tokens": {
        "limit": 64, "examples": 4, "tokens": 100, "answer_tokens": 40, "teaching": 4,
        "longest": 70, "histogram": [[20, 3], [40, 0], [60, 0], [80, 1]],
        "truncated": {"row 6": 8}, "no_room": [], "control": ["<eot>"],
    },
    "refusal": None, "model_problem": None,
}  # fmt: skip


@pytest.fixture
def page(backend: Backend, home: Path, tmp_path: Path) -> Page:
    """A page with a class of five rows, and a service that has checked it."""
    path = tmp_path / "class.csv"
    lines = ["question,answer", *(f'"{q}","{a}"' for q, a in ROWS)]
    path.write_text("\n".join(lines), "utf-8")
    library.choose(path, "my class.csv")
    backend.service.messages = [{"event": "done", "result": REPORT}]  # type: ignore[attr-defined]
    checked = Page(backend, Words("en"))
    list(checked.check())
    return checked


def bench(page: Page) -> Bench:
    return page.desk.bench(draft.load())


def answers(page: Page) -> list[str]:
    return [row[1] for row in bench(page).version.rows]


def pressed(what: str) -> Any:
    return SimpleNamespace(id=what)


def table(page: Page, view: list[Any]) -> list[list[str]]:
    return [list(row) for row in view[15].value["data"]]


def number(view: list[Any]) -> int:
    return int(view[13])


def ids(page: Page) -> list[str]:
    return [entry.id for entry in page.desk.history(draft.load())]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_part_has_a_value_in_every_language(page: Page, language: str) -> None:
    page = Page(page.backend, Words(language))
    assert len(page.view()) == len(page._unchanged())
    found = list(page.check())[-1]
    assert "health.duplicates" in found[0]
    assert "fix:health.email" in found[0]
    assert "70" in found[2]
    assert len(found) == 4


def test_without_a_class_nothing_is_checked(page: Page) -> None:
    draft.reset()
    assert len(page.view()) == len(page._unchanged())
    assert len(list(page.check())) == 1


@pytest.mark.parametrize(("code", "left"), [
    ("health.duplicates", ["Paris", "mail anna@example.org", "", "Lima. It lies by the sea."]),
    ("health.email", ["Paris", "Paris.", "mail [e-mail]", "", "Lima. It lies by the sea."]),
    ("tokens.truncated", ["Paris", "Paris.", "mail anna@example.org", "", "Lima."]),
    (LEFT_OUT, ["Paris", "Paris.", "mail anna@example.org", "Lima. It lies by the sea."]),
])  # fmt: skip
def test_one_click_mends_a_finding_and_undo_takes_it_back(
    page: Page, code: str, left: list[str]
) -> None:
    before = draft.load()
    page.mend(pressed(f"fix:{code}"))
    assert answers(page) == left
    assert draft.load().data != before.data
    learned = read_file(draft.load().data.path).examples  # what a run would learn now
    assert [e.answer for e in learned] == [a for a in left if a]
    page.undo()
    assert draft.load() == before
    assert answers(page) == [a for _, a in ROWS]


def test_a_fix_that_leaves_nothing_is_refused(page: Page) -> None:
    before = draft.load()
    everything = finding("health.echo", *(f"row {n}" for n in range(2, 7)))
    page.backend.tasks.get(next(iter(page.backend.tasks._tasks))).result = {  # type: ignore[union-attr]
        "findings": [everything]
    }
    said = page.mend(pressed("fix:health.echo"))[0]
    assert "No row has both" in said
    assert draft.load() == before


def test_rows_are_filtered_by_finding_and_searched(page: Page) -> None:
    assert [r[0] for r in table(page, page.view(only="health.email"))] == ["row 4"]
    assert [r[0] for r in table(page, page.view(only=LEFT_OUT))] == ["row 5"]
    assert [r[1] for r in table(page, page.view(search="FRANCE"))] == [q for q, _ in ROWS[:2]]
    assert [r[0] for r in table(page, page.view(search="6"))] == ["row 6"]
    assert [r[0] for r in table(page, page.mend(pressed("show:health.duplicates")))] == ["row 3"]


def test_edits_of_a_filtered_view_change_those_rows_only(page: Page) -> None:
    view = page.view(search="france")
    shown = table(page, view)
    shown[1][2] = "Paris, on the Seine"
    page.edited(number(view), shown)
    shown[1][2] = "Paris!"  # the browser sends its whole table at every change
    page.edited(number(view), shown)
    assert answers(page) == ["Paris", "Paris!", *(a for _, a in ROWS[2:])]
    shown[0][2] = "Paris?"  # sent with the click, before its own event came
    page.save(number(view), shown)
    assert answers(page)[:2] == ["Paris?", "Paris!"]
    assert not bench(page).changed
    page.undo()
    assert answers(page) == [a for _, a in ROWS]


def test_rows_are_inserted_removed_and_sorted_in_the_browser(page: Page) -> None:
    view = page.view()
    shown = table(page, view)
    new = ["", "Capital of Chile?", "Santiago"]
    for _ in range(2):
        page.edited(number(view), [*reversed(shown[1:]), new, ["", "", ""]])
    rows = bench(page).version.rows
    assert rows == (*ROWS[1:], ("Capital of Chile?", "Santiago"))
    page.undo()
    assert bench(page).version.rows == ROWS


def test_an_edit_after_another_window_changed_the_class_is_refused(page: Page) -> None:
    old = page.view()
    page.view()
    said = page.edited(number(old), table(page, old)[:1])[0]
    assert "another window" in said
    assert bench(page).version.rows == ROWS
    assert "another window" in page.save(number(old), table(page, old)[:1])[0]


def test_a_table_without_an_edit_changes_nothing(page: Page) -> None:
    view = page.view()
    page.edited(number(view), table(page, view))
    assert not bench(page).changed


def test_undo_goes_back_edit_by_edit(page: Page) -> None:
    for text in ("one", "two"):
        view = page.view()
        shown = table(page, view)
        shown[0][2] = text
        page.edited(number(view), shown)
    page.add_row("", ALL)
    assert len(bench(page).version.rows) == 6
    page.undo()
    assert answers(page)[0] == "two"
    page.undo()
    assert answers(page)[0] == "one"
    page.undo()
    assert bench(page).version.rows == ROWS
    assert not bench(page).changed


def test_every_version_stays_and_can_be_used_compared_and_deleted(page: Page) -> None:
    first = len(ids(page))
    page.mend(pressed("fix:health.email"))
    mended = ids(page)[0]
    assert (first, len(ids(page))) == (1, 2)
    compared = page.handle_version(pressed("compare:original"))[11]
    assert "<del>mail anna@example.org</del> <ins>mail [e-mail]</ins>" in compared
    page.handle_version(pressed("use:original"))
    assert answers(page) == [a for _, a in ROWS]
    page.handle_version(pressed(f"delete:{mended}"))
    assert len(ids(page)) == 2  # asks once more
    page.handle_version(pressed(f"really:{mended}"))
    assert ids(page) == ["original"]
    assert "no longer there" in page.handle_version(pressed(f"use:{mended}"))[0]


def test_a_version_in_use_is_not_deleted(page: Page) -> None:
    page.mend(pressed("fix:health.email"))
    entry = page.desk.history(draft.load())[0]
    with pytest.raises(DataError, match="in use"):
        page.desk.delete(draft.load(), entry.id, [])
    page.backend.start(draft.load(), key="learns the version")
    page.handle_version(pressed("use:original"))
    with pytest.raises(DataError, match="in use"):
        page.desk.delete(draft.load(), entry.id, page.backend.runs())
    assert Path(entry.data.path).is_file()


def test_text_of_a_class_never_becomes_markup(page: Page) -> None:
    attack = "<img src=x onerror=alert(1)>"
    view = page.view()
    shown = table(page, view)
    shown[0][2] = attack
    page.edited(number(view), shown)
    page.save(number(view), shown)
    for what in ("compare:original", "delete:original"):
        assert "<img" not in str(page.handle_version(pressed(what)))


@pytest.mark.parametrize("form", ["csv", "xlsx", "jsonl"])
def test_a_class_is_downloaded_as_it_stands_and_read_back(
    page: Page, client: TestClient, form: str, tmp_path: Path
) -> None:
    view = page.view()
    shown = table(page, view)
    shown[0][2] = "=HYPERLINK(1)"
    page.edited(number(view), shown)
    answer = client.get(f"/api/class/rows.{form}")
    assert "attachment" in answer.headers["content-disposition"]
    assert f"my%20class.{form}" in answer.headers["content-disposition"]
    path = tmp_path / f"back.{form}"
    path.write_bytes(answer.content)
    found = [(e.question, e.answer) for e in read_file(path).examples]
    assert found == [(ROWS[0][0], "=HYPERLINK(1)"), *(r for r in ROWS[1:] if r[1])]
    if form != "jsonl":
        assert b"'=HYPERLINK(1)" in answer.content or form == "xlsx"
    original = client.get(f"/api/class/rows.{form}?version=original")
    assert original.status_code == 200
    assert original.content != answer.content


def test_downloads_that_are_not_there_are_sentences(page: Page, client: TestClient) -> None:
    assert client.get("/api/class/rows.exe").status_code == 404
    gone = client.get("/api/class/rows.csv?version=nothing&lang=zh")
    assert gone.status_code == 404
    assert "版本" in gone.json()["problems"][0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_template_can_be_fetched_and_uploaded(
    client: TestClient, language: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(client.get(f"/api/class/template.xlsx?lang={language}").content)
    assert len(read_file(path).examples) == 3


def test_the_check_is_asked_for_once(page: Page) -> None:
    asked = len(page.backend.service.asked)  # type: ignore[attr-defined]
    list(page.check())
    page.view()
    assert len(page.backend.service.asked) == asked  # type: ignore[attr-defined]
    op, request = page.backend.service.asked[-1]  # type: ignore[attr-defined]
    assert op == "health"
    assert RunConfig.from_json(request["config"]).data == draft.load().data
    assert json.dumps(request)


def test_a_check_that_nobody_waits_for_is_cancelled(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, first = threading.Event(), threading.Event()

    def endless(op: str, **request: Any) -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {"event": "progress", "share": 0.5}
                first.set()
                time.sleep(0.01)
        finally:
            closed.set()

    draft.change(train__max_length=77)  # another question than the one answered
    monkeypatch.setattr(page.backend.service, "stream", endless)
    shown = page.check()
    assert "50 %" in next(shown)[0]
    assert first.wait(5)
    monkeypatch.undo()
    library.choose_sample("en")
    assert len(list(page.check())) >= 1
    assert closed.wait(5)
    assert list(shown) == []


PASSAGE = (
    "Rolle,Text,Frage,Zusatz,Antwort,Thema\n"
    "Be brief.,Rome fell.,Why?,In two words.,Bad kings.,history\n"
    ",Water boils.,When?,,At 100 C.,physics\n"
)


@pytest.fixture
def passages(page: Page, tmp_path: Path) -> Page:
    """The page with a class that has more columns than question and answer."""
    path = tmp_path / "passages.csv"
    path.write_text(PASSAGE, "utf-8")
    library.choose(path, "passages.csv")
    return page


def read_now() -> list[list[str]]:
    """What a run would learn now: the turns of every example, and its topic."""
    data = draft.load().data
    found = read_file(data.path, **data.reading()).examples
    return [[*(t.content for t in e.turns), e.topic] for e in found]


def choose(page: Page, **menus: list[str]) -> list[Any]:
    names = ("question_more", "answer_more", "context", "system", "topic", "options", "earlier")
    more = [menus.get(name, []) for name in names]
    return page.read_as(
        menus.get("sheet", ""), menus.get("question", "Frage"), "Antwort", "", *more
    )


def test_columns_of_every_part_are_chosen_and_outlive_an_edit(passages: Page) -> None:
    choose(passages, question_more=["Zusatz"], context=["Text"], system=["Rolle"], topic=["Thema"])
    first = ["Be brief.", "Rome fell.\n\nWhy?\nIn two words.", "Bad kings.", "history"]
    second = ["Water boils.\n\nWhen?", "At 100 C.", "physics"]
    assert read_now() == [first, second]
    view = passages.view()
    shown = table(passages, view)
    shown[1][5] = "At 99 C."
    passages.save(number(view), shown)
    second[1] = "At 99 C."
    assert read_now() == [first, second]
    assert "versions" in draft.load().data.path
    assert "Bad kings." in str(passages.view()[-1])  # the first rows as they are learned


def test_a_column_leaves_the_part_that_had_it() -> None:
    before = {"question": ("Q",), "answer": ("A",), "topic": ("T",), "wrong": ("W",)}
    wanted = {"question": ("T", "Q"), "answer": ("W",), "topic": ("T",), "system": ()}
    assert mapped(before, wanted) == {
        "question": ("T", "Q"), "answer": ("W",), "topic": (), "wrong": (), "system": ()
    }  # fmt: skip
    assert "question" not in mapped(before, {"question": (None,)})  # it is guessed again


def test_a_guessed_encoding_is_shown_with_its_lines_and_can_be_changed(
    page: Page, tmp_path: Path
) -> None:
    path = tmp_path / "class.csv"
    path.write_bytes("问题,答案\n法国的首都是哪里？,巴黎在塞纳河\n".encode("gb18030"))
    library.choose(path, "class.csv")
    shown = str(page.view()[-2])
    assert 'value="gb18030" checked' in shown
    assert "法国的首都是哪里" in shown
    page.read_in(pressed("cp1252"))
    assert draft.load().data.encoding == "cp1252"
    assert 'value="gb18030"' in str(page.view()[-2])  # the way back
    assert 'value="cp1252" checked' in str(page.view()[-2])


def test_all_sheets_or_one_of_them_can_be_read(page: Page, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for title in ("One", "Two"):
        sheet = book.create_sheet(title)
        sheet.append(["question", "answer"])
        sheet.append([f"{title}?", title])
    del book["Sheet"]
    book.save(tmp_path / "units.xlsx")
    library.choose(tmp_path / "units.xlsx", "units.xlsx")
    menu = page.view()[5]
    assert [value for _, value in menu.choices] == ["*", "One", "Two"]
    assert menu.value == "*"
    none: list[list[str]] = [[]] * 7
    page.read_as("Two", "question", "answer", "", *none)
    assert [turns[:2] for turns in read_now()] == [["Two?", "Two"]]
    page.read_as("*", "question", "answer", "", *none)
    assert [turns[-1] for turns in read_now()] == ["One", "Two"]  # the sheets are topics


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_large_file_is_imported_shown_and_checked_but_not_edited(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    page = Page(page.backend, Words(language))
    before = draft.load()
    monkeypatch.setattr(library, "LARGEST", 20)
    path = tmp_path / "big.csv"
    path.write_text("question,answer\na?,b\nc?,d\n", "utf-8")
    taken = page.take_upload(str(path))
    assert draft.load() == before  # until it is there
    assert len(taken) == len(page._unchanged())
    assert "big.csv" in str(parts.importing("big.csv", {"share": 0.5}, page.words))
    assert list(page.watch_import())[-1] == ""
    view = page.view_imported()
    assert "import-" in draft.load().data.path
    assert [row[1:] for row in table(page, view)] == [["a?", "b"], ["c?", "d"]]
    assert len(view) == len(page._unchanged())
    assert page.view_imported() == page._unchanged()  # it is told once
    assert len(list(page.check())) >= 1
    for refused in (page.mend(pressed("fix:health.email")), page.save(0, [])):
        assert page.words.problem(problem("large.not_edited")).what in str(refused[0])
    choose(page, question="answer")  # read in another way: imported again
    assert list(page.watch_import())[-1] != ""  # of "Antwort" there is no column


def test_an_import_that_is_stopped_leaves_the_class_as_it_was(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def endless(*_: Any, should_stop: Any, progress: Any, **__: Any) -> None:
        asked.set()
        while not should_stop():
            progress(Progress(10, 1, 100, 1.0))
            time.sleep(0.01)
        raise Stopped("The import was stopped; nothing was kept.", code="import.stopped")

    monkeypatch.setattr(library, "LARGEST", 20)
    monkeypatch.setattr(imports.large, "import_isolated", endless)
    path = tmp_path / "big.csv"
    path.write_text("question,answer\na?,b\nc?,d\ne?,f\n", "utf-8")
    before = draft.load()
    page.take_upload(str(path))
    shown = page.watch_import()
    assert "big.csv" in next(shown)
    assert asked.wait(5)
    page.cancel_import()
    assert list(shown)[-1] == ""
    assert page.view_imported() == page._unchanged()
    assert draft.load() == before


def test_the_check_says_what_it_is_doing(page: Page) -> None:
    said = [parts.checking(Task(progress={"share": s, "detail": d}), page.words)
            for d, s in STEPS.items()]  # fmt: skip
    assert len(set(said)) == len(STEPS)
    assert "starting" in parts.checking(Task(), page.words)
