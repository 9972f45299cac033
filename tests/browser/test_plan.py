"""A memory limit that is too small: what it says, and the one click that mends it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from core.config import MB, RunConfig
from studio.library import SAMPLES
from studio.pages.plan import SMALLEST_MB
from tests.browser.running import Studio, start_studio

pytestmark = pytest.mark.browser

PLAN_MS = 120_000
SIZE = re.compile(r"The smallest limit that works is ([\d.,]+) (MB|GB)")


@pytest.fixture(scope="module")
def tight_studio(
    tmp_path_factory: pytest.TempPathFactory, small_settings: RunConfig
) -> Iterator[Studio]:
    """A studio whose saved limit is too small for any training."""
    home = tmp_path_factory.mktemp("tight")
    data = replace(small_settings.data, path=str(SAMPLES[0].path))
    config = replace(small_settings, data=data, budget_bytes=SMALLEST_MB * MB)
    config.save(home / "draft.json")
    running = start_studio(home)
    yield running
    running.stop()


@pytest.mark.slow
def test_a_run_that_does_not_fit_fails_with_a_way_back_to_the_plan(
    tight_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{tight_studio.url}/en/#/plan")
    expect(page.locator("#plan .banner.bad")).to_be_visible(timeout=PLAN_MS)
    page.locator("#page-plan [data-start]").click()
    expect(page.locator("#live [data-f=status]")).to_have_text("Failed", timeout=PLAN_MS)
    expect(page.locator("#live [data-f=notice]")).to_contain_text(f"{SMALLEST_MB} MB")
    page.get_by_role("button", name="Change the plan").click()
    expect(page.locator("#page-plan h1")).to_be_visible()


def test_a_limit_below_the_minimum_says_the_minimum_and_one_click_applies_it(
    tight_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{tight_studio.url}/en/#/plan")
    banner = page.locator("#plan .banner.bad")
    expect(banner).to_contain_text(f"{SMALLEST_MB} MB is not enough", timeout=PLAN_MS)
    found = SIZE.search(banner.inner_text())
    assert found
    minimum = float(found[1].replace(",", "")) * (1000 if found[2] == "GB" else 1)
    assert minimum > SMALLEST_MB
    expect(page.locator("#budget-scale")).to_contain_text("at least")

    banner.get_by_role("button", name=re.compile("^Use ")).click()
    expect(page.locator("#plan .tiles")).to_be_visible(timeout=PLAN_MS)
    expect(banner).to_be_hidden()
    applied = float(page.locator("#budget input[type=number]").input_value())
    assert minimum <= applied < minimum + 50
    page.reload()
    expect(page.locator("#budget input[type=number]")).to_have_value(f"{applied:g}")
