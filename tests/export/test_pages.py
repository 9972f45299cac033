"""Model card and report: true figures, escaped text, both languages, nothing from outside."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from core.events import Evaluated, StepDone
from core.export import export
from core.export.card import escaped
from core.export.report import losses_of, strings

MakeRun = Callable[..., Path]


def _step(step: int, loss: float) -> str:
    event = StepDone(step, 3, loss, 1e-3, 10.0, 1, 1, 0.1, 1.0)
    return json.dumps(event.to_json())


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    folder = make_run("llama", name="Class <script>alert(1)</script> | 7b")
    quiz = json.dumps(Evaluated(2, 2.5).to_json())
    lines = [_step(1, 4.0), _step(2, 3.0), quiz, _step(2, 2.0), '{"kind": "st']
    (folder / "events.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "rect", "polyline", "path", "link", "img"):
            self.open.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("rect", "polyline", "path"):
            return
        assert self.open.pop() == tag


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_is_one_whole_page_in_both_languages(
    run: Path, tmp_path: Path, language: str
) -> None:
    result = export(run, "report", tmp_path / "report", language=language)
    html = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert result["files"] == ["report.html"]
    page = _Tags()
    page.feed(html)
    assert page.open == [] and "script" not in page.tags and page.addresses == []
    assert "<script>" not in html and "&lt;script&gt;" in html
    words = strings(language)
    assert all(words[key] in html for key in ("title", "marks", "better", "worse", "memory"))
    quiz = json.loads((run / "result.json").read_text("utf-8"))["quiz"]
    assert f"{quiz['tuned']['nll']:.3f}" in html and "790 MB" in html
    assert "@page" in html and "{" not in re.sub(r"<style>.*</style>", "", html, flags=re.S)


def test_both_languages_have_the_same_words() -> None:
    english, chinese = strings("en"), strings("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese[key]))
    assert strings("fr") == english


def test_a_repeated_step_counts_once_and_a_cut_line_not_at_all(run: Path) -> None:
    assert losses_of(run / "events.jsonl") == ([(1, 4.0), (2, 2.0)], [(2, 2.5)])
    assert losses_of(run / "none.jsonl") == ([], [])


def test_a_run_without_a_quiz_has_a_report_too(run: Path, tmp_path: Path) -> None:
    result = json.loads((run / "result.json").read_text("utf-8"))
    (run / "result.json").write_text(json.dumps({**result, "quiz": {}}), "utf-8")
    export(run, "report", tmp_path / "report")
    export(run, "card", tmp_path / "card")
    assert strings("en")["no_quiz"] in (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "nothing was measured" in (tmp_path / "card" / "README.md").read_text("utf-8")


def test_the_card_says_what_others_need(run: Path, tmp_path: Path) -> None:
    export(run, "peft-learned", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "peft" and "lora" in front["tags"]
    assert "this export, loaded back" in card and "Against the studio" in card
    assert "PeftModel.from_pretrained" in card and str(tmp_path) not in card
    assert "<script>" not in card and "\n# Class &lt;script" in card
    question = "What is the capital of France?"
    assert question not in card  # cards are published, a class's questions are not


def test_what_a_person_typed_is_no_markdown() -> None:
    assert escaped("a\n# b") == "a \\# b"
    assert escaped("[x](javascript:y)") == "\\[x\\]\\(javascript:y\\)"
    assert escaped("<b>&") == "&lt;b&gt;&amp;"
    assert escaped("a|b") == "a\\|b"
