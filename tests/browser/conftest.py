"""A real studio on a free port, and a real Chromium in front of it.

Chromium is taken from ``STUDIO_CHROMIUM``, else from ``PATH``, else from Playwright's downloads.
Every page fails its test if a script fails, something is written to the console as an error, or a
request leaves this computer.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.config import DataConfig, QuizConfig, RunConfig, TrainConfig
from tests.browser.running import Studio, find_chromium, start_studio

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

WINDOW = {"width": 1366, "height": 860}

sync_api.expect.set_options(timeout=90_000)  # a busy machine is slow, not wrong


@pytest.fixture(scope="session")
def chromium() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except sync_api.Error as error:
            pytest.skip(f"needs a Chromium (set STUDIO_CHROMIUM): {str(error)[:120]}")
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: "sync_api.Browser") -> Iterator[Callable[..., "sync_api.Page"]]:
    """Return a function that opens a page (a user of its own, unless a context is given)."""
    contexts: list[sync_api.BrowserContext] = []
    faults: list[str] = []

    def watch(page: "sync_api.Page") -> None:
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("console", lambda m: faults.append(f"console: {m.text}") if _bad(m) else None)
        page.on("domcontentloaded", lambda _: _forgive_the_page_that_left(faults))
        page.on(
            "request", lambda r: faults.append(f"foreign: {r.url}") if _foreign(r.url) else None
        )

    def make(
        context: "sync_api.BrowserContext | None" = None, **options: object
    ) -> "sync_api.Page":
        if context is None:
            context = chromium.new_context(**{"viewport": WINDOW, "locale": "en-US", **options})
            contexts.append(context)
        page = context.new_page()
        watch(page)
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def _bad(message: "sync_api.ConsoleMessage") -> bool:
    # A refusal (409) is an answer that the page shows; Gradio logs requests that a reload cuts off.
    expected = ("status of 409", "AbortError", "Connection errored out")
    return message.type == "error" and not any(text in message.text for text in expected)


def _forgive_the_page_that_left(faults: list[str]) -> None:
    """Drop what a page says only while it is being left; on one that stays it is a fault.

    Gradio closes its stream when a reload begins, at which its server forgets the session; an
    event that was on its way then asks for a new stream and is told 404.
    """
    faults[:] = [text for text in faults if "Unexpected error 404: Not Found" not in text]


def _foreign(url: str) -> bool:
    return not re.match(r"(https?://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:)", url)


@pytest.fixture(scope="module")
def small_settings(tiny: Callable[[str], Path]) -> RunConfig:
    """A saved configuration with a tiny model: the whole path in seconds."""
    return RunConfig(
        model=str(tiny("llama")),
        budget_bytes=2_000_000_000,
        data=DataConfig(max_quiz=8),
        train=TrainConfig(steps=30, lr=5e-3, tokens_per_step=256),
        quiz=QuizConfig(questions=3, max_new_tokens=8),
    )


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, small_settings: RunConfig) -> Iterator[Studio]:
    """A studio whose saved choices are the small ones."""
    home = tmp_path_factory.mktemp("browser")
    small_settings.save(home / "draft.json")
    running = start_studio(home)
    yield running
    running.stop()
