"""The whole path in a browser, counted in clicks."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.running import Studio, start_studio

pytestmark = pytest.mark.browser

TRAINING_MS = 400_000
MOST_CLICKS = 3


class Clicks:
    """A hand that counts its clicks."""

    def __init__(self) -> None:
        self.count = 0

    def click(self, target: Locator, wait_ms: float = 30_000) -> None:
        target.click(timeout=wait_ms)
        self.count += 1


def from_sample_to_both_panes(page: Page, url: str, training_ms: float) -> int:
    """Go the shortest way from a fresh start to both chat panes; return the number of clicks."""
    hand = Clicks()
    page.goto(url)
    hand.click(page.get_by_role("button", name="Start with World capitals"))
    expect(page.locator("#live [data-f=status]")).to_have_text(re.compile("Running|Waiting"))
    hand.click(page.get_by_role("button", name="Try it"), training_ms)
    expect(page.locator("#chat-base")).to_be_visible()
    expect(page.locator("#chat-tuned")).to_be_visible()
    return hand.count


def ask(page: Page, question: str) -> None:
    """Ask both models and wait until both have answered."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    for which in ("base", "tuned"):
        answers = page.locator(f"#chat-{which} .bot")
        expect(answers.last).to_be_visible(timeout=120_000)
        expect(answers.last).not_to_have_text("…", timeout=120_000)


def test_from_sample_class_to_both_panes_in_three_clicks(
    studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    assert from_sample_to_both_panes(page, studio.url, 120_000) <= MOST_CLICKS
    expect(page.locator("#quiz")).to_contain_text("Quiz results")
    ask(page, "What is the capital of France?")


@pytest.mark.slow
def test_the_same_with_the_starter_model_and_all_defaults(
    starter: Path, tmp_path: Path, new_page: Callable[..., Page]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "starter").symlink_to(starter.resolve(), target_is_directory=True)
    studio = start_studio(tmp_path)
    try:
        page = new_page()
        assert from_sample_to_both_panes(page, studio.url, TRAINING_MS) <= MOST_CLICKS
        expect(page.locator("#quiz")).to_contain_text("The tuned model knows this class better")
        ask(page, "What is the capital of France?")
        expect(page.locator("#chat-tuned .bot").last).to_contain_text("Paris")
    finally:
        studio.stop()
