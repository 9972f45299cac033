"""All words in one place: complete in every language, with the same fields."""

import re
from pathlib import Path
from string import Formatter

import pytest

from core.data.messages import CODES, data_error, problem
from core.errors import Problem
from core.home import ASSETS, CHECKOUT
from studio.app import STEPS, TASKS
from studio.charts import live_delta
from studio.text import LANGUAGES, Words, catalogue, preferred_language, translations

OTHERS = [language for language in LANGUAGES if language != "en"]


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_the_same_keys_with_the_same_fields(language: str) -> None:
    english, other = catalogue("en"), catalogue(language)
    assert set(english) == set(other)
    for key, text in english.items():
        assert fields(text) == fields(other[key]), key
        assert other[key].strip(), key


@pytest.mark.parametrize("language", OTHERS)
def test_every_finding_about_a_file_is_translated_with_fields_it_has(language: str) -> None:
    known = translations(language)
    assert set(CODES) <= set(known)
    for code, message in CODES.items():
        there = fields(message.what) | fields(message.action)
        for translation in known[code]:
            assert fields(translation.what) | fields(translation.action) <= there, code
            assert bool(translation.action) == bool(message.action), code


def test_every_key_that_the_code_names_exists() -> None:
    keys = catalogue("en")
    for file in (CHECKOUT / "studio").rglob("*.py"):
        for key in re.findall(r'\bwords\(\s*"([a-z_.]+)"', file.read_text("utf-8")):
            assert key in keys, f"{key} in {file.name}"


def test_every_word_that_the_scripts_ask_for_exists() -> None:
    keys = Words("en").group("js")
    for file in (ASSETS / "js").glob("*.js"):
        for key in re.findall(r'\bsay\("([a-z_]+)"', file.read_text("utf-8")):
            assert key in keys, f"{key} in {file.name}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_step_has_help(language: str) -> None:
    for step in (*STEPS, *TASKS):
        assert (ASSETS / "help" / f"{step}.{language}.md").read_text("utf-8").strip()


def test_places_in_files_of_questions_are_told_in_chinese() -> None:
    said = Words("zh").place
    assert (
        said("quiz.xml, question 2, line 30 and 4 more") == "quiz.xml, 第 2 题, 第 30 行，另有 4 处"
    )
    assert said("page 1, line 2") == "第 1 页, 第 2 行"
    assert said("note 3, card 1") == "第 3 条笔记, 第 1 张卡片"


def test_a_finding_is_told_in_chinese_with_its_place_and_values() -> None:
    found = problem("table.unknown_column", "row 3, row 5 and 7 more", column="Q", columns="a, b")
    said = Words("zh").problem(found)
    assert said.where == "第 3 行, 第 5 行，另有 7 处"
    assert "Q" in said.what
    assert "a, b" in said.what
    assert "column" not in said.what


def test_values_are_read_out_of_a_sentence_that_comes_without_them() -> None:
    error = data_error("file.type", "virus.exe", suffix=".exe", accepted="CSV and XLSX")
    (said,) = Words("zh").error(error)
    assert ".exe" in said.what
    assert "CSV and XLSX" in said.action


def test_two_sentences_of_one_code_are_told_apart() -> None:
    words = Words("zh")
    named = words.problem(Problem("", "There is no model 'tiger'.", code="model.unknown"))
    folder = words.problem(Problem("", "This is no model folder.", code="model.unknown"))
    assert "tiger" in named.what
    assert named.what != folder.what


def test_a_sentence_without_translation_stays_english() -> None:
    unknown = Problem("", "Something new.", "Look.", code="never.heard")
    assert Words("zh").problem(unknown).what == "Something new."
    other = Problem("", "Another sentence of a known code.", code="model.unknown")
    assert Words("zh").problem(other).what == "Another sentence of a known code."


@pytest.mark.parametrize(
    ("cookie", "browser", "language"),
    [
        ("zh", "en-US", "zh"),
        (None, "zh-TW,zh;q=0.9", "zh"),
        (None, "de-DE,de", "en"),
        ("xx", None, "en"),
        ("en", "zh-CN", "en"),
    ],
)
def test_language_by_cookie_then_browser(
    cookie: str | None, browser: str | None, language: str
) -> None:
    assert preferred_language(cookie, browser) == language


def test_sizes_are_decimal_as_the_system_shows_them() -> None:
    assert Words("en").size(900_000_000) == "900 MB"
    assert Words("en").size(1_500_000_000) == "1.50 GB"


def test_no_page_holds_a_sentence_of_its_own() -> None:
    """Chinese characters or full sentences in page code would escape translation."""
    for file in Path(CHECKOUT / "studio" / "pages").glob("*.py"):
        assert not re.search("[\u4e00-\u9fff]", file.read_text("utf-8")), file.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_changes_of_bits_are_told_on_the_page(language: str) -> None:
    words = Words(language)
    layer = {"step": 4, "layer": "model.layers.3.mlp.up_proj", "from_bits": 4, "to_bits": 8}
    kept = {"kind": "requantized", **layer, "loss_before": 1.5, "loss_after": 1.25}
    undone = {"kind": "rolled_back", **layer, "loss_before": 1.5, "loss_after": 1.75}
    no_room = {"kind": "rolled_back", **layer, "loss_before": 1.5, "loss_after": None}
    told = live_delta([kept, undone, no_room], words)["changes"]
    assert len(set(told)) == 3
    assert all("model.layers.3.mlp.up_proj" in sentence for sentence in told)
    assert "1.250" in told[0]
    assert "1.750" in told[1]
