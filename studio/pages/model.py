"""Step 1: which base model. A sample class can be started from here with one click."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.context import Context

from core import models
from core.errors import StudioError
from core.models import ModelInfo
from studio import draft
from studio.api import Downloads
from studio.backend import Backend
from studio.library import SAMPLES
from studio.markup import Markup, banner, choice, findings, join, section, tag
from studio.pages.common import QUIET, footer, head, script, show
from studio.text import Words


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "model")
    show(_quick_start(words))
    with gr.Column(elem_classes="card"):
        show(section(words("model.choose"), words("model.choose_hint")))
        choices = show(js_on_load=script("choices", "choose"), elem_id="model-choices")
    with gr.Row(elem_classes="two"):
        with gr.Column(elem_classes="card"):
            show(section(words("model.folder"), words("model.folder_hint")))
            with gr.Row(elem_classes="inline-row"):
                folder = gr.Textbox(
                    label=words("model.folder_label"),
                    placeholder=words("model.folder_example"),
                    max_lines=1,
                    elem_id="model-folder",
                )
                add = gr.Button(words("model.folder_add"), elem_id="model-folder-add")
            folder_said = show(elem_id="model-folder-said")
        with gr.Column(elem_classes="card"):
            show(section(words("model.hub"), words("model.hub_hint")))
            hub_on = gr.Checkbox(label=words("model.hub_on"), interactive=True)
            with gr.Row(elem_classes="inline-row"):
                endpoint = gr.Textbox(
                    label=words("model.hub_endpoint"), max_lines=1, interactive=True
                )
                test = gr.Button(words("model.hub_test"), elem_id="hub-test")
            with gr.Row(elem_classes="inline-row"):
                hub_id = gr.Textbox(
                    label=words("model.hub_id"),
                    placeholder="owner/name",
                    max_lines=1,
                    interactive=True,
                )
                hub_add = gr.Button(words("model.hub_add"))
            hub_said = show(elem_id="hub-said")
    footer(words, "model", forward="data")

    def listed() -> str:
        return _choices(backend.models(), draft.load().model, words)

    def choose(event: gr.EventData) -> None:
        draft.change(model=str(event.id))

    def add_folder(path: str) -> tuple[str, str]:
        try:
            info = models.add_folder(Path(path.strip()).expanduser())
        except StudioError as error:
            return listed(), findings(words.error(error), words)
        draft.change(model=info.id)
        return listed(), banner("good", words("model.folder_done", title=info.title))

    def save_hub(on: bool, address: str) -> str:
        try:
            models.set_hub(enabled=on, endpoint=address)
        except StudioError as error:
            return findings(words.error(error), words)
        return ""

    def test_hub(address: str) -> str:
        try:
            return banner("good", models.test_hub(address))
        except StudioError as error:
            return findings(words.error(error), words)

    def add_from_hub(name: str) -> tuple[str, str]:
        try:
            info = models.resolve(name)
        except StudioError as error:
            return listed(), findings(words.error(error), words)
        draft.change(model=info.id)
        return listed(), banner("info", words("model.hub_later", title=info.title))

    def load() -> tuple[str, bool, str]:
        hub = models.settings()["hub"]
        return listed(), hub["enabled"], hub["endpoint"]

    gr.on([_page().load], load, None, [choices, hub_on, endpoint], **QUIET)
    choices.choose(choose, None, None, **QUIET).then(None, js="() => Studio.refresh()")
    gr.on([add.click, folder.submit], add_folder, folder, [choices, folder_said], **QUIET)
    gr.on([hub_on.input, endpoint.blur], save_hub, [hub_on, endpoint], hub_said, **QUIET)
    test.click(test_hub, endpoint, hub_said, **QUIET)
    gr.on([hub_add.click, hub_id.submit], add_from_hub, hub_id, [choices, hub_said], **QUIET)


def _page() -> gr.Blocks:
    page = Context.root_block
    if not isinstance(page, gr.Blocks):
        raise RuntimeError("A page is built inside gr.Blocks.")
    return page


def _quick_start(words: Words) -> Markup:
    """Return the card that starts starter model, sample class and default budget at once."""
    own_first = sorted(SAMPLES, key=lambda sample: sample.id != words.language)
    buttons = join(
        tag(
            "button",
            words("quick.start", title=words(f"samples.{sample.id}.title")),
            class_="btn primary" if sample is own_first[0] else "btn",
            type="button",
            data_start=sample.id,
        )
        for sample in own_first
    )
    text = tag("div", tag("h2", words("quick.title")), tag("p", words("quick.text")))
    return tag("section", text, tag("div", buttons, class_="actions"), class_="quick")


def _choices(known: list[ModelInfo], chosen: str, words: Words) -> Markup:
    cards = join(_card(info, chosen in (info.id, info.path), words) for info in known)
    legend = tag("legend", words("model.choose"), class_="sr-only")
    return tag("fieldset", legend, cards, class_="choices across")


def _card(info: ModelInfo, chosen: bool, words: Words) -> Markup:
    radio = choice("model", info.id, checked=chosen, disabled=bool(info.problem))
    title = tag("b", info.title)
    about = tag("span", info.problem or _facts(info, words), class_="about")
    return tag("label", radio, tag("span", title, about), _readiness(info, words), class_="choice")


def _readiness(info: ModelInfo, words: Words) -> Markup:
    if info.problem:
        return tag("span", words("model.unusable"), class_="chip bad")
    if info.ready:
        return tag("span", words("model.ready"), class_="chip good")
    return tag("span", words("model.first_use"), class_="chip")


def _facts(info: ModelInfo, words: Words) -> str:
    size = words("model.parameters", n=f"{info.parameters / 1e6:,.0f}") if info.parameters else ""
    source = words.get(f"model.source_{info.source}", info.source)
    return " · ".join(fact for fact in (size, source, info.licence) if fact)
