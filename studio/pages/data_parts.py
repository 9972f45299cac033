"""What the class page shows: findings with their buttons, lengths, versions, differences.

Pure functions from what is known to markup; the page wires them (``data.py``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from core.data.health.fixes import FIXES, LEAVE_OUT
from core.data.ingest.isolated import problem_from_json
from core.data.types import Candidate, Example, Turn
from core.data.versions import Diff
from core.errors import Problem, StudioError
from studio.markup import Markup, banner, choice, findings, join, section, table, tag
from studio.tasks import Task
from studio.text import Words
from studio.workbench import EDITED, LEFT_OUT, Entry

FORMS = ("xlsx", "csv", "jsonl")
ROWS_COMPARED = 60
MOST_ENCODINGS = 4  # that are offered with a preview
LONGEST_TURN = 300  # characters of a turn that are shown
_HASH = 8


def button(text: str, press: str, **attributes: str) -> Markup:
    """Return a small button whose press reaches Python under its id."""
    return tag("button", text, class_="btn small", type="button", data_press=press, **attributes)


# --- findings ------------------------------------------------------------------------------------


def title_of(code: str, words: Words) -> str:
    """Return a finding's short name, for menus and the history."""
    return words.get(f"health.names.{code.replace('.', '_')}", code)


def found_problems(report: Mapping[str, Any]) -> list[tuple[Problem, int]]:
    """Return the findings of a report, each with how many rows it concerns."""
    names = ("where", "what", "action", "severity", "code", "values")
    return [
        (problem_from_json({name: tree[name] for name in names}), int(tree["count"]))
        for tree in report.get("findings", ())
    ]


def reading(problems: Sequence[Problem], left_out: int, words: Words) -> Markup:
    """Return what reading the file said, with a button for rows that teach nothing."""
    told = [p for p in problems if p.code.split(".")[0] != "health"]
    shown = findings(told, words) if told else Markup()
    if not left_out:
        return shown
    text = tag("div", tag("b", words("health.left_out", n=left_out)), _buttons(LEFT_OUT, words))
    kind = tag("span", words("severity.warning"), class_="kind")
    return shown + tag("ul", tag("li", kind, text, class_="warning"), class_="findings")


def health(report: Mapping[str, Any], words: Words, *, fixes: bool = True) -> Markup:
    """Return the findings of the whole check, each with its buttons if rows can be edited."""
    found = found_problems(report)
    if not found:
        return tag("p", words("health.nothing"), class_="quiet")
    items = (_finding(problem, count, words, fixes) for problem, count in found)
    hint = words("health.hint" if fixes else "health.hint_large")
    return tag("ul", *items, class_="findings health") + tag("p", hint, class_="quiet")


def _finding(problem: Problem, count: int, words: Words, fixes: bool) -> Markup:
    said = words.problem(problem)
    kind = tag("span", words(f"severity.{said.severity}"), class_="kind")
    head = tag("b", words("health.rows", n=count)) + tag("span", said.what)
    where = tag("small", said.where, class_="where") if said.where else Markup()
    action = tag("span", said.action, class_="todo") if said.action else Markup()
    buttons = _buttons(said.code, words) if fixes else Markup()
    body = tag("div", head, where, action, buttons)
    return tag("li", kind, body, class_=said.severity)


def _buttons(code: str, words: Words) -> Markup:
    if code not in FIXES and code != LEFT_OUT:
        return Markup()
    name = title_of(code, words)
    fix = words(f"health.fix.{FIXES.get(code, LEAVE_OUT)}")
    show = words("health.show")
    return tag(
        "div",
        button(fix, f"fix:{code}", aria_label=f"{fix}: {name}"),
        button(show, f"show:{code}", aria_label=f"{show}: {name}"),
        class_="actions",
    )


def checking(task: Task, words: Words) -> Markup:
    """Return how far the check is, and what it is doing."""
    share = float(task.progress.get("share") or 0.0)
    step = task.progress.get("detail") or ("rows" if task.progress else "start")
    text = words("health.checking", n=f"{100 * share:.0f}")
    said = tag("p", text, " · ", words(f"health.step.{step}"), class_="quiet")
    return tag("div", said, _bar(share), role="status")


def _bar(share: float) -> Markup:
    return tag("div", tag("i", style=f"width:{100 * share:.0f}%"), class_="bar")


