"""The concept map in a browser: drawn, walked, corrected, listed, taken away. No model is run."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.config import DataConfig, RunConfig
from core.data.ingest import read_file
from core.graph import document
from core.graph.document import MapDocument
from core.graph.material import passages_of
from core.graph.names import mentions_in
from core.graph.types import Concept, ConceptMap, Relation, concept_id
from core.home import ASSETS
from studio import maps
from tests.browser.running import Studio
from tests.browser.test_access import axe_script, violations

__all__ = ["axe_script"]  # a fixture

pytestmark = pytest.mark.browser

SAMPLE = ASSETS / "samples" / "english.csv"
MOST = 300


@pytest.fixture(scope="module")
def mapped(studio: Studio, small_settings: RunConfig) -> Studio:
    """The studio with a map of the sample class: its capitals, and names up to 300."""
    examples = read_file(SAMPLE).examples
    passages, questions = passages_of(examples)
    words = {w for p in passages for w in re.findall(r"[A-Z][a-zà-ž]{3,}", p.text)} - {"What"}
    names = ["capital", "country", "city", *sorted(words)]
    names += [f"{name} at night" for name in names][: MOST - len(names)]
    at = mentions_in({n: n for n in names}, passages)
    concepts = tuple(
        Concept(concept_id(n), n, mentions=at.get(n, ()), confidence=0.4 + 0.5 * (i < 60))
        for i, n in enumerate(names)
    )
    edges = [("country", "capital", 0.9), *(("capital", n, 0.5 + i / 200) for i, n in
             enumerate(names[3:80]))]  # fmt: skip
    relations = tuple(
        Relation(concept_id(a), concept_id(b), "prerequisite", p) for a, b, p in edges
    )
    found = ConceptMap("capitals", "en", passages, questions, concepts, relations)
    config = replace(small_settings, name="World capitals", data=DataConfig(path=str(SAMPLE)))
    folder = studio.home / "maps" / maps.folder_of(config).name
    folder.mkdir(parents=True)
    document.save(MapDocument(found), folder / maps.MAP)
    config.save(studio.home / "draft.json")
    return studio


def opened(page: Page, studio: Studio, language: str = "en") -> Page:
    page.goto(f"{studio.url}/{language}/#/concepts")
    expect(page.locator("#concepts .con-node").first).to_be_attached()
    return page


def test_a_map_is_drawn_walked_corrected_and_taken_away(
    mapped: Studio, new_page: Callable[..., Page]
) -> None:
    page = opened(new_page(accept_downloads=True, reduced_motion="reduce"), mapped)
    con = page.locator("#concepts")
    canvas, detail = con.locator(".con-canvas"), con.locator("[data-f=detail]")
    count = con.locator(".con-node").count()
    assert count > 200
    shown = con.locator(".con-name:visible")
    assert 5 < shown.count() < count  # names never cover one another

    con.get_by_label("Search").fill("country")
    page.keyboard.press("Enter")
    expect(detail.locator("h2")).to_have_text("country")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(detail.locator("h2")).not_to_have_text("country")
    page.keyboard.press("Escape")

    con.get_by_label("Search").fill("capital")
    page.keyboard.press("Enter")
    expect(detail.locator("h2")).to_have_text("capital")
    expect(detail.locator("mark").first).to_have_text(re.compile("capital", re.IGNORECASE))
    con.get_by_role("button", name="Show what comes before").click()
    expect(con.locator(".con-node")).to_have_count(2 + 77)  # country, and what it prepares for
    con.get_by_role("button", name="Back to the whole map").click()
    expect(con.locator(".con-node")).to_have_count(count)

    detail.get_by_text("Correct it").click()
    detail.get_by_label("Name", exact=True).fill("seat of government")
    detail.get_by_role("button", name="Rename").click()
    expect(detail.locator("h2")).to_have_text("seat of government")
    opened(page, mapped)
    page.reload()
    expect(con.locator(".con-node title", has_text="seat of government")).to_be_attached()
    con.get_by_role("button", name="Undo").click()
    expect(con.locator(".con-node title", has_text=re.compile("^capital$"))).to_be_attached()

    con.get_by_label("At least this sure").fill("60")
    expect(con.locator(".con-node").nth(100)).not_to_be_attached()
    con.get_by_role("button", name="List").click()
    rows = con.locator(".con-table tbody tr")
    expect(rows.first).to_be_visible()
    assert rows.count() < 100
    with page.expect_download() as waiting:
        con.get_by_role("button", name="Picture (SVG)").click()
    drawing = ET.fromstring(Path(waiting.value.path()).read_text("utf-8"))
    assert "capital" in [t.text for t in drawing.iter("{http://www.w3.org/2000/svg}text")]
    with page.expect_download() as waiting:
        con.get_by_role("button", name="Picture (PNG)").click()
    assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(("language", "look"), [("en", "light"), ("zh", "dark")])
def test_axe_finds_nothing_on_a_made_map(
    mapped: Studio, new_page: Callable[..., Page], axe_script: str, language: str, look: str
) -> None:
    page = opened(new_page(color_scheme=look, reduced_motion="reduce"), mapped, language)
    page.locator("#concepts .con-order .con-link").first.click()
    expect(page.locator("#concepts [data-f=detail] h2")).to_be_visible()
    page.locator("#concepts [data-f=detail] summary").click()
    assert violations(page, axe_script) == []
    page.locator("#concepts [data-view=list]").click()
    expect(page.locator("#concepts .con-table tbody tr").first).to_be_visible()
    assert violations(page, axe_script) == []
