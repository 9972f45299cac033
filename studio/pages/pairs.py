"""The task "same question?": pairs, training with live marks, trying it, duplicates in a class.

Marks while it trains come from ``/api/runs/<id>/live`` (``pairs.js``). Whatever needs the model is
asked of the service process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from core.data.pairs import PairFile
from core.errors import StudioError
from studio import draft, library
from studio.api import Downloads
from studio.backend import Backend
from studio.library import PAIR_SAMPLES
from studio.markup import Markup, banner, choice, empty, findings, join, section, table, tag
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.tasks import Task
from studio.text import Words

FILE_TYPES = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".json", ".jsonl")
ROWS_SHOWN = 8
GROUPS_SHOWN = 40
MAX_CHARACTERS = 2000
WISHES = ("pause", "resume", "stop")
MARKS = ("accuracy", "f1", "mcc")
_WITH_RUN = "(run, ...rest) => [Studio.pairRun(), ...rest]"


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "pairs")
    enter = on_enter("pairs")
    run_id = gr.Textbox(visible="hidden")
    with gr.Row(elem_classes="side"):
        with gr.Column(min_width=0):
            with gr.Column(elem_classes="card"):
                show(section(words("pairs.samples"), words("pairs.samples_hint")))
                samples = show(js_on_load=script("choices", "choose"), elem_id="pair-samples")
            with gr.Column(elem_classes="card"):
                show(section(words("pairs.upload"), words("pairs.upload_hint")))
                upload = gr.File(
                    label=words("pairs.file"),
                    file_types=list(FILE_TYPES),
                    height=130,
                    elem_id="pairs-upload",
                )
            with gr.Column(elem_classes="card"):
                show(section(words("pairs.train"), words("pairs.train_hint")))
                model = gr.Dropdown([], label=words("pairs.model"), elem_id="pairs-model")
                passes = gr.Slider(
                    1, 30, value=6, step=1, label=words("pairs.passes"), elem_id="pairs-passes"
                )
                show(_start(words))
        with gr.Column(elem_classes="card", min_width=0):
            refusal = show(elem_id="pairs-refusal")
            summary = show(elem_id="pairs-summary")
    show(_live(words), js_on_load=script("pairs"), elem_id="pairs-live")
    with gr.Row(elem_classes="two"):
        with gr.Column(elem_classes="card"):
            show(section(words("pairs.ask"), words("pairs.ask_hint")))
            first, second = (_question(words, which) for which in ("first", "second"))
            compare = gr.Button(words("pairs.compare"), variant="primary", elem_id="compare")
            said = show(elem_id="pairs-said")
        with gr.Column(elem_classes="card"):
            show(section(words("pairs.duplicates"), words("pairs.duplicates_hint")))
            look = gr.Button(words("pairs.look"), elem_id="find-duplicates")
            found = show(elem_id="pairs-found")
    footer(words, "pairs", back="data")

    shown = [refusal, samples, summary, model, passes]

    def view() -> list[Any]:
        return _view(backend, words)

    def choose_sample(event: gr.EventData) -> list[Any]:
        library.choose_pair_sample(str(event.id))
        return view()

    def take_upload(path: str | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * len(shown)
        label = Path(path).name
        try:
            kept, clean = library.keep_upload(Path(path), label)
            library.read_pair_file(kept, clean)
        except StudioError as error:
            return [_refusal(label, error, words), *[gr.skip()] * (len(shown) - 1)]
        library.choose_pairs(kept, clean)
        return view()

    def change(chosen: str | None, times: float) -> None:
        model_id = chosen or draft.load(draft.PAIRS).model
        draft.change(draft.PAIRS, model=model_id, train__epochs=float(times))

    def ask(run: str, one: str, two: str) -> str:
        return _answer(backend, words, run, one, two)

    def search(run: str) -> Iterator[str]:
        yield from _search(backend, words, run)

    enter.enter(view, None, shown, **QUIET)
    samples.choose(choose_sample, None, shown, **QUIET)
    upload.upload(take_upload, upload, shown, **QUIET)
    gr.on([model.input, passes.release], change, [model, passes], None, **QUIET)
    gr.on(
        [compare.click, first.submit, second.submit],
        ask,
        [run_id, first, second],
        said,
        js=_WITH_RUN,
        **QUIET,
    )
    look.click(search, run_id, found, js=_WITH_RUN, **QUIET)


def _question(words: Words, which: str) -> gr.Textbox:
    return gr.Textbox(
        label=words(f"pairs.{which}"),
        max_length=MAX_CHARACTERS,
        max_lines=3,
        elem_id=f"pairs-{which}",
    )


def _start(words: Words) -> Markup:
    button = tag(
        "button",
        words("pairs.start"),
        class_="btn primary",
        type="button",
        data_start="",
        data_task="pairs",
    )
    return tag("div", button, class_="start-line")


# --- the pairs -----------------------------------------------------------------------------------


def _view(backend: Backend, words: Words) -> list[Any]:
    """Return the values of all parts for the draft of this task."""
    config = draft.load(draft.PAIRS)
    known = [m for m in backend.models() if not m.problem]
    choices = [(m.title, m.id) for m in known]
    chosen = next((m.id for m in known if config.model in (m.id, m.path)), None)
    menus = [gr.Dropdown(choices=choices, value=chosen), gr.Slider(value=config.train.epochs)]
    if not config.data.path:
        nothing = empty(words("pairs.none"), words("pairs.none_text"))
        return ["", _samples("", words), nothing, *menus]
    try:
        read = library.read_pair_file(Path(config.data.path), config.name)
    except StudioError as error:
        return [_refusal(config.name, error, words), _samples("", words), "", *menus]
    sample = next((s.id for s in PAIR_SAMPLES if str(s.path) == config.data.path), "")
    return ["", _samples(sample, words), _summary(config.name, read, words), *menus]


def _refusal(label: str, error: StudioError, words: Words) -> Markup:
    top = banner("bad", words("data.refused", name=label), words("data.refused_text"))
    return top + findings(words.error(error), words)


def _samples(chosen: str, words: Words) -> Markup:
    cards = Markup()
    for known in PAIR_SAMPLES:
        radio = choice("pair-sample", known.id, checked=known.id == chosen)
        title = tag("b", words(f"samples.{known.id}.title"))
        about = tag("span", words(f"samples.{known.id}.about"), class_="about")
        cards += tag("label", radio, tag("span", title, about), class_="choice")
    legend = tag("legend", words("pairs.samples"), class_="sr-only")
    return tag("fieldset", legend, cards, class_="choices")


def _summary(label: str, read: PairFile, words: Words) -> Markup:
    same = sum(pair.same for pair in read.pairs)
    facts = [
        words("pairs.count", n=len(read.pairs)),
        words("pairs.count_same", n=same),
        words("pairs.count_different", n=len(read.pairs) - same),
        " · ".join(read.mapping.values()),
    ]
    chips = tag("div", *(tag("span", fact, class_="chip info") for fact in facts), class_="chips")
    columns = [words("pairs.first"), words("pairs.second"), words("pairs.label")]
    rows = [[p.first, p.second, _verdict(p.same, words)] for p in read.pairs[:ROWS_SHOWN]]
    body = section(label) + chips + table(columns, rows, words("pairs.preview"))
    return body + (findings(read.problems, words) if read.problems else Markup())


def _verdict(same: bool | int, words: Words) -> str:
    return words("pairs.same") if same else words("pairs.different")


# --- live ----------------------------------------------------------------------------------------


def _live(words: Words) -> Markup:
    title = tag("strong", data_f="name") + tag("span", class_="chip", data_f="status")
    line = tag("div", tag("div", title, class_="title"), tag("div", data_f="phase", class_="phase"))
    buttons = join(
        tag("button", words(f"train.{wish}"), class_="btn", type="button", data_want=wish)
        for wish in WISHES
    )
    # The pages of every run: its curves, and taking its model away.
    buttons += join(
        tag("a", words(f"steps.{page}.name"), class_="btn", href=f"#/{page}", data_to=page)
        for page in ("train", "share")
    )
    bar = tag("div", tag("i", data_f="bar"), class_="bar")
    top = tag("section", line, tag("div", buttons, class_="controls"), bar, class_="panel run-head")
    notice = tag("div", data_f="notice", role="status")
    return tag(
        "div",
        tag("div", top, notice, _marks(words), _curve(words), class_="live"),
        data_part="run",
        hidden="",
    )


def _marks(words: Words) -> Markup:
    tiles = join(
        tag(
            "div",
            tag("span", words(f"pairs.{name}"), class_="name"),
            tag("b", "–", data_f=name),
            tag("span", words(f"pairs.{name}_note"), class_="note"),
            class_="tile",
        )
        for name in MARKS
    )
    return tag("div", tiles, class_="pair-marks") + tag("p", data_f="on", class_="quiet")


def _curve(words: Words) -> Markup:
    legend = tag("div", data_f="legend", class_="legend", aria_hidden="true")
    title = tag("div", tag("h2", words("pairs.curve")), legend, class_="panel-head")
    plot = tag("div", class_="plot", role="img", aria_label=words("pairs.curve_label"))
    left = tag("section", title, plot, class_="panel")
    matrix_title = tag("div", tag("h2", words("pairs.matrix")), class_="panel-head")
    right = tag("section", matrix_title, _matrix(words), class_="panel")
    return tag("div", left, right, class_="row even")


def _matrix(words: Words) -> Markup:
    """Return the confusion matrix, its counts to be filled in by the script."""
    heads = ["", words("pairs.called_same"), words("pairs.called_different")]
    rows = [("pairs.are_same", ("tp", "fn")), ("pairs.are_different", ("fp", "tn"))]
    top = tag("tr", *(tag("th", h, scope="col") if h else tag("td") for h in heads))
    body = join(
        tag(
            "tr",
            tag("th", words(key), scope="row"),
            *(
                tag("td", "–", data_f=cell, class_="right" if cell in ("tp", "tn") else "wrong")
                for cell in cells
            ),
        )
        for key, cells in rows
    )
    caption = tag("caption", words("pairs.matrix_caption"), class_="sr-only")
    return tag("table", caption, tag("thead", top), tag("tbody", body), class_="figures matrix")


# --- use -----------------------------------------------------------------------------------------


def _answer(backend: Backend, words: Words, run: str, first: str, second: str) -> str:
    if not run:
        return empty(words("pairs.no_run"), words("pairs.no_run_text"))
    try:
        said = backend.same(run, first, second)
    except StudioError as error:
        return findings(words.error(error), words)
    values = {"p": f"{100 * said['probability']:.0f}", "limit": f"{100 * said['threshold']:.0f}"}
    tone = "good" if said["same"] else "info"
    return banner(tone, _verdict(said["same"], words), words("pairs.sure", **values))


def _search(backend: Backend, words: Words, run: str) -> Iterator[str]:
    """Yield how far the search is, then what it found."""
    config = draft.load()
    if not run:
        yield empty(words("pairs.no_run"), words("pairs.no_run_text"))
        return
    if not config.data.path:
        yield empty(words("data.none"), words("pairs.no_class"))
        return
    try:
        task = backend.duplicates(run, config.data)
    except StudioError as error:
        yield findings(words.error(error), words)
        return
    for state in task.follow():
        yield _found(state, config.name, words)


def _found(task: Task, name: str, words: Words) -> Markup:
    if task.error is not None:
        return findings(words.error(task.error), words)
    if task.result is None:
        share = float(task.progress.get("share") or 0.0)
        bar = tag("div", tag("i", style=f"width:{100 * share:.0f}%"), class_="bar")
        return tag("p", words("pairs.looking", name=name), class_="quiet") + bar
    groups = task.result["groups"]
    values = {"groups": len(groups), "questions": task.result["questions"], "name": name}
    if not groups:
        return banner("good", words("pairs.found_none", **values))
    listed = join(_group(group) for group in groups[:GROUPS_SHOWN])
    more = len(groups) - GROUPS_SHOWN
    rest = tag("p", words("pairs.found_more", n=more), class_="quiet") if more > 0 else Markup()
    return banner("info", words("pairs.found", **values), words("pairs.found_text")) + tag(
        "ul", listed, rest, class_="groups"
    )


def _group(group: list[dict[str, str]]) -> Markup:
    lines = join(tag("li", tag("b", asked["where"]), " ", asked["text"]) for asked in group)
    return tag("li", tag("ul", lines))
