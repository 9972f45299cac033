"""The task "compare methods": choose what to compare, watch it, read the table, take it away.

The page is a frame; ``lab.js`` fills it from ``/api/lab/...`` (``studio/lab.py``).
"""

from __future__ import annotations

from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, empty, number_input, section, tag
from studio.pages.common import footer, head, script, show
from studio.text import Words

FIELDS = ("data", "budget", "seeds")


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out; ``lab.js`` brings it to life."""
    head(words, "lab")
    show(_lab(words), js_on_load=script("lab"), elem_id="lab")
    footer(words, "lab", back="share")


def _lab(words: Words) -> Markup:
    top = tag("div", _setup(words), _runs(words), class_="lab-top")
    return tag("div", top, tag("div", _result(words), class_="live"), class_="lab")


def _setup(words: Words) -> Markup:
    """What to compare: rows of a method and one setting, and what is the same for all."""
    heads = tag(
        "div",
        *(tag("span", words(f"lab.{name}")) for name in ("method", "setting", "value")),
        class_="lab-heads",
        aria_hidden="true",
    )
    rows = tag("div", data_f="rows", class_="lab-rows")
    add = tag("button", words("lab.add"), class_="btn small", type="button", data_lab="add")
    parts = tag("button", words("lab.parts"), class_="btn small", type="button", data_lab="parts")
    same = tag("div", *(_field(name, words) for name in FIELDS), class_="lab-same")
    said = words("js.lab_start", n=2)  # until the choices are there
    start = tag(
        "button", said, class_="btn primary", type="button", data_lab="start", data_f="start"
    )
    return tag(
        "section",
        section(words("lab.choose"), words("lab.choose_hint")),
        heads,
        rows,
        tag("div", add, parts, class_="chips"),
        tag("p", data_f="about", class_="quiet"),
        same,
        tag("p", data_f="basis", class_="quiet"),
        tag("div", start, class_="lab-start"),
        class_="card",
    )


def _field(name: str, words: Words) -> Markup:
    if name == "budget":
        control = number_input(id="lab-budget", min="0", step="20", value="0", data_f="budget")
    elif name == "seeds":
        options = (tag("option", str(n), value=str(n)) for n in (1, 2, 3))
        control = tag("select", *options, id="lab-seeds", data_f="seeds")
    else:
        control = tag("select", id="lab-data", data_f="data")
    label = tag("label", words(f"lab.{name}"), for_=f"lab-{name}")
    return tag("div", label, control, class_="lab-field")


def _runs(words: Words) -> Markup:
    """Every run there is, to be ticked."""
    legend = tag("legend", words("lab.past"), class_="sr-only")
    listed = tag("fieldset", legend, tag("div", data_f="ticks"), class_="lab-ticks")
    none = tag("p", words("lab.no_runs"), data_f="no_runs", class_="quiet")
    clear = tag("button", words("lab.clear"), class_="btn small", type="button", data_lab="clear")
    return tag(
        "section",
        section(words("lab.past"), words("lab.past_hint")),
        none,
        listed,
        tag("div", clear, class_="chips"),
        class_="card",
    )


def _result(words: Words) -> Markup:
    nothing = tag("div", empty(words("lab.none"), words("lab.none_text")), data_part="none")
    found = tag("div", _progress(words), _curve(words), _table(words), data_part="found", hidden="")
    return nothing + found


def _progress(words: Words) -> Markup:
    title = tag("h2", words("lab.progress"))
    stop = tag(
        "button", words("lab.stop"), class_="btn danger small", type="button", data_lab="stop"
    )
    states = tag("ul", data_f="states", class_="lab-states")
    top = tag("div", title, stop, class_="panel-head")
    said = tag("div", data_f="said", class_="sr-only", role="status")
    return tag("section", top, states, said, class_="panel")


def _curve(words: Words) -> Markup:
    legend = tag("div", data_f="legend", class_="legend", aria_hidden="true")
    title = tag("div", tag("h2", words("lab.curve")), legend, class_="panel-head")
    plot = tag("div", class_="plot loss", role="img", aria_label=words("lab.curve_label"))
    return tag("section", title, plot, class_="panel")


def _table(words: Words) -> Markup:
    label = tag("label", words("lab.reference"), for_="lab-reference")
    choose = tag("select", id="lab-reference", data_f="reference")
    links = tag(
        "div",
        *(
            tag("a", words(f"lab.{name}"), class_="btn small", href="#/lab", data_f=name, **more)
            for name, more in (
                ("csv", {"download": "comparison.csv"}),
                ("report", {"download": "comparison.html"}),
                ("open", {"target": "_blank", "rel": "noopener"}),
            )
        ),
        class_="chips",
    )
    title = tag("h2", words("lab.table"))
    top = tag("div", title, tag("div", label, choose, class_="lab-against"), class_="panel-head")
    table = tag("table", data_f="table", class_="figures numbers lab-table")
    scroll = tag(
        "div",
        table,
        class_="lab-scroll",
        tabindex="0",
        role="region",
        aria_label=words("lab.table"),
    )
    notes = tag("ul", data_f="notes", class_="lab-notes")
    return tag("section", top, scroll, notes, links, class_="panel")
