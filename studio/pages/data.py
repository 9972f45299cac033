"""Step 2: the class's questions and answers: choose, look, correct, edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core.config import DataConfig, RunConfig
from core.data.ingest.label import SUFFIXES
from core.data.types import ReadResult
from core.errors import Problem, StudioError
from studio import draft, library
from studio.api import Downloads
from studio.backend import Backend
from studio.library import SAMPLES
from studio.markup import Markup, banner, choice, empty, findings, join, section, tag
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.text import Words

ENCODINGS = ("utf-8", "utf-16", "gb18030", "big5", "shift_jis", "cp1252", "latin-1")
MAX_ROWS_SHOWN = 2000


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "data")
    enter = on_enter("data")
    with gr.Row(elem_classes="side"):
        with gr.Column(min_width=0):
            with gr.Column(elem_classes="card"):
                show(section(words("data.samples"), words("data.samples_hint")))
                samples = show(js_on_load=script("choices", "choose"), elem_id="sample-choices")
            with gr.Column(elem_classes="card"):
                show(section(words("data.upload"), words("data.upload_hint")))
                upload = gr.File(
                    label=words("data.file"),
                    file_types=list(SUFFIXES),
                    height=130,
                    elem_id="upload",
                )
            with gr.Column(elem_classes="card", visible=False) as reading:
                show(section(words("data.reading"), words("data.reading_hint")))
                sheet = gr.Dropdown([], label=words("data.sheet"), interactive=True)
                question = gr.Dropdown([], label=words("data.question"), interactive=True)
                answer = gr.Dropdown([], label=words("data.answer"), interactive=True)
                encoding = gr.Dropdown([], label=words("data.encoding"), interactive=True)
        with gr.Column(elem_classes="card", min_width=0):
            refusal = show(elem_id="data-refusal")
            summary = show(elem_id="data-summary")
            found = show(elem_id="data-findings")
            rows = gr.Dataframe(
                label=words("data.rows_hint"),
                interactive=True,
                datatype="str",
                type="array",
                wrap=True,
                column_widths=["31%", "61%"],
                visible=False,
                show_row_numbers=True,
                show_label=True,
                max_height=520,
                buttons=["fullscreen"],
                elem_id="rows",
            )
            with gr.Row(elem_classes="nav-row", visible=False) as editing:
                said = show(elem_id="edit-said")
                add = gr.Button(words("data.add"), elem_id="rows-add")
                undo = gr.Button(words("data.undo"), interactive=False, elem_id="rows-undo")
                save = gr.Button(words("data.save"), interactive=False, elem_id="rows-save")
    footer(words, "data", back="model", forward="plan")

    shown = [
        refusal,
        samples,
        summary,
        found,
        rows,
        editing,
        reading,
        sheet,
        question,
        answer,
        encoding,
    ]
    menus = [sheet, question, answer, encoding]

    def view() -> list[Any]:
        return _view(draft.load(), words)

    def choose_sample(event: gr.EventData) -> list[Any]:
        library.choose_sample(str(event.id))
        return view()

    def take_upload(path: str | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * len(shown)
        label = Path(path).name
        try:
            kept, clean = library.keep_upload(Path(path), label)
            library.read(DataConfig(path=str(kept)), clean)
        except StudioError as error:
            refused = _refusal(label, words.error(error), words)
            return [refused, *[gr.skip()] * (len(shown) - 1)]  # what was chosen stays as it was
        library.choose(kept, clean)
        return view()

    def read_as(*chosen: str) -> list[Any]:
        names = ("sheet", "question", "answer", "encoding")
        before = draft.load()
        settings = {n: (c or "") for n, c in zip(names, chosen, strict=True)}
        if settings["sheet"] != before.data.sheet:  # columns of another sheet mean nothing here
            settings |= {"question": "", "answer": ""}
        draft.change(**{f"data__{name}": value for name, value in settings.items()})
        return view()

    def save_rows(table: list[list[Any]]) -> list[Any]:
        config = draft.load()
        try:
            library.save_rows(config, table)
        except StudioError as error:
            return [*[gr.skip()] * len(shown), findings(words.error(error), words), *_switch(True)]
        return [*view(), tag("span", words("data.saved"), class_="chip good"), *_switch(False)]

    def edited() -> list[Any]:
        # Only now can be saved: the change has reached us, however fast the next click is.
        return [tag("span", words("data.changed"), class_="chip warn"), *_switch(True)]

    def add_row(table: list[list[Any]]) -> list[Any]:
        return [[*table, [""] * len(table[0])] if table else gr.skip(), *edited()]

    refresh_rail = "() => Studio.refresh()"
    enter.enter(view, None, shown, **QUIET)
    samples.choose(choose_sample, None, shown, **QUIET).then(None, js=refresh_rail)
    upload.upload(take_upload, upload, shown, **QUIET).then(None, js=refresh_rail)
    for menu in menus:
        menu.input(read_as, menus, shown, **QUIET)
    rows.input(edited, None, [said, undo, save], **QUIET)
    add.click(add_row, rows, [rows, said, undo, save], **QUIET)
    undo.click(lambda: [*view(), "", *_switch(False)], None, [*shown, said, undo, save], **QUIET)
    save.click(save_rows, rows, [*shown, said, undo, save], **QUIET)


def _switch(on: bool) -> list[Any]:
    """Return the buttons for edited rows, usable or not."""
    save = gr.Button(interactive=on, variant="primary" if on else "secondary")
    return [gr.Button(interactive=on), save]


def _view(config: RunConfig, words: Words) -> list[Any]:
    """Return the values of all parts for the draft's data."""
    if not config.data.path:
        nothing = empty(words("data.none"), words("data.none_text"))
        return ["", _samples("", words), nothing, "", *_no_table(), *_no_menus()]
    try:
        result = library.read(config.data, config.name)
    except StudioError as error:
        refused = _refusal(config.name, words.error(error), words)
        menus = [gr.skip()] * 5  # the menus stay, so that the choice can be corrected
        return [refused, _samples("", words), "", "", *_no_table(), *menus]
    found = findings(result.problems, words) if result.problems else ""
    return [
        "",
        _samples(library.is_sample(config), words),
        _summary(config.name, result, words),
        found,
        *_table(result),
        gr.Column(visible=True),
        *_menus(result, config, words),
    ]


