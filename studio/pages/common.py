"""What the pages share: wiring of scripts, quiet events, the row of buttons under a page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.home import ASSETS
from studio.markup import Markup, heading, tag
from studio.text import Words

# Events of ours are no public interface, and show their own progress.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def script(name: str, *events: str, page: str = "") -> str:
    """Return the script that mounts ``name`` of ``assets/js`` on a ``gr.HTML``.

    Args:
        name: key of ``Studio.mounts``.
        events: the events it triggers; Gradio offers those that it finds quoted in the script.
        page: the page whose opening counts, where the script wants to know.
    """
    named = "".join(f", '{event}'" for event in events)
    return f"Studio.mount('{name}', element, props, trigger, watch, '{page}'{named})"


def head(words: Words, page: str) -> gr.HTML:
    """Add a page's title."""
    return show(heading(words(f"{page}.title"), words(f"{page}.lead")))


def on_enter(page: str) -> gr.HTML:
    """Add an invisible part whose ``enter`` event fires when the page is opened."""
    return show(js_on_load=script("enter", "enter", page=page), elem_classes="sr-only")


def show(value: str = "", **options: Any) -> gr.HTML:
    """Add a part that shows markup made by ``studio.markup``; its looks are ours alone."""
    options.setdefault("js_on_load", None)
    return gr.HTML(value, apply_default_css=False, padding=False, **options)


def footer(words: Words, page: str, *, back: str = "", forward: str = "") -> None:
    """Add the help text and the buttons to the neighbouring pages."""
    buttons = Markup()
    if back:
        buttons += tag("button", words("app.back"), class_="btn", type="button", data_go=back)
    if forward:
        label = words(f"{page}.forward")
        buttons += tag("button", label, class_="btn primary", type="button", data_go=forward)
    with gr.Row(elem_classes="foot"):
        with gr.Accordion(words("app.help"), open=False, elem_classes="help"):
            gr.Markdown(help_text(page, words.language))
        show(tag("div", buttons, class_="go"))


def help_text(page: str, language: str) -> str:
    """Return the help of a page (Markdown)."""
    return (ASSETS / "help" / f"{page}.{language}.md").read_text("utf-8")
