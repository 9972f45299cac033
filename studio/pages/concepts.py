"""The task "concept map": make it, read it as a drawing or a list, correct it, use it.

The page is a frame; ``concepts.js`` fills it from ``/api/concepts/...`` (``studio/concepts.py``).
"""

from __future__ import annotations

from core.graph.material import READERS
from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, empty, entry, join, section, tag
from studio.pages.common import footer, head, script, show
from studio.text import Words

COLOURS = ("kind", "gap", "base", "tuned", "change")
FILES = ("map.json", "map.graphml", "concepts.csv", "relations.csv")
PICTURES = ("svg", "png")
COLUMNS = ("name", "kind", "questions", "explained", "after", "sure")
MASTERY = ("name", "questions", "base", "tuned", "verdict")


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out; ``concepts.js`` brings it to life."""
    head(words, "concepts")
    show(_page(words), js_on_load=script("concepts"), elem_id="concepts")
    footer(words, "concepts", back="data")


def _page(words: Words) -> Markup:
    parts = (_drawing(words), _reading(words), _mastery(words), _use(words), _made(words))
    nothing = empty(words("concepts.none"), words("concepts.none_text"))
    return tag(
        "div",
        _make(words),
        tag("div", nothing, data_part="none"),
        tag("div", *parts, data_part="map", class_="live", hidden=""),
        class_="con",
    )


def _button(words: Words, name: str, kind: str = "btn small", **more: str) -> Markup:
    label = words(f"concepts.{name}")
    return tag("button", label, class_=kind, type="button", data_con=name, **more)


def _labelled(words: Words, name: str, control: Markup, kind: str = "con-field") -> Markup:
    label = tag("label", words(f"concepts.{name}"), for_=f"con-{name}")
    return tag("div", label, control, class_=kind)


def _ticked(words: Words, name: str) -> Markup:
    box = entry("checkbox", id=f"con-{name}", data_f=name)
    return tag("label", box, tag("span", words(f"concepts.{name}")), class_="con-tick")


# --- making --------------------------------------------------------------------------------------


def _make(words: Words) -> Markup:
    """What the map is made of, and the button that makes it."""
    pick = entry(
        "file",
        id="con-file",
        class_="sr-only",
        multiple="",
        accept=",".join(READERS),
        tabindex="-1",
    )
    texts = tag("ul", data_f="texts", class_="con-texts")
    add = _button(words, "add_text")
    label = tag("label", words("concepts.add_text"), for_="con-file", class_="sr-only")
    pairs = _labelled(words, "pairs", tag("select", id="con-pairs", data_f="pairs"))
    go = _button(words, "make", "btn primary", data_f="make")
    stop = _button(words, "cancel", "btn small", data_f="cancel", hidden="")
    bar = tag("div", tag("i", data_f="bar"), class_="bar")
    work = tag("div", tag("p", data_f="at", class_="quiet"), bar, data_part="work", hidden="")
    return tag(
        "section",
        section(words("concepts.made_of"), words("concepts.made_of_hint")),
        tag("div", tag("p", data_f="basis", class_="con-basis"), add, class_="con-line"),
        label + pick + texts,
        tag("div", pairs, tag("div", stop, go, class_="con-go"), class_="con-line"),
        work,
        tag("div", data_f="said", role="status"),
        class_="card",
    )


# --- the drawing and the list --------------------------------------------------------------------


def _drawing(words: Words) -> Markup:
    left = tag("div", _canvas(words), _list(words), class_="con-left")
    body = tag("div", left, _details(words), class_="con-body")
    return tag("section", _tools(words), body, class_="panel con-map")


def _tools(words: Words) -> Markup:
    views = join(
        tag("button", words(f"concepts.{v}"), type="button", data_view=v, aria_pressed="false")
        for v in ("map", "list")
    )
    look = words("concepts.look")
    switch = tag("div", views, class_="segmented", role="group", aria_label=look)
    search = entry("search", id="con-search", data_f="search", list="con-names", autocomplete="off")
    names = tag("datalist", id="con-names", data_f="names")
    ways = _choices(words, "way", ("order", "near"))
    colours = _choices(words, "colour", COLOURS)
    least = entry("range", id="con-least", data_f="least", min="0", max="95", step="5", value="0")
    shown = tag("output", "0 %", data_f="least_said", for_="con-least")
    sure = tag("div", least, shown, class_="con-sure")
    steps = tag("div", _button(words, "undo"), _button(words, "redo"), class_="chips")
    first = tag("div", switch, steps, class_="con-line")
    fields = (
        _labelled(words, "search", search + names),
        _labelled(words, "way", ways),
        _labelled(words, "colour", colours),
        _labelled(words, "least", sure),
    )
    return tag("div", first, tag("div", *fields, class_="con-tools"), class_="con-head")


def _choices(words: Words, name: str, values: tuple[str, ...]) -> Markup:
    options = (tag("option", words(f"concepts.{name}s.{v}"), value=v) for v in values)
    return tag("select", *options, id=f"con-{name}", data_f=name)


def _canvas(words: Words) -> Markup:
    """The drawing: one thing for the keyboard, which says what is chosen."""
    drawing = tag(
        "div",
        class_="con-canvas",
        data_f="canvas",
        tabindex="0",
        role="application",
        aria_label=words("concepts.canvas"),
        aria_describedby="con-keys",
    )
    zoom = join(
        tag(
            "button",
            sign,
            class_="btn small",
            type="button",
            data_con=name,
            aria_label=words(f"concepts.{name}"),
            title=words(f"concepts.{name}"),
        )
        for name, sign in (("zoom_in", "+"), ("zoom_out", "−"), ("fit", "⤢"))
    )
    whole = _button(words, "whole", "btn small", hidden="")
    over = tag("div", whole, tag("span", data_f="focus_said"), class_="con-over")
    legend = tag("div", data_f="legend", class_="legend con-legend")
    single = _ticked(words, "single")
    low = tag("div", legend, single, class_="con-line")
    keys = tag("p", words("concepts.keys"), id="con-keys", class_="quiet con-keys")
    corner = tag("div", zoom, class_="con-zoom")
    stage = tag("div", drawing, over, corner, class_="con-stage")
    return tag("div", stage, low, keys, data_part="canvas")


def _list(words: Words) -> Markup:
    heads = (tag("th", words(f"concepts.col.{name}"), scope="col") for name in COLUMNS)
    title = tag("caption", words("concepts.list"), class_="sr-only")
    top, body = tag("thead", tag("tr", *heads)), tag("tbody", data_f="rows")
    table = tag("table", title, top, body, class_="figures con-table")
    return tag(
        "div",
        table,
        class_="con-scroll",
        data_part="list",
        hidden="",
        tabindex="0",
        role="region",
        aria_label=words("concepts.list"),
    )


def _details(words: Words) -> Markup:
    nothing = tag("p", words("concepts.choose"), class_="quiet", data_part="unchosen")
    new = entry("text", id="con-new", data_f="new", maxlength="120", autocomplete="off")
    add = tag("div", new, _button(words, "add"), class_="con-add")
    form = tag("form", _labelled(words, "new", add), data_f="add_form")
    detail = tag("div", data_f="detail", tabindex="-1")
    return tag("aside", nothing, detail, form, class_="con-side", aria_label=words("concepts.side"))


# --- reading and using it ------------------------------------------------------------------------


def _reading(words: Words) -> Markup:
    gaps = tag(
        "section",
        _head(words, "gaps"),
        tag("ul", data_f="gaps", class_="con-gaps"),
        tag("p", words("concepts.no_gaps"), data_f="no_gaps", class_="quiet"),
        class_="panel",
    )
    order = tag(
        "section",
        _head(words, "order"),
        tag("ol", data_f="order", class_="con-order"),
        class_="panel",
    )
    return tag("div", gaps, order, class_="row even")


def _head(words: Words, name: str) -> Markup:
    hint = tag("p", words(f"concepts.{name}_hint"), class_="quiet")
    return tag("h2", words(f"concepts.{name}")) + hint


def _mastery(words: Words) -> Markup:
    choose = _labelled(words, "run", tag("select", id="con-run", data_f="run"), "lab-against")
    top = tag("div", tag("h2", words("concepts.mastery")), choose, class_="panel-head")
    heads = (tag("th", words(f"concepts.col.{name}"), scope="col") for name in MASTERY)
    title = tag("caption", words("concepts.mastery"), class_="sr-only")
    table = tag(
        "table",
        title,
        tag("thead", tag("tr", *heads)),
        tag("tbody", data_f="mastery"),
        class_="figures numbers",
    )
    scroll = tag(
        "div",
        table,
        class_="con-scroll low",
        data_part="mastery",
        hidden="",
        tabindex="0",
        role="region",
        aria_label=words("concepts.mastery"),
    )
    said = tag("p", words("concepts.no_runs"), data_f="mastery_said", class_="quiet")
    return tag("section", top, said, scroll, class_="panel")


def _use(words: Words) -> Markup:
    quiz = tag(
        "section",
        _head(words, "quiz"),
        _ticked(words, "quiz_on"),
        _ticked(words, "quiz_weighted"),
        tag("p", data_f="quiz_said", class_="quiet", role="status"),
        class_="panel con-quiz",
    )
    links = (
        tag(
            "a",
            words(f"concepts.files.{name.replace('.', '_')}"),
            class_="btn small",
            href=f"/api/concepts/file/{name}",
            download=name,
        )
        for name in FILES
    )
    pictures = (_button(words, form) for form in PICTURES)
    take = tag(
        "section",
        _head(words, "take"),
        tag("div", *links, *pictures, class_="chips"),
        class_="panel con-quiz",
    )
    return tag("div", quiz, take, class_="row even")


def _made(words: Words) -> Markup:
    """How the map was made, and which model was taken by what comparison."""
    title = tag("h2", words("concepts.how"))
    return tag("section", title, tag("ul", data_f="notes", class_="lab-notes"), class_="panel")
