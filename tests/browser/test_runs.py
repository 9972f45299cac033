"""A run outlives the page: refresh, second tab, stop, resume, restart of the studio."""

import re
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Page, expect

from core.config import RunConfig
from tests.browser.running import Studio, start_studio

pytestmark = pytest.mark.browser

STEPS = re.compile(r"step ([1-9]\d*) of")


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """300 rows, as a teacher has them."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["问题", "答案", "Remarks"])
    for number in range(300):
        sheet.append([f"How much is {number} plus {number}?", f"It is {2 * number}.", ""])
    path = tmp_path / "Year 3 sums.xlsx"
    book.save(path)
    return path


def step_of(page: Page) -> int:
    note = page.locator("#live [data-f=loss_note]")
    expect(note).to_have_text(STEPS, timeout=120_000)
    found = STEPS.search(note.inner_text())
    assert found
    return int(found[1])


def test_a_workbook_is_trained_through_refresh_second_tab_stop_resume_and_restart(
    tmp_path: Path,
    workbook: Path,
    small_settings: RunConfig,
    new_page: Callable[..., Page],
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    tree = small_settings.to_json()
    tree["train"]["steps"] = 400
    RunConfig.from_json(tree).save(home / "draft.json")
    studio = start_studio(home)
    try:
        page = new_page()
        page.goto(f"{studio.url}/en/#/data")
        page.locator("#upload input[type=file]").set_input_files(workbook)
        expect(page.locator("#data-summary")).to_contain_text("Questions with answers: 300")
        expect(page.get_by_label("Question column")).to_have_value("问题")
        page.get_by_role("button", name="Next: memory and plan").click()
        expect(page.locator("#plan .tiles")).to_be_visible(timeout=120_000)
        page.locator("#page-plan [data-start]").click()
        before = step_of(page)

        page.reload()
        expect(page.locator("#live [data-f=status]")).to_have_text("Running")
        assert step_of(page) >= before

        second = new_page(page.context)
        second.goto(studio.url)
        expect(second.locator("#live [data-f=status]")).to_have_text("Running")
        second.get_by_role("button", name="Stop").click()
        expect(second.locator("#live [data-f=status]")).to_have_text("Stopped", timeout=60_000)
        expect(page.locator("#live [data-f=status]")).to_have_text("Stopped")
        stopped_at = step_of(page)

        page.context.close()  # both pages; they would ask a studio that is gone
        studio.stop()
        studio = start_studio(home)
        page = new_page()
        page.goto(f"{studio.url}/en/#/train")
        expect(page.locator("#live [data-f=status]")).to_have_text("Stopped")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#live [data-f=status]")).to_have_text("Done", timeout=200_000)
        assert step_of(page) > stopped_at
        page.close()
    finally:
        studio.stop()


@pytest.mark.slow
def test_pause_keeps_everything_and_resume_goes_on(
    studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{studio.url}/en/#/model")
    page.get_by_role("button", name="Start with World capitals").click()
    page.get_by_role("button", name="Pause").click()
    status = page.locator("#live [data-f=status]")
    expect(status).to_have_text("Paused", timeout=60_000)
    expect(page.get_by_role("button", name="Pause")).to_be_disabled()
    page.get_by_role("button", name="Resume").click()
    expect(status).to_have_text("Done", timeout=120_000)
