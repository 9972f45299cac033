"""The live page is extended, never rebuilt: zoom, requests and charts of a longer run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, expect

from core.config import RunConfig
from tests.browser.running import start_studio

pytestmark = pytest.mark.browser

STEPS = 400
MOST_BYTES = 20_000  # of one answer while a run goes on; a whole plan is larger
LOSS = "document.querySelector('.plot.loss')"


def steps_drawn(page: Page) -> int:
    return int(page.evaluate(f"{LOSS}.data ? {LOSS}.data[0].x.length : 0"))


@pytest.mark.slow
def test_charts_grow_and_keep_their_zoom_while_training(
    tmp_path: Path, small_settings: RunConfig, new_page: Callable[..., Page]
) -> None:
    tree = small_settings.to_json()
    tree["train"]["steps"] = STEPS
    RunConfig.from_json(tree).save(tmp_path / "draft.json")
    studio = start_studio(tmp_path)
    try:
        page = new_page()
        page.goto(f"{studio.url}/en/#/model")
        page.get_by_role("button", name="Start with World capitals").click()
        expect(page.locator("#live [data-f=loss_note]")).to_have_text(
            re.compile(r"step [1-9]"), timeout=120_000
        )
        for kind in ("ranks", "bits"):
            expect(page.locator(f"#live .plot.heat.{kind} .plotly")).to_be_visible()
        expect(page.locator("#live [data-f=memory]")).to_have_text(re.compile(r"\d+ MB of "))
        answers: list[Response] = []
        page.on("response", lambda r: answers.append(r) if "/live" in r.url else None)

        page.evaluate(f"Plotly.relayout({LOSS}, {{'xaxis.range': [1, 5]}})")
        before = steps_drawn(page)
        page.wait_for_function(f"{LOSS}.data[0].x.length >= {before + 20}", timeout=120_000)
        assert page.evaluate(f"{LOSS}.layout.xaxis.range") == [1, 5]

        expect(page.locator("#live [data-f=status]")).to_have_text("Done", timeout=240_000)
        page.wait_for_function(f"{LOSS}.data[0].x.length > {before + 20}")
        drawn = page.evaluate(f"{LOSS}.data[0].x")
        assert drawn == list(range(1, len(drawn) + 1))  # every step once
        assert page.evaluate(f"{LOSS}.layout.xaxis.range") == [1, 5]
        sizes = [len(answer.body()) for answer in answers]
        assert max(sizes) < MOST_BYTES
        page.close()
    finally:
        studio.stop()
