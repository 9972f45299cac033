"""Small pieces of HTML.

Text is text: whatever is not :class:`Markup` already is escaped where it is put in, so that nothing
a person has typed, and nothing a file holds, can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup as Markup
from markupsafe import escape

from core.errors import Problem
from studio.text import Words


def join(pieces: Iterable[str]) -> Markup:
    """Return the pieces one after another."""
    return Markup("").join(pieces)


def tag(name: str, *inner: str, **attributes: str) -> Markup:
    """Return ``<name attributes>inner</name>``.

    An underscore at the end of an attribute's name is dropped (``class_``), others become hyphens.
    """
    return _start(name, attributes) + join(inner) + Markup(f"</{name}>")


def choice(group: str, value: str, *, checked: bool = False, disabled: bool = False) -> Markup:
    """Return a radio button."""
    attributes = {"type": "radio", "name": group, "value": value}
    attributes |= {"checked": ""} if checked else {}
    attributes |= {"disabled": ""} if disabled else {}
    return _start("input", attributes)


def number_input(**attributes: str) -> Markup:
    """Return a field for a number; its label is up to the caller."""
    return _start("input", {"type": "number", **attributes})


def entry(kind: str, **attributes: str) -> Markup:
    """Return an input of another kind (``search``, ``range``, ``checkbox`` ...), unlabelled."""
    return _start("input", {"type": kind, **attributes})


def image(address: str) -> Markup:
    """Return a picture that says nothing to a screen reader."""
    return _start("img", {"src": address, "alt": ""})


def _start(name: str, attributes: dict[str, str]) -> Markup:
    named = join(
        Markup(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"')
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{named}>")


def heading(title: str, lead: str) -> Markup:
    """Return a page's title and the one sentence under it."""
    return tag("header", tag("h1", title), tag("p", lead), class_="page-head")


def section(title: str, hint: str = "") -> Markup:
    """Return the title of a card, with an optional hint."""
    hint_markup = tag("p", hint) if hint else Markup()
    return tag("div", tag("h2", title), hint_markup, class_="card-head")


def tile(label: str, value: str, note: str = "", *, tone: str = "") -> Markup:
    """Return a figure with its name; ``tone`` is ``good``, ``bad`` or empty."""
    note_markup = tag("span", note, class_="note") if note else Markup()
    return tag(
        "div",
        tag("span", label, class_="name"),
        tag("b", value),
        note_markup,
        class_=f"tile {tone}".strip(),
    )


def tiles(*items: str) -> Markup:
    """Return tiles side by side."""
    return tag("div", *items, class_="tiles")


def banner(tone: str, title: str, text: str = "", *, actions: Markup | None = None) -> Markup:
    """Return a message; ``tone`` is ``good``, ``warn``, ``bad`` or ``info``."""
    body = tag("p", text) if text else Markup()
    extra = tag("div", actions, class_="actions") if actions else Markup()
    words = tag("div", tag("strong", title), body)
    return tag("div", words, extra, class_=f"banner {tone}", role="status")


def empty(title: str, text: str) -> Markup:
    """Return what stands where nothing is yet."""
    return tag("div", tag("strong", title), tag("p", text), class_="empty")


def findings(problems: Iterable[Problem], words: Words) -> Markup:
    """Return findings as a list, worst first, each with its place and what to do."""
    order = {"error": 0, "warning": 1, "info": 2}
    found = sorted(problems, key=lambda p: order[p.severity])
    return tag("ul", *(_finding(words.problem(p), words) for p in found), class_="findings")


def _finding(problem: Problem, words: Words) -> Markup:
    where = tag("b", problem.where) if problem.where else Markup()
    action = tag("span", problem.action, class_="todo") if problem.action else Markup()
    kind = tag("span", words(f"severity.{problem.severity}"), class_="kind")
    text = tag("span", problem.what)
    body = tag("div", where, text, action)
    return tag("li", kind, body, class_=problem.severity)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Markup:
    """Return a table of text; the first column names the row."""
    top = tag("tr", *(tag("th", h, scope="col") for h in head))
    body = join(
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", c) for c in row[1:])) for row in rows
    )
    title = tag("caption", caption, class_="sr-only")
    return tag("table", title, tag("thead", top), tag("tbody", body), class_="figures")


def stacked_bar(parts: Sequence[tuple[str, str, float]], label: str) -> Markup:
    """Return one bar of ``(class, title, share 0..1)`` segments."""
    segments = join(
        tag("i", class_=f"seg {kind}", style=f"width:{100 * share:.2f}%", title=title)
        for kind, title, share in parts
    )
    return tag("div", segments, class_="stack", role="img", aria_label=label)
