"""The task "same question?" in a browser: train on sample pairs, read the marks, use the model."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.config import AdapterConfig, RunConfig, TrainConfig
from tests.browser.running import Studio, start_studio

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pair_studio(
    tmp_path_factory: pytest.TempPathFactory, small_settings: RunConfig, tiny: Callable[[str], Path]
) -> Iterator[Studio]:
    """A studio in which both tasks use a tiny model."""
    home = tmp_path_factory.mktemp("pairs")
    small_settings.save(home / "draft.json")
    shutil.copytree(tiny("llama"), home / "models" / "small")
    train = TrainConfig(steps=6, tokens_per_step=256, lr=5e-3)
    task = RunConfig(method="pairs", model="small", train=train, adapter=AdapterConfig(rank=2))
    task.save(home / "pairs.json")
    running = start_studio(home)
    yield running
    running.stop()


@pytest.mark.slow
def test_from_sample_pairs_to_doubles_of_a_class(
    pair_studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    page.goto(f"{pair_studio.url}/en/#/data")
    page.locator("#sample-choices input").first.check()
    expect(page.locator("#data-summary .chip").first).to_be_visible()

    page.get_by_role("link", name="Same question?").click()
    expect(page.locator("#page-pairs h1")).to_be_visible()
    page.locator("#pair-samples input").first.check()
    expect(page.locator("#pairs-summary")).to_contain_text("120 pairs")
    page.locator("#page-pairs").get_by_role("button", name="Start training").click()

    live = page.locator("#pairs-live")
    expect(live.locator("[data-f=status]")).to_have_text(re.compile("Done"), timeout=240_000)
    expect(live.locator("[data-f=on]")).to_contain_text("24 pairs kept out of training")
    counts = [
        int(live.locator(f"[data-f={cell}]").inner_text()) for cell in ("tp", "fn", "fp", "tn")
    ]
    assert sum(counts) == 24
    expect(live.locator(".plot .scatterlayer .trace")).to_have_count(3)

    page.get_by_label("First question").fill("When is the homework due?")
    page.get_by_label("Second question").fill("What is a noun?")
    page.get_by_role("button", name="Compare").click()
    # The first question waits for the helper process and its model.
    sure = re.compile(r"\d+ % sure")
    expect(page.locator("#pairs-said")).to_contain_text(sure, timeout=240_000)
    page.get_by_role("button", name="Find duplicates").click()
    said = re.compile("116 questions of World capitals")
    expect(page.locator("#pairs-found")).to_contain_text(said, timeout=240_000)

    page.reload()
    expect(live.locator("[data-f=status]")).to_have_text(re.compile("Done"))
