"""Step 6: take the tuned model away: checked exports, a report to print, a model card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import StudioError
from studio import exports
from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, banner, empty, findings, join, tag
from studio.pages import smaller
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.tasks import Task
from studio.text import Words


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "share")
    enter = on_enter("share")
    notice = show(elem_id="share-notice")
    cards = show(js_on_load=script("press", "press"), elem_id="exports")
    smaller.build_part(backend, words)
    footer(words, "share", back="try")

    def view(event: gr.EventData) -> Iterator[tuple[str, str]]:
        run = str(event.run)
        yield _view(backend, words, downloads, run)
        # An export that was started before a refresh, or in another tab, is followed again.
        for form in exports.FORMATS:
            task = backend.export_task(run, form)
            if task and not task.finished:
                for _ in task.follow():
                    yield _view(backend, words, downloads, run)

    def make(event: gr.EventData) -> Iterator[tuple[str, str]]:
        run, form = str(event.run), str(event.id)
        if form not in exports.FORMATS or not run:
            return
        for _ in backend.export(run, form, words.language).follow():
            yield _view(backend, words, downloads, run)

    enter.enter(view, None, [notice, cards], **QUIET)
    cards.press(make, None, [notice, cards], concurrency_limit=4, **QUIET)


def _view(backend: Backend, words: Words, downloads: Downloads, run_id: str) -> tuple[str, str]:
    """Return the notice and the cards of a run."""
    if not run_id:
        return empty(words("share.none"), words("share.none_text")), ""
    try:
        run = backend.run(run_id)
    except StudioError as error:
        return banner("bad", words.error(error)[0].sentence()), ""
    if run.status != "done":
        return empty(words("share.not_done"), words("share.not_done_text")), ""
    forms = exports.OF_PAIRS if run.config.get("method") == "pairs" else exports.FORMATS
    body = join(
        _card(
            form,
            exports.find(run.folder, form),
            backend.export_task(run_id, form),
            words,
            downloads,
        )
        for form in forms
    )
    return "", tag("div", body, class_="two exports")


def _card(
    form: str, made: exports.Made | None, task: Task | None, words: Words, downloads: Downloads
) -> str:
    title = tag("h2", words(f"share.{form}"))
    about = tag("p", words(f"share.{form}_about"))
    state = _state(made, task, words)
    working = task is not None and not task.finished
    return tag(
        "section",
        tag("div", title, about, class_="card-head"),
        tag("div", state, class_="export-state", role="status"),
        tag("div", _buttons(form, made, working, words, downloads), class_="actions"),
        class_="card export",
    )


def _state(made: exports.Made | None, task: Task | None, words: Words) -> Markup:
    if task is not None and not task.finished:
        share = float(task.progress.get("share") or 0.0)
        bar = tag("div", tag("i", style=f"width:{100 * share:.0f}%"), class_="bar")
        return tag("p", words("share.working"), class_="quiet") + bar
    if task is not None and task.error is not None:
        return findings(words.error(task.error), words)
    if made is None:
        return Markup()
    return tag("div", *(_checked(made, words)), class_="chips")


def _checked(made: exports.Made, words: Words) -> Iterator[str]:
    """Yield what the export's own check found, as chips."""
    if made.prompts:
        kind = "good" if made.equal == made.prompts else "warn"
        text = words("share.checked", equal=made.equal, prompts=made.prompts)
        yield tag("span", text, class_=f"chip {kind}")
    if made.marks:
        yield tag("span", words("share.marks", marks=made.marks), class_="chip info")
    yield tag("span", words.size(made.size), class_="chip")


def _buttons(
    form: str, made: exports.Made | None, working: bool, words: Words, downloads: Downloads
) -> str:
    label = words("share.make_again") if made else words("share.make")
    options: dict[str, Any] = {"disabled": ""} if working else {}
    kind = "btn" if made else "btn primary"
    make = tag("button", label, class_=kind, type="button", data_press=form, **options)
    if made is None or working:
        return make
    links = Markup()
    for path in made.files:
        address = downloads.offer(path)
        if path.suffix == ".html":
            links += tag(
                "a",
                words("share.open"),
                class_="btn primary",
                href=f"{address}?view=1",
                target="_blank",
                rel="noopener",
            )
        links += tag("a", words("share.download"), class_="btn", href=address, download=path.name)
    return links + make
