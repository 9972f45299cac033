"""Anyone can use it: axe-core on every page, keyboard, language and look."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from studio.app import STEPS, TASKS
from studio.text import LANGUAGES
from tests.browser.running import Studio

pytestmark = pytest.mark.browser

# Gradio's own markup, which is not ours to change: the file drop zone and the table's tools.
GRADIO_OWN = "#upload, #pairs-upload, #rows, .chat-pane, #budget"


@pytest.fixture(scope="module")
def axe_script() -> str:
    import axe_playwright_python as package

    return (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")


def violations(page: Page, script: str) -> list[str]:
    page.evaluate(script)
    result = page.evaluate(
        "(own) => axe.run({exclude: own.split(', ').map((s) => [s])})",
        GRADIO_OWN,
    )
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]


# One of the four every time, the others when there is time.
@pytest.mark.parametrize(
    ("language", "look"),
    [
        pytest.param(language, look, marks=[] if n and dark else [pytest.mark.slow])
        for n, language in enumerate(LANGUAGES)
        for dark, look in enumerate(("light", "dark"))
    ],
)
def test_axe_finds_nothing(
    studio: Studio,
    new_page: Callable[..., Page],
    axe_script: str,
    language: str,
    look: str,
) -> None:
    page = new_page(color_scheme=look, reduced_motion="reduce")
    page.goto(f"{studio.url}/{language}/#/data")
    page.locator("#sample-choices input").first.check()
    expect(page.locator("#data-summary .chip").first).to_be_visible()
    found = []
    for step in (*STEPS, *TASKS):
        page.goto(f"{studio.url}/{language}/#/{step}")
        expect(page.locator(f"#page-{step} h1")).to_be_visible()
        if step == "plan":
            expect(page.locator("#plan .tiles")).to_be_visible(timeout=120_000)
        found += [f"{step}: {fault}" for fault in violations(page, axe_script)]
    assert not found


def test_the_path_can_be_walked_with_the_keyboard(
    studio: Studio, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    page.goto(f"{studio.url}/en/#/model")
    expect(page.locator("#model-choices input").first).to_be_visible()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.innerText || document.activeElement.id")
        seen.append(name.split("\n")[0])
        if name.startswith("Next: class data"):
            break
    else:
        pytest.fail(f"the next step was never reached: {seen}")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#page-data h1")).to_be_focused()


def test_language_is_switched_and_kept(studio: Studio, new_page: Callable[..., Page]) -> None:
    page = new_page()
    page.goto(f"{studio.url}/en/#/plan")
    page.get_by_role("link", name="中文").click()
    expect(page.locator("#page-plan h1")).to_have_text("内存与方案")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.goto(studio.url)
    expect(page.locator("#page-model h1")).to_have_text("选择基础模型")
    page.get_by_role("link", name="English").click()
    expect(page.locator("#page-model h1")).to_have_text("Choose a base model")


def test_look_is_switched_and_kept(studio: Studio, new_page: Callable[..., Page]) -> None:
    page = new_page(color_scheme="light")
    page.goto(f"{studio.url}/en/#/model")
    expect(page.locator("body")).not_to_have_class("dark")
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("body.dark")).to_be_visible()
    page.reload()
    expect(page.locator("body.dark")).to_be_visible()


def test_back_button_goes_back(studio: Studio, new_page: Callable[..., Page]) -> None:
    page = new_page()
    page.goto(f"{studio.url}/en/#/model")
    page.get_by_role("link", name="Class data").click()
    expect(page.locator("#page-data h1")).to_be_visible()
    page.go_back()
    expect(page.locator("#page-model h1")).to_be_visible()
    expect(page.locator("#page-data h1")).to_be_hidden()
