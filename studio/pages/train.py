"""Step 4: the live view of a run. Its figures come from ``/api/runs/<id>/live`` (``live.js``)."""

from __future__ import annotations

from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, empty, join, tag
from studio.pages.common import footer, head, script, show
from studio.text import Words

WISHES = ("start", "pause", "resume", "stop")
TILES = ("loss", "quiz", "lr", "speed", "left")


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out; ``live.js`` brings it to life."""
    head(words, "train")
    show(_live(words), js_on_load=script("live"), elem_id="live")
    footer(words, "train", back="plan")


def _live(words: Words) -> Markup:
    nothing = empty(words("train.none"), words("train.none_text"))
    start = tag(
        "div",
        tag("button", words("train.start"), class_="btn primary", data_start="", type="button"),
        class_="start-line",
    )
    run = join(part(words) for part in (_head, _notice, _tiles, _curves, _maps, _changes))
    return tag("div", nothing + start, data_part="none") + tag(
        "div", run, class_="live", data_part="run", hidden=""
    )


def _head(words: Words) -> Markup:
    title = tag("strong", data_f="name") + tag("span", class_="chip", data_f="status")
    phase = tag("div", data_f="phase", class_="phase")
    bar = tag("div", tag("i", data_f="bar"), class_="bar")
    buttons = join(
        tag(
            "button",
            words(f"train.{wish}"),
            class_={"resume": "btn primary", "stop": "btn danger"}.get(wish, "btn"),
            type="button",
            data_want=wish,
        )
        for wish in WISHES
    )
    line = tag("div", title, class_="title")
    controls = tag("div", buttons, class_="controls")
    return tag("section", tag("div", line, phase), controls, bar, class_="panel run-head")


def _notice(words: Words) -> Markup:
    return tag("div", data_f="notice", role="status")


def _tiles(words: Words) -> Markup:
    items = join(
        tag(
            "div",
            tag("span", words(f"train.{name}"), class_="name"),
            tag("b", "–", data_f=name),
            tag("span", data_f=f"{name}_note", class_="note"),
            class_="tile",
        )
        for name in TILES
    )
    return tag("div", items, _memory(words), class_="tiles")


def _memory(words: Words) -> Markup:
    gauge = tag(
        "div",
        tag("span", class_="now", data_f="memory_bar"),
        tag("span", class_="mark predicted", data_f="predicted_mark"),
        tag("span", class_="mark", data_f="peak_mark"),
        class_="gauge",
        role="img",
        aria_label=words("train.memory_label"),
        data_f="gauge",
    )
    name = tag("span", words("train.memory"), class_="name")
    value = tag("b", "–", data_f="memory")
    keys = {name: tag("i", class_=name, aria_hidden="true") for name in ("peak", "predicted")}
    notes = tag(
        "span",
        *(tag("span", key, tag("span", data_f=name), data_k=name) for name, key in keys.items()),
        class_="note",
    )
    return tag("div", name, value, gauge, notes, class_="tile memory")


def _curves(words: Words) -> Markup:
    legend = tag("div", data_f="loss_legend", class_="legend", aria_hidden="true")
    title = tag("div", tag("h2", words("train.curve")), legend, class_="panel-head")
    plot = tag("div", class_="plot loss", role="img", aria_label=words("train.curve_label"))
    verdict = tag("div", data_f="verdict", class_="verdict", role="status")
    answer = tag("div", tag("dl", data_f="sample", class_="sample"), data_part="sample")
    talk = tag("h2", words("train.sample"))
    right = tag("section", verdict, tag("div", talk, class_="sample-head"), answer, class_="panel")
    return tag("div", tag("section", title, plot, class_="panel"), right, class_="row")


def _maps(words: Words) -> Markup:
    panels = Markup()
    for kind in ("ranks", "bits"):
        legend = tag("div", class_=f"legend {kind}", aria_hidden="true")
        title = tag("div", tag("h2", words(f"map.live_{kind}")), legend, class_="panel-head")
        label = words(f"map.{kind}_label")
        plot = tag("div", class_=f"plot heat {kind}", role="img", aria_label=label)
        panels += tag("section", title, plot, class_="panel")
    return tag("div", panels, class_="row even", data_part="maps", hidden="")


def _changes(words: Words) -> Markup:
    title = tag("div", tag("h2", words("train.changes")), class_="panel-head")
    listed = tag("ul", data_f="changes")
    return tag("section", title, listed, class_="panel", data_part="changes", hidden="")