def _refusal(label: str, problems: list[Problem], words: Words) -> Markup:
    """Say why a file cannot be used."""
    return banner("bad", words("data.refused", name=label), words("data.refused_text")) + findings(
        problems, words
    )


def _samples(chosen: str, words: Words) -> Markup:
    cards = Markup()
    for known in SAMPLES:
        radio = choice("sample", known.id, checked=known.id == chosen)
        title = tag("b", words(f"samples.{known.id}.title"))
        about = tag("span", words(f"samples.{known.id}.about"), class_="about")
        cards += tag("label", radio, tag("span", title, about), class_="choice")
    legend = tag("legend", words("data.samples"), class_="sr-only")
    return tag("fieldset", legend, cards, class_="choices")


def _summary(label: str, result: ReadResult, words: Words) -> Markup:
    name = words.get(f"format.{result.format}", result.format.upper())
    columns = [result.mapping[part] for part in ("question", "answer") if part in result.mapping]
    facts = [words("data.pairs", n=len(result.examples)), name, result.encoding.upper()]
    facts.append(" → ".join(columns))
    chips = join(tag("span", fact, class_="chip info") for fact in facts if fact)
    return section(label) + tag("div", chips, class_="chips")


def _table(result: ReadResult) -> list[Any]:
    editable = bool(result.columns) and len(result.rows) <= MAX_ROWS_SHOWN
    table = gr.Dataframe(
        value=[list(row) for row in result.rows[:MAX_ROWS_SHOWN]],
        headers=list(result.columns),
        visible=bool(result.rows),
        interactive=editable,
        column_widths=_widths(len(result.columns)),
        wrap=True,
    )
    return [table, gr.Row(visible=editable)]


def _widths(columns: int) -> list[str | int]:
    """Answers get the room of two questions; many columns share alike."""
    return ["31%", "61%"] if columns == 2 else [f"{92 / max(1, columns):.0f}%"] * columns


def _no_table() -> list[Any]:
    return [gr.Dataframe(visible=False), gr.Row(visible=False)]


def _menus(result: ReadResult, config: RunConfig, words: Words) -> list[Any]:
    columns = list(result.columns)
    guessed = [(words("data.guess"), "")]
    encodings = guessed + [(name.upper(), name) for name in ENCODINGS]
    return [
        gr.Dropdown(
            choices=list(result.sheets), value=result.sheet or None, visible=len(result.sheets) > 1
        ),
        gr.Dropdown(choices=columns, value=result.mapping.get("question")),
        gr.Dropdown(choices=columns, value=result.mapping.get("answer")),
        gr.Dropdown(choices=encodings, value=config.data.encoding, visible=bool(result.encoding)),
    ]


def _no_menus() -> list[Any]:
    return [gr.Column(visible=False), *(gr.Dropdown() for _ in range(4))]