def importing(label: str, progress: Mapping[str, Any], words: Words) -> Markup:
    """Return how far an import is, its rate, the time left, and a button that ends it."""
    share = float(progress.get("share") or 0.0)
    title = words("data.importing", name=label, n=f"{100 * share:.0f}")
    text = words("data.import_start")
    if progress.get("rows"):
        rows, rate = f"{progress['rows']:,}", f"{progress['rate']:,.0f}"
        text = words("data.import_rate", rows=rows, rate=rate, left=f"{progress['left']:.0f}")
    stop = tag("div", button(words("data.import_stop"), "cancel"), class_="actions")
    said = tag("strong", title) + tag("p", text) + _bar(share)
    return tag("div", tag("div", said), stop, class_="banner info wide", role="status")


def failed(error: StudioError, problems: Sequence[Problem], words: Words) -> Markup:
    """Return why the check did not end, and what reading alone has found."""
    quick = [p for p in problems if p.code.split(".")[0] == "health"]
    said = banner("warn", words("health.failed"), words.error(error)[0].sentence())
    return said + (findings(quick, words) if quick else Markup())


# --- how the file is read ------------------------------------------------------------------------


def encodings(found: Sequence[Candidate], chosen: str, words: Words) -> Markup:
    """Return the encodings that a text may have, each with its first lines, to choose from."""
    if not found:
        return Markup()
    listed = [c for c in found if c.fits or c.encoding == chosen][:MOST_ENCODINGS]
    # Always in one order: Gradio keeps the radios and changes what is written beside them.
    listed.sort(key=lambda one: one.encoding)
    cards = Markup()
    for one in listed:
        radio = choice("encoding", one.encoding, checked=one.encoding == chosen)
        preview = tag("span", one.preview, class_="about preview", dir="auto")
        title = words.get(f"encodings.{one.encoding}", one.title)
        cards += tag("label", radio, tag("span", tag("b", title), preview), class_="choice")
    legend = tag("legend", words("data.encodings"))
    return tag("fieldset", legend, cards, class_="choices encodings")


def learned(examples: Sequence[Example], words: Words) -> Markup:
    """Return the first examples as they are learned, turn by turn."""
    if not examples:
        return Markup()
    items = (
        tag("li", *(_turn(turn, words) for turn in e.turns), _topic(e, words)) for e in examples
    )
    head = tag("b", words("data.learned"))
    return tag("div", head, tag("ol", *items), class_="learned")


def _turn(turn: Turn, words: Words) -> Markup:
    text = turn.content if len(turn.content) <= LONGEST_TURN else f"{turn.content[:LONGEST_TURN]}…"
    who = tag("span", words(f"data.role.{turn.role}"), class_="quiet")
    return tag("div", who, tag("span", text, dir="auto"))


def _topic(example: Example, words: Words) -> Markup:
    if not example.topic:
        return Markup()
    who = tag("span", words("data.topic"), class_="quiet")
    return tag("div", who, tag("span", example.topic[:LONGEST_TURN], dir="auto"))


# --- lengths -------------------------------------------------------------------------------------


def lengths(report: Mapping[str, Any], model: str, words: Words) -> Markup:
    """Return the histogram of tokens and what the limit cuts off."""
    head = section(words("lengths.title"), words("lengths.hint", model=model))
    if refusal := report.get("refusal"):
        said = words.problem(problem_from_json(refusal))
        head += banner("bad", said.what, said.action)
    tokens = report.get("tokens")
    if not tokens:
        why = report.get("model_problem")
        text = words.problem(problem_from_json(why)).sentence() if why else ""
        return head + tag("p", words("lengths.no_model"), " ", text, class_="quiet")
    cut, refused = len(tokens["truncated"]), len(tokens["no_room"])
    tone = "good" if not cut + refused else "warn"
    fits = words("lengths.fits", limit=tokens["limit"])
    lost = words("lengths.cut", limit=tokens["limit"], cut=cut, refused=refused)
    facts = (
        ("longest", tokens["longest"]),
        ("total", tokens["tokens"]),
        ("answers", tokens["answer_tokens"]),
    )
    chips = join(
        tag("span", words(f"lengths.{name}", n=f"{n:,}"), class_="chip info") for name, n in facts
    )
    verdict = tag("span", fits if tone == "good" else lost, class_=f"chip {tone}")
    return head + tag("div", verdict, chips, class_="chips") + _bars(tokens, words)


