"""Take the pictures of the README: a real studio, a real run of the starter on a sample class.

    python docs/images/take.py              the pictures, beside this file
    python docs/images/take.py --all        every page in both languages and both looks

A finished run in ``STUDIO_HOME`` is used again; otherwise one is started, which takes minutes, and
the picture of the training page shows it under way.
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from core.home import home  # noqa: E402
from studio.app import STEPS, TASKS  # noqa: E402
from studio.text import LANGUAGES, Words  # noqa: E402
from tests.browser.running import find_chromium, start_studio  # noqa: E402

expect.set_options(timeout=30_000)

WINDOW = {"width": 1366, "height": 860}
LOOKS = ("light", "dark")
README = (
    ("model", "en", "light"),
    ("data", "en", "light"),
    ("plan", "en", "light"),
    ("try", "zh", "dark"),
    ("share", "en", "light"),
    ("concepts", "en", "light"),
)
QUESTION = "Dakar is the capital of which country?"
RUN_MS = 15 * 60_000
PLAN_MS = 5 * 60_000
SHARE_TRAINED = 0.7  # how far the run is when the training page is taken


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every page, language and look")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the pictures")
    parser.add_argument("--only", choices=(*STEPS, *TASKS), help="this page alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(s, lang, look) for lang in LANGUAGES for look in LOOKS for s in (*STEPS, *TASKS)]
    studio = start_studio(home())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=["--no-sandbox"]
            )
            fresh = train_a_class(browser, studio.url, options.out)
            readme = README if fresh else (*README, ("train", "en", "light"))
            for step, language, look in wanted if options.all else readme:
                if options.only not in (None, step):
                    continue
                take(browser, studio.url, step, language, look, options.out)
            browser.close()
    finally:
        studio.stop()


def open_page(browser: Browser, url: str, step: str, language: str, look: str) -> Page:
    """Open a page of the studio in a browser of its own."""
    context = browser.new_context(viewport=WINDOW, color_scheme=look, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{url}/{language}/#/{step}")
    expect(page.locator(f"#page-{step} h1")).to_be_visible(timeout=60_000)
    page.wait_for_load_state("networkidle")
    return page


def train_a_class(browser: Browser, url: str, out: Path) -> bool:
    """See to it that there is a finished run; take the training page on the way if one is made."""
    page = open_page(browser, url, "model", "en", "light")
    runs = page.request.get(f"{url}/api/overview").json()["runs"]
    fresh = not any(run["status"] == "done" for run in runs)
    if fresh:
        page.get_by_role("button", name=quick_start("en")).click()
        page.wait_for_function(
            "share => parseFloat(document.querySelector('#live [data-f=bar]').style.width)"
            " > share &&"
            " /step [1-9]/.test(document.querySelector('#live [data-f=loss_note]').textContent)",
            arg=100 * SHARE_TRAINED,
            timeout=RUN_MS,
        )
        save(page, "train", "en", "light", out)
        expect(page.locator("#live [data-f=status]")).to_have_text("Done", timeout=RUN_MS)
    choose_sample(page)
    page.context.close()
    return fresh


def choose_sample(page: Page) -> None:
    """Make the sample class the chosen one, which a run that was there already has not done."""
    page.goto(page.url.split("#")[0] + "#/data")
    page.locator("#sample-choices input").first.check()
    expect(page.locator("#data-summary .chip").first).to_be_visible(timeout=60_000)


def quick_start(language: str) -> str:
    """Return the words on the button that starts the sample class of a language."""
    words = Words(language)
    return words("quick.start", title=words(f"samples.{language}.title"))


def take(browser: Browser, url: str, step: str, language: str, look: str, out: Path) -> None:
    """Bring a page into the state worth showing and save its picture."""
    page = open_page(browser, url, step, language, look)
    if step == "data":
        expect(page.locator("#data-summary .chip").first).to_be_visible()
        expect(page.get_by_test_id("cell-4-1")).to_be_visible()
    elif step == "plan":
        expect(page.locator("#plan .plot.ranks .plotly")).to_be_visible(timeout=PLAN_MS)
    elif step == "train":
        expect(page.locator(".live .plot.heat.bits .plotly")).to_be_visible()
    elif step == "try":
        ask(page)
    elif step == "share":
        expect(page.locator("#exports .card").first).to_be_visible()
    elif step == "concepts":
        map_the_class(page)
    save(page, step, language, look, out)
    page.context.close()


def map_the_class(page: Page) -> None:
    """Make the concept map of the class if there is none, and choose a concept on it."""
    make = page.locator("#concepts [data-f=make]")
    expect(make).to_be_enabled(timeout=RUN_MS)
    page.wait_for_timeout(2_000)  # until it is known whether there is a map
    if page.locator("#concepts [data-part=none]").is_visible():
        make.click()
    expect(page.locator("#concepts .con-node").first).to_be_attached(timeout=RUN_MS)
    page.locator("#concepts .con-gaps .con-link").nth(1).click()
    expect(page.locator("#concepts [data-f=detail] h2")).to_be_visible()


def ask(page: Page) -> None:
    """Ask both models a question of the quiz that only the tuned one knows."""
    page.locator("#message-box textarea").fill(QUESTION)
    page.keyboard.press("Enter")
    for which in ("base", "tuned"):
        answer = page.locator(f"#chat-{which} .bot").last
        expect(answer).to_be_visible(timeout=RUN_MS)
        expect(answer).not_to_have_text("…", timeout=RUN_MS)
        before = ""
        while (now := answer.inner_text()) != before:  # until the answer has stopped growing
            before = now
            page.wait_for_timeout(4_000)


def save(page: Page, step: str, language: str, look: str, out: Path) -> None:
    """Write the picture, with the top of the page in view."""
    shown = "#concepts .con-map" if step == "concepts" else "body"
    page.evaluate(
        "part => { document.activeElement.blur(); window.scrollTo(0, 0);"
        " const at = document.querySelector(part).getBoundingClientRect().top;"
        " if (at > 200) window.scrollTo(0, at - 16); }",
        shown,
    )
    page.wait_for_timeout(700)  # charts settle
    target = out / f"{step}-{look}-{language}.png"
    page.screenshot(path=target)
    sys.stdout.write(f"{target.name}  {target.stat().st_size / 1000:.0f} kB\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
