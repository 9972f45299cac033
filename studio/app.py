"""The studio's page: the rail with the six steps beside the step that is open.

Built once a language (``studio/server.py``). All steps are in the page; the address decides which
is shown (``assets/js/shell.js``), so going from one to another asks the server nothing.
"""

from __future__ import annotations

import gradio as gr

from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, image, join, tag
from studio.pages import concepts, data, lab, model, pairs, plan, share, train, try_it
from studio.pages.common import show
from studio.text import LANGUAGES, Words

STEPS = ("model", "data", "plan", "train", "try", "share")
TASKS = ("concepts", "pairs", "lab")  # beside the path of six steps
SIGNS = {"concepts": "∴", "pairs": "≟", "lab": "≶"}
PAGES = (
    ("model", model.build),
    ("data", data.build),
    ("plan", plan.build),
    ("train", train.build),
    ("try", try_it.build),
    ("share", share.build),
    ("concepts", concepts.build),
    ("pairs", pairs.build),
    ("lab", lab.build),
)


def build(backend: Backend, words: Words, downloads: Downloads) -> gr.Blocks:
    """Return the page in one language.

    Args:
        backend: runs and the service process.
        words: the texts of the language.
        downloads: where finished exports are offered.
    """
    page = gr.Blocks(
        title=words("app.title"),
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(3600, 86400),
    )
    with page, gr.Row(elem_id="frame"):
        with gr.Column(elem_id="rail", min_width=0):
            show(_rail(words), js_on_load="Studio.mount('rail', element)")
        with gr.Column(elem_id="stage", min_width=0):
            show(_stage_top(words))
            for step, build_page in PAGES:
                with gr.Column(elem_id=f"page-{step}", elem_classes="page", min_width=0):
                    build_page(backend, words, downloads)
    return page


def _rail(words: Words) -> Markup:
    brand_text = tag("div", tag("b", words("app.title")), tag("span", words("app.claim")))
    brand = tag("div", image("/static/icon.svg"), brand_text, class_="brand")
    runs_title = tag("h2", words("runs.title"))
    runs = tag("ul", class_="runs")
    nav = tag("nav", _steps(words), _tasks(words), runs_title, runs, aria_label=words("app.steps"))
    return tag("div", brand, nav, _preferences(words), class_="rail")


def _steps(words: Words) -> Markup:
    items = Markup()
    for number, step in enumerate(STEPS, start=1):
        hint = words(f"steps.{step}.hint")
        text = tag("span", tag("b", words(f"steps.{step}.name")), tag("small", hint))
        number_markup = tag("i", str(number), aria_hidden="true")
        link = tag("a", number_markup, text, href=f"#/{step}", data_step=step, data_hint=hint)
        items += tag("li", link)
    return tag("ol", items, class_="steps")


def _tasks(words: Words) -> Markup:
    items = Markup()
    for task in TASKS:
        hint = words(f"steps.{task}.hint")
        text = tag("span", tag("b", words(f"steps.{task}.name")), tag("small", hint))
        sign = tag("i", SIGNS[task], aria_hidden="true")
        link = tag("a", sign, text, href=f"#/{task}", data_step=task, data_hint=hint)
        items += tag("li", link)
    return tag("h2", words("app.tasks")) + tag("ul", items, class_="steps tasks")


def _preferences(words: Words) -> Markup:
    languages = join(
        tag(
            "a",
            name,
            href=f"/{code}/",
            lang=code,
            data_language=code,
            aria_current=str(code == words.language).lower(),
        )
        for code, name in LANGUAGES.items()
    )
    themes = join(
        tag("button", words(f"app.{theme}"), type="button", data_theme_choice=theme)
        for theme in ("light", "dark")
    )
    return tag(
        "div",
        tag("div", languages, class_="segmented", role="group", aria_label=words("app.language")),
        tag("div", themes, class_="segmented", role="group", aria_label=words("app.look")),
        class_="prefs",
    )


def _stage_top(words: Words) -> Markup:
    """Return the places where scripts put messages: one seen, one read aloud."""
    return tag("div", id="message", role="alert") + tag(
        "div", id="announcer", class_="sr-only", role="status", aria_live="polite"
    )
