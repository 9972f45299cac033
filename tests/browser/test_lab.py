"""Methods compared in a browser: queued, watched, compared, the report taken away."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.config import RunConfig
from tests.browser.running import Studio, start_studio

pytestmark = pytest.mark.browser

RUNS_MS = 400_000  # three short runs one after another on a busy machine


@pytest.fixture(scope="module")
def lab_studio(
    tmp_path_factory: pytest.TempPathFactory, small_settings: RunConfig
) -> Iterator[Studio]:
    """A studio of its own: the comparison counts the runs that are there."""
    home = tmp_path_factory.mktemp("lab")
    train = replace(small_settings.train, steps=12)
    replace(small_settings, train=train).save(home / "draft.json")
    running = start_studio(home)
    yield running
    running.stop()


def downloaded(page: Page, name: str) -> str:
    with page.expect_download() as waiting:
        page.get_by_role("link", name=name).click()
    path = waiting.value.path()
    return Path(path).read_text("utf-8-sig")


@pytest.mark.slow
def test_three_methods_are_queued_watched_compared_and_reported(
    lab_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page(accept_downloads=True)
    page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    page.goto(f"{lab_studio.url}/en/#/model")
    page.get_by_role("link", name="Compare methods").click()
    expect(page.locator("#page-lab h1")).to_be_visible()
    lab = page.locator("#lab")
    expect(lab.locator("[data-part=none]")).to_be_visible()

    rows = lab.locator(".lab-row")
    expect(rows).to_have_count(2)
    lab.get_by_role("button", name="Add a row").click()
    expect(rows).to_have_count(3)
    lab.get_by_label("Method of row 3").select_option("adaq")
    lab.get_by_label("Changed setting of row 3").select_option(label="rank")
    lab.get_by_label("Value of row 3").select_option(label="2")
    lab.get_by_label("Class data").select_option(label="World capitals")
    lab.get_by_label(re.compile("Memory limit")).fill("2000")
    lab.get_by_role("button", name="Start 3 runs").click()

    states = lab.locator(".lab-states li")
    expect(states).to_have_count(3)
    expect(states.nth(2)).to_contain_text("World capitals · Edu-ADAQ-LoRA · rank 2 · seed 0")
    expect(page).to_have_url(re.compile(r"#/lab/[^+]+\+[^+]+\+[^+]+$"))
    # Watched: a curve is there before all is done, and a refresh changes nothing.
    expect(lab.locator(".plot .scatterlayer .trace").first).to_be_attached(timeout=RUNS_MS)
    page.reload()
    expect(states).to_have_count(3)

    figures = lab.locator(".lab-table tbody tr")
    for k in range(3):
        expect(figures.nth(k)).to_contain_text("1 of 1 done", timeout=RUNS_MS)
    expect(lab.locator(".plot .scatterlayer .trace")).to_have_count(3)
    heads = lab.locator(".lab-table thead th").all_inner_texts()
    assert heads[1] == "Held-out loss"
    assert {"Peak memory", "Time", "Trained numbers", "File size"} <= set(heads)
    losses = [figures.nth(k).locator("td b").first.inner_text() for k in range(3)]
    assert all(re.fullmatch(r"\d+\.\d{3}", loss) for loss in losses)
    expect(lab.locator(".lab-notes")).to_contain_text("One seed each")

    lab.get_by_label("Compared with").select_option(label="QLoRA")
    first = figures.first.locator("td").first
    expect(first).to_contain_text(re.compile(r"[+-]\d\.\d{3}"))
    gap = float(losses[0]) - float(losses[1])
    assert float(first.locator("small").last.inner_text()) == pytest.approx(gap, abs=2e-3)

    table = list(csv.reader(io.StringIO(downloaded(page, "Table (CSV)"))))
    assert [line[0] for line in table[1:]] == ["run", "summary"] * 3
    report = downloaded(page, "Report (HTML)")
    assert report.startswith("<!doctype html>")
    assert "<script" not in report
    assert all(loss in report for loss in losses)

    other = new_page()  # somebody else, who has compared nothing yet
    past_runs_are_ticked_and_compared(other, lab_studio)
    again = new_page(other.context)
    again.goto(f"{lab_studio.url}/zh/{re.sub('.*#', '#', page.url)}")
    expect(again.locator("#lab .lab-table tbody tr")).to_have_count(3)


def past_runs_are_ticked_and_compared(page: Page, studio: Studio) -> None:
    page.goto(f"{studio.url}/zh/#/lab")
    lab = page.locator("#lab")
    ticks = lab.locator(".lab-ticks input")
    expect(ticks).to_have_count(3)
    ticks.nth(0).focus()
    page.keyboard.press("Space")
    ticks.nth(1).check()
    expect(lab.locator(".lab-table tbody tr")).to_have_count(2)
    expect(lab.locator(".lab-table thead th").nth(1)).to_have_text("测验损失")
    lab.get_by_role("button", name="全部取消").click()
    expect(lab.locator("[data-part=none]")).to_be_visible()


def test_one_part_off_at_a_time_fills_the_rows(
    lab_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{lab_studio.url}/en/#/lab")
    lab = page.locator("#lab")
    lab.get_by_role("button", name="One part off at a time").click()
    rows = lab.locator(".lab-row")
    expect(rows).to_have_count(5)
    changed = [rows.nth(k).locator("select").nth(1).input_value() for k in range(5)]
    assert changed[0] == ""
    assert len(set(changed)) == 5
    expect(lab.get_by_role("button", name="Start 5 runs")).to_be_enabled()
    lab.get_by_label("Seeds").select_option("3")
    expect(lab.get_by_role("button", name="Start 15 runs")).to_be_enabled()


def test_two_rows_that_are_the_same_are_refused_with_a_sentence(
    lab_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{lab_studio.url}/en/#/lab")
    lab = page.locator("#lab")
    expect(lab.locator(".lab-row")).to_have_count(2)
    lab.get_by_label("Method of row 2").select_option("adaq")
    lab.get_by_role("button", name="Start 2 runs").click()
    expect(page.locator("#message")).to_contain_text("the very same run")