def _bars(tokens: Mapping[str, Any], words: Words) -> Markup:
    bars: list[tuple[int, int]] = [(int(upper), int(n)) for upper, n in tokens["histogram"]]
    most = max((n for _, n in bars), default=1) or 1
    width = bars[0][0] if bars else 1
    columns = join(
        tag(
            "i",
            class_="over" if upper - width >= tokens["limit"] else "",
            style=f"height:{max(100 * n / most, 2 if n else 0):.1f}%",
            title=words("lengths.bar", low=upper - width + 1, high=upper, n=n),
        )
        for upper, n in bars
    )
    label = words("lengths.picture", longest=tokens["longest"], limit=tokens["limit"])
    picture = tag("div", columns, class_="bars", role="img", aria_label=label)
    ends = tag("span", "1") + tag(
        "span", words("lengths.tokens", n=f"{bars[-1][0] if bars else 0:,}")
    )
    return picture + tag("div", ends, class_="bars-scale")


# --- versions ------------------------------------------------------------------------------------


def downloads(words: Words, version_id: str = "") -> Markup:
    """Return the links under which the rows as they stand now, or a version, can be fetched."""
    query = f"?lang={words.language}" + (f"&version={version_id}" if version_id else "")
    return join(
        tag(
            "a",
            form.upper(),
            class_="btn small",
            href=f"/api/class/rows.{form}{query}",
            download="",
        )
        for form in FORMS
    )


def download_line(words: Words) -> Markup:
    """Return the downloads of the rows as they stand now."""
    name = tag("span", words("data.download"), class_="quiet")
    return tag("div", name, downloads(words), class_="links")


def templates(words: Words) -> Markup:
    """Return the links to a class to fill in."""
    links = join(
        tag(
            "a",
            form.upper(),
            class_="btn small",
            href=f"/api/class/template.{form}?lang={words.language}",
            download="",
        )
        for form in ("xlsx", "csv")
    )
    return tag("div", tag("span", words("data.template"), class_="quiet"), links, class_="links")


def history(entries: Sequence[Entry], asked: str, words: Words) -> Markup:
    """Return the versions of a class, newest first.

    Args:
        entries: the history.
        asked: id of the version whose deletion waits for a second press.
        words: the language.
    """
    items = (_entry(entry, asked == entry.id, words) for entry in entries)
    return tag("ol", *items, class_="versions")


def _entry(entry: Entry, asked: bool, words: Words) -> Markup:
    kept = entry.kept
    title = words("versions.number", n=kept.number) if kept else words("versions.original")
    chip = tag("span", words("versions.current"), class_="chip good") if entry.current else Markup()
    about = Markup()
    if kept:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.made))
        done = " · ".join(_note(code, n, words) for code, n in kept.notes)
        facts = words("versions.facts", rows=kept.rows, examples=kept.examples, when=when)
        code = tag("code", kept.sha256[:_HASH], title=f"SHA-256 {kept.sha256}")
        about = tag("small", done, " · ", facts, " · ", code)
    actions = Markup()
    if not entry.current:
        actions += button(words("versions.use"), f"use:{entry.id}")
        actions += button(words("versions.compare"), f"compare:{entry.id}")
        press, label = ("really", "really") if asked else ("delete", "delete")
        actions += button(words(f"versions.{label}"), f"{press}:{entry.id}")
    body = tag("div", tag("b", title), chip, about)
    return tag("li", body, tag("div", actions, downloads(words, entry.id), class_="links"))


def _note(code: str, rows: int, words: Words) -> str:
    if code == EDITED:
        return words("versions.edited", n=rows)
    fix = words(f"health.fix.{FIXES.get(code, LEAVE_OUT)}")
    return words("versions.fixed", what=title_of(code, words), fix=fix, n=rows)


def differences(title: str, found: Diff, columns: Sequence[str], words: Words) -> Markup:
    """Return what is different between a version and the rows as they stand now."""
    counts = (("added", found.added), ("removed", found.removed), ("changed", found.changed))
    chips = join(
        tag("span", words(f"versions.{name}", n=len(rows)), class_="chip info")
        for name, rows in counts
    )
    rows: list[list[str]] = []
    for before, after in found.changed[:ROWS_COMPARED]:
        cells = [_cell(a, b) for a, b in zip(before, after, strict=False)]
        rows.append([words("versions.is_changed"), *cells])
    rows += [[words("versions.is_added"), *row] for row in found.added[:ROWS_COMPARED]]
    rows += [[words("versions.is_removed"), *row] for row in found.removed[:ROWS_COMPARED]]
    head = section(words("versions.difference", name=title))
    shown = tag("div", chips, class_="chips")
    if rows:
        caption = words("versions.difference", name=title)
        shown += tag("div", table(["", *columns], rows, caption), class_="scroll")
    return head + shown


def _cell(before: str, after: str) -> str:
    return after if before == after else tag("del", before) + " " + tag("ins", after)
