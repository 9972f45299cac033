"""Step 2: the class's questions and answers: choose, look, correct, mend, edit, keep versions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from core.config import DataConfig, RunConfig, columns_text
from core.data.ingest import large
from core.data.ingest.label import SUFFIXES
from core.data.ingest.stream import Imported
from core.data.ingest.workbook import ALL as EVERY_SHEET
from core.data.types import ReadResult
from core.errors import Problem, StudioError
from studio import draft, library
from studio.api import Downloads
from studio.backend import Backend
from studio.library import SAMPLES
from studio.markup import Markup, banner, choice, empty, findings, join, section, tag
from studio.pages import data_parts as parts
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.text import Words
from studio.workbench import LEFT_OUT, PAIR, Bench

ENCODINGS = ("utf-8", "utf-16", "gb18030", "big5", "shift_jis", "cp1252", "latin-1")
MENUS = ("sheet", "question", "answer", "encoding")
# further menus: columns joined to question and answer, and those of other parts
ADDED = ("question_more", "answer_more")
PARTS = ("context", "system", "topic", "options", "earlier")
MORE_PARTS = 1 + len(ADDED) + len(PARTS) + 2  # of a page: their card, these menus, two texts
MAX_ROWS_SHOWN = 500
FIRST = 200  # rows of a large class that are shown
ALL = "all"
EVERY = 0.3  # seconds between two reports of progress


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "data")
    enter = on_enter("data")
    with gr.Row(elem_classes="side"):
        with gr.Column(min_width=0):
            samples, upload = _sources(words)
            reading = Reading(words)
        with gr.Column(min_width=0):
            with gr.Column(elem_classes="card"):
                press = script("press", "press")
                importing = show(elem_id="data-import", js_on_load=press)
                refusal = show(elem_id="data-refusal")
                summary = show(elem_id="data-summary")
                learned = show(elem_id="data-learned")
                found = show(elem_id="data-findings", js_on_load=press)
                health = show(elem_id="data-health", js_on_load=press)
            editor = Editor(words)
            with gr.Column(elem_classes="card", visible=False) as measured:
                lengths = show(elem_id="data-lengths")
            with gr.Column(elem_classes="card", visible=False) as kept:
                show(section(words("versions.title"), words("versions.hint")))
                history = show(elem_id="data-versions", js_on_load=press)
                difference = show(elem_id="data-difference")
    footer(words, "data", back="model", forward="plan")

    page = Page(backend, words)
    shown = [refusal, samples, summary, found, reading.card, *reading.menus, kept, history]
    shown += [difference, *editor.parts, *reading.parts, learned]
    checked = [health, measured, lengths, editor.only]
    refresh_rail = "() => Studio.refresh()"

    def changes(event: Any, *, rail: bool = False) -> None:
        """What to do after the class was changed: the check, and the rail."""
        event.then(page.check, None, checked, **QUIET)
        if rail:
            event.then(None, js=refresh_rail)

    def imports(event: Any) -> Any:
        """Show an import that is under way, and then what it gave."""
        watched = event.then(page.watch_import, None, importing, **QUIET)
        return watched.then(page.view_imported, None, shown, **QUIET)

    changes(imports(enter.enter(page.view, None, shown, **QUIET)))
    # of choices made while one is being read, the last one counts
    quick = {**QUIET, "trigger_mode": "always_last"}
    changes(samples.choose(page.choose_sample, None, shown, **quick), rail=True)
    changes(imports(upload.upload(page.take_upload, upload, shown, **QUIET)), rail=True)
    importing.press(page.cancel_import, None, importing, **QUIET)
    menus = [*reading.menus, *reading.more]
    for menu in menus:
        changes(imports(menu.input(page.read_as, menus, shown, **quick)))
    changes(imports(reading.encodings.choose(page.read_in, None, shown, **quick)))
    for place in (found, health):
        changes(place.press(page.mend, None, shown, **QUIET))
    changes(history.press(page.handle_version, None, shown, **QUIET))
    filters = [editor.search, editor.only]
    gr.on([editor.search.submit, editor.only.input], page.rows, filters, editor.parts, **QUIET)
    table = [editor.view, editor.rows]
    # an edit made while another is on its way is sent after it, and never dropped
    last: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1}
    editor.rows.input(page.edited, table, editor.state, **QUIET, **last)
    editor.add.click(page.add_row, filters, editor.parts, **QUIET)
    changes(editor.undo.click(page.undo, None, shown, **QUIET))
    changes(editor.save.click(page.save, table, shown, **QUIET))


def _sources(words: Words) -> tuple[gr.HTML, gr.File]:
    """Add where a class comes from."""
    with gr.Column(elem_classes="card"):
        show(section(words("data.samples"), words("data.samples_hint")))
        samples = show(js_on_load=script("choices", "choose"), elem_id="sample-choices")
    with gr.Column(elem_classes="card"):
        show(section(words("data.upload"), words("data.upload_hint")))
        upload = gr.File(
            label=words("data.file"), file_types=list(SUFFIXES), height=130, elem_id="upload"
        )
        show(parts.templates(words))
    return samples, upload


class Reading:
    """How a file is read: menus, and encodings to choose from.

    Attributes:
        menus: sheet, question, answer, encoding.
        more: further columns of question and answer, and those of the other parts.
        parts: what a new class fills beside ``menus``, but for the first rows.
    """

    def __init__(self, words: Words) -> None:
        """Lay the parts out."""
        with gr.Column(elem_classes="card", visible=False) as self.card:
            show(section(words("data.reading"), words("data.reading_hint")))
            self.menus = [
                gr.Dropdown([], label=words(f"data.{name}"), interactive=True) for name in MENUS
            ]
            choose = script("choices", "choose")
            self.encodings = show(js_on_load=choose, elem_id="data-encodings")
            with gr.Accordion(words("data.parts"), open=False, elem_id="data-parts") as more:
                self.more = [
                    gr.Dropdown(
                        [],
                        multiselect=True,
                        label=words(f"data.{name}"),
                        info=words(f"data.{name}_hint"),
                        interactive=True,
                    )
                    for name in (*ADDED, *PARTS)
                ]
        self.parts = [more, *self.more, self.encodings]


class Editor:
    """The parts of the row editor.

    Attributes:
        parts: what a new class fills, in the order of :meth:`Page.editor`.
        state: what changes with an edit: what is said, and the buttons.
    """

    def __init__(self, words: Words) -> None:
        """Lay the parts out."""
        with gr.Column(elem_classes="card", visible=False) as self.card:
            show(section(words("data.rows"), words("data.rows_hint")))
            self.view = gr.State(0)
            with gr.Row(elem_classes="inline-row"):
                self.search = gr.Textbox(
                    label=words("data.search"),
                    placeholder=words("data.search_hint"),
                    max_lines=1,
                    elem_id="rows-search",
                )
                self.only = gr.Dropdown(
                    [(words("data.all_rows"), ALL)],
                    value=ALL,
                    label=words("data.only"),
                    interactive=True,
                    elem_id="rows-only",
                )
            self.count = show(elem_id="rows-count")
            self.rows = gr.Dataframe(
                label=words("data.rows"),
                interactive=True,
                datatype="str",
                type="array",
                wrap=True,
                show_label=False,
                max_height=520,
                static_columns=[0],
                buttons=["fullscreen"],
                elem_id="rows",
            )
            show(parts.download_line(words), elem_id="rows-download")
            with gr.Row(elem_classes="nav-row"):
                self.said = show(elem_id="edit-said")
                self.add = gr.Button(words("data.add"), elem_id="rows-add")
                self.undo = gr.Button(words("data.undo"), interactive=False, elem_id="rows-undo")
                self.save = gr.Button(words("data.save"), interactive=False, elem_id="rows-save")
        self.state = [self.said, self.undo, self.save]
        self.parts = [self.card, self.view, self.count, self.rows, *self.state, self.search]
        self.parts.append(self.only)


class Page:
    """What the page does; every method returns the values of the parts it is wired to."""

    def __init__(self, backend: Backend, words: Words) -> None:
        """Work on the draft's class."""
        self.backend, self.words, self.desk = backend, words, backend.desk

    # --- choosing and reading

    def view(self, said: str = "", search: str = "", only: str = ALL) -> list[Any]:
        """Return the values of all parts for the draft's class."""
        config, words = draft.load(), self.words
        none = [*self._no_rows(), *[gr.skip()] * (MORE_PARTS - 2), "", ""]
        if not config.data.path:
            nothing = empty(words("data.none"), words("data.none_text"))
            hidden = [gr.Column(visible=False), *_no_menus(), gr.Column(visible=False), "", ""]
            return ["", _samples("", words), nothing, "", *hidden, *none]
        try:
            if library.is_large(config.data):
                return self._view_large(config)
            result = library.read(config.data, config.name)
            bench = self.desk.bench(config)
            entries = self.desk.history(config)
        except StudioError as error:
            refused = _refusal(config.name, words.error(error), words)
            same = [gr.skip()] * 5  # the menus stay, so that the choice can be corrected
            hidden = [gr.Column(visible=False), "", ""]
            none[-2:] = [gr.skip(), gr.skip()]
            return [refused, _samples("", words), "", "", *same, *hidden, *none]
        return [
            "",
            _samples(library.is_sample(config), words),
            _summary(config.name, result, words),
            parts.reading(result.problems, len(_left_out(result)), words),
            gr.Column(visible=True),
            *_menus(result, config, words),
            gr.Column(visible=True),
            parts.history(entries, "", words),
            "",
            *self.editor(config, bench, result, search=search, only=only, said=said),
            *_more_menus(result.columns, result.parts, words),
            parts.encodings(result.encodings, result.encoding, words),
            parts.learned(result.examples[:2], words),
        ]

    def _view_large(self, config: RunConfig) -> list[Any]:
        """Show a class that was imported: its first rows, which are not edited here."""
        words, found = self.words, library.imported(config.data)
        about = found.about
        columns, rows = about.columns, about.shown
        if not rows:  # conversations
            columns = PAIR
            rows = [(e.question, e.answer) for e in found.examples[:FIRST]]
        shown = gr.Dataframe(
            value=[["", *row] for row in rows],
            headers=["", *columns],
            column_widths=_widths(len(columns)),
            interactive=False,
        )
        count = words("data.large", n=f"{len(rows):,}", total=f"{about.rows:,}")
        return [
            "",
            _samples("", words),
            _summary(config.name, about, words),
            parts.reading(about.problems, 0, words),
            gr.Column(visible=True),
            *_menus(about, config, words),
            gr.Column(visible=False),
            "",
            "",
            *[gr.Column(visible=True), 0, tag("p", count, class_="quiet"), shown, ""],
            *[gr.Button(interactive=False)] * 2,
            *["", gr.Dropdown(choices=[(words("data.all_rows"), ALL)], value=ALL)],
            *_more_menus(about.columns, about.parts, words),
            "",
            parts.learned(found.examples[:2], words),
        ]

    def choose_sample(self, event: gr.EventData) -> list[Any]:
        """Take a sample class."""
        library.choose_sample(str(event.id))
        return self.view()

    def take_upload(self, path: str | None) -> list[Any]:
        """Take a teacher's file, or say why it cannot be used."""
        if path is None:
            return self._unchanged()
        label = Path(path).name
        try:
            kept, clean = library.keep_upload(Path(path), label)
            data = DataConfig(path=str(kept))
            if not library.needs_import(data, clean):
                library.choose(kept, clean)
                return self.view()
            self.backend.import_class(kept, data, clean)
        except StudioError as error:  # what was chosen stays as it was
            return [_refusal(label, self.words.error(error), self.words), *self._unchanged()[1:]]
        return ["", *self._unchanged()[1:]]

    def read_as(self, sheet: str, question: str, answer: str, encoding: str, *more: Any) -> Any:
        """Read the file with other columns, another sheet or another encoding."""
        config = draft.load()
        data, encoding = config.data, encoding or ""
        known = self._known(config)
        if sheet and sheet == _sheet(known, config):
            sheet = data.sheet
        if (sheet or "", encoding) != (data.sheet, data.encoding):
            return self._read(config, sheet=sheet or "", encoding=encoding)
        wanted = {"question": (question, *(more[0] or ())), "answer": (answer, *(more[1] or ()))}
        wanted |= {part: tuple(names or ()) for part, names in zip(PARTS, more[2:], strict=True)}
        base = known.parts if known else data.parts
        columns = columns_text(mapped(base, wanted))
        return self._read(config, sheet=data.sheet, encoding=encoding, columns=columns)

    def read_in(self, event: gr.EventData) -> list[Any]:
        """Read the file in another encoding."""
        config = draft.load()
        return self._read(config, sheet=config.data.sheet, encoding=str(event.id))

    def _known(self, config: RunConfig) -> ReadResult | Imported | None:
        """Return what the file was found to hold, if it could be read."""
        try:
            if library.is_large(config.data):
                return library.imported(config.data).about
            return library.read(config.data, config.name)
        except StudioError:
            return None

    def _read(
        self, config: RunConfig, *, sheet: str, encoding: str, columns: str = ""
    ) -> list[Any]:
        """Read the class in another way; names of columns mean nothing in another encoding."""
        how: dict[str, Any] = {"sheet": sheet, "encoding": encoding, "columns": columns}
        data = replace(config.data, **how, question="", answer="")
        if library.is_large(data):
            try:
                self.backend.import_class(library.source_of(data), data, config.name)
            except StudioError as error:
                return self._complain(error)
            return self._unchanged()
        draft.save(replace(draft.load(), data=data))
        return self.view()

    # --- large files

    def watch_import(self) -> Iterator[Markup]:
        """Say how far the import is, at what rate, and when it will be done."""
        incoming, shown = self.backend.incoming, 0.0
        if incoming is None:
            yield Markup()
            return
        for now in incoming.task.follow():
            if now.unwanted or now.finished:
                break
            if time.monotonic() - shown > EVERY:
                shown = time.monotonic()
                yield parts.importing(incoming.label, now.progress, self.words)
        if incoming.task.error and not incoming.task.unwanted:
            self.backend.incoming = None  # it is told once
            yield _refusal(incoming.label, self.words.error(incoming.task.error), self.words)
        else:
            yield Markup()

    def view_imported(self) -> list[Any]:
        """Show the class if one was imported."""
        incoming = self.backend.incoming
        if incoming is None or incoming.task.result is None:
            return self._unchanged()
        self.backend.incoming = None
        return self.view()

    def cancel_import(self) -> Markup:
        """End the import; the class that was chosen before stays."""
        self.backend.cancel_import()
        return tag("p", self.words("data.import_stopped"), class_="quiet")

    # --- the check

    def check(self) -> Iterator[list[Any]]:
        """Check the class in the service process, and say how far it is."""
        config, words = draft.load(), self.words
        if not config.data.path:
            yield ["", gr.Column(visible=False), "", gr.skip()]
            return
        task, shown = self.backend.health(config), 0.0
        for now in task.follow():
            if task.unwanted:
                return  # another class was chosen meanwhile, and is checked instead
            if not now.finished and time.monotonic() - shown > EVERY:
                shown = time.monotonic()
                yield [parts.checking(now, words), *[gr.skip()] * 3]
        if task.error or task.result is None:
            error = task.error or StudioError("", code="task.lost")
            try:
                problems = library.read(config.data, config.name).problems
            except StudioError:
                problems = ()
            yield [parts.failed(error, problems, words), gr.Column(visible=False), "", gr.skip()]
            return
        model = library.model_title(self.backend.models(), config.model)
        yield [
            section(words("health.title"))
            + parts.health(task.result, words, fixes=not library.is_large(config.data)),
            gr.Column(visible=True),
            parts.lengths(task.result, model, words),
            gr.Dropdown(choices=self._choices(task.result)),
        ]

    def _report(self, config: RunConfig) -> Mapping[str, Any]:
        """Return what the check of the draft's class has found so far."""
        return self.backend.health(config).result or {}

    def _choices(self, report: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the findings by which rows can be filtered."""
        found = [
            (f"{parts.title_of(problem.code, self.words)} ({count})", problem.code)
            for problem, count in parts.found_problems(report)
        ]
        everything = (self.words("data.all_rows"), ALL)
        return [everything, (parts.title_of(LEFT_OUT, self.words), LEFT_OUT), *found]

    def _places(self, config: RunConfig, code: str) -> list[str]:
        """Return the rows that a finding concerns."""
        if code == LEFT_OUT:
            return _left_out(library.read(config.data, config.name))
        found = self._report(config).get("findings", ())
        return next((list(f["rows"]) for f in found if f["code"] == code), [])

    def mend(self, event: gr.EventData) -> list[Any]:
        """Mend a finding, or show its rows."""
        what, _, code = str(event.id).partition(":")
        config = draft.load()
        try:
            if library.is_large(config.data):
                raise large.not_edited()
            places = self._places(config, code)
            if what == "show" or not places:
                return self.view(only=code if places else ALL)
            tokens = self._report(config).get("tokens") or {}
            self.desk.fix(config, code, places, tokens)
        except (StudioError, KeyError) as error:
            return self._complain(error)
        return self.view(said=self._chip("good", "data.saved"))

    # --- rows

    def rows(self, search: str, only: str) -> list[Any]:
        """Show the rows that hold a text and have a finding."""
        config = draft.load()
        if not config.data.path or library.is_large(config.data):
            return [gr.skip()] * len(self._no_rows())
        result, bench = library.read(config.data, config.name), self.desk.bench(config)
        return self.editor(config, bench, result, search=search or "", only=only or ALL)

    def editor(
        self,
        config: RunConfig,
        bench: Bench,
        result: ReadResult,
        *,
        search: str = "",
        only: str = ALL,
        said: str = "",
    ) -> list[Any]:
        """Return the values of the editor's parts."""
        words, version = self.words, bench.version
        wanted = None if only == ALL else set(self._places(config, only))
        at = [
            i
            for i, (where, row) in enumerate(zip(version.where, version.rows, strict=True))
            if (wanted is None or where in wanted) and _holds(row, where, search)
        ]
        listed = at[:MAX_ROWS_SHOWN]
        number = bench.show([version.where[i] for i in listed])
        table = gr.Dataframe(
            value=[[words.place(version.where[i]), *version.rows[i]] for i in listed],
            headers=[words("data.row"), *version.columns],
            column_widths=_widths(len(version.columns)),
            interactive=bool(version.columns),
        )
        count = words("data.shown", n=len(listed), of=len(at), total=len(version.rows))
        return [
            gr.Column(visible=True),
            number,
            tag("p", count, class_="quiet"),
            table,
            *self._state(config, bench, said),
            search,
            gr.Dropdown(choices=self._choices(self._report(config)), value=only),
        ]

    def _state(self, config: RunConfig, bench: Bench, said: str = "") -> list[Any]:
        """Return what is said beside the buttons, and the buttons, usable or not."""
        changed = bench.changed
        can_undo = changed or self.desk.before(config) is not None
        said = self._chip("warn", "data.changed") if changed else said
        save = gr.Button(interactive=changed, variant="primary" if changed else "secondary")
        return [said, gr.Button(interactive=can_undo), save]

    def _chip(self, tone: str, key: str) -> Markup:
        return tag("span", self.words(key), class_=f"chip {tone}")

    def edited(self, view: int, table: list[list[Any]]) -> list[Any]:
        """Take over the rows as they are in the browser now."""
        config = draft.load()
        try:
            self._take(config, view, table)
        except StudioError as error:
            return [findings(self.words.error(error), self.words), gr.skip(), gr.skip()]
        return self._state(config, self.desk.bench(config))

    def _take(self, config: RunConfig, view: int, table: list[list[Any]]) -> None:
        bench = self.desk.bench(config)
        places = [*bench.version.where, *bench.shown]
        bench.take(view, table, {self.words.place(where): where for where in places})

    def add_row(self, search: str, only: str) -> list[Any]:
        """Add an empty row, and show it."""
        if not library.is_large(draft.load().data):
            self.desk.bench(draft.load()).add()
        return self.rows("", ALL)

    def undo(self) -> list[Any]:
        """Take back the last edit or the last version."""
        try:
            self.desk.undo(draft.load())
        except StudioError as error:
            return self._complain(error)
        return self.view()

    def save(self, view: int, table: list[list[Any]]) -> list[Any]:
        """Keep the rows, as they are in the browser now, as a version."""
        try:
            self._take(draft.load(), view, table)
            self.desk.save(draft.load())
        except StudioError as error:
            return self._complain(error)
        return self.view(said=self._chip("good", "data.saved"))

    # --- versions

    def handle_version(self, event: gr.EventData) -> list[Any]:
        """Use, compare or delete a version."""
        what, _, version_id = str(event.id).partition(":")
        config = draft.load()
        try:
            if what == "use":
                self.desk.choose(config, version_id)
            elif what == "compare":
                return self._compared(config, version_id)
            elif what == "really":
                self.desk.delete(config, version_id, self.backend.runs())
            entries = self.desk.history(draft.load())
        except StudioError as error:
            return self._complain(error)
        if what == "delete":
            return self._only_history(parts.history(entries, version_id, self.words), "")
        return self.view()

    def _compared(self, config: RunConfig, version_id: str) -> list[Any]:
        entry = self.desk.entry(config, version_id)
        found = self.desk.compare(config, version_id)
        words = self.words
        number = entry.kept.number if entry.kept else 0
        title = words("versions.number", n=number) if number else words("versions.original")
        columns = self.desk.bench(config).version.columns
        shown = parts.differences(title, found, columns, words)
        return self._only_history(gr.skip(), shown)

    # --- values that leave parts as they are

    def _unchanged(self) -> list[Any]:
        return [gr.skip()] * (12 + 9 + MORE_PARTS)

    def _complain(self, error: Exception) -> list[Any]:
        """Say what went wrong where the rows are; nothing else changes."""
        values = self._unchanged()
        known = error if isinstance(error, StudioError) else StudioError("", code="error.request")
        said = self.words.error(known) if isinstance(error, StudioError) else []
        shown = findings(said, self.words) or banner("bad", self.words("error.request"))
        values[0] = shown
        return values

    def _only_history(self, history: Any, difference: Any) -> list[Any]:
        values = self._unchanged()
        values[10:12] = [history, difference]
        return values

    def _no_rows(self) -> list[Any]:
        return [gr.Column(visible=False), 0, "", gr.skip(), "", *[gr.skip()] * 4]


def _left_out(result: ReadResult) -> list[str]:
    """Return the places of rows of which nothing is learned."""
    learned = {example.where for example in result.examples}
    return [where for where in result.row_where if where not in learned]


def _holds(row: tuple[str, ...], where: str, search: str) -> bool:
    """Say whether a row holds a text, or is the row of that number."""
    text = search.strip().casefold()
    return not text or where.endswith(f" {text}") or any(text in c.casefold() for c in row)


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


def _summary(label: str, result: ReadResult | Imported, words: Words) -> Markup:
    name = words.get(f"format.{result.format}", result.format.upper())
    columns = [
        " + ".join(result.parts.get(part, (result.mapping[part],)))
        for part in ("question", "answer")
        if part in result.mapping
    ]
    count = result.examples if isinstance(result, Imported) else len(result.examples)
    facts = [words("data.pairs", n=f"{count:,}"), name, result.encoding.upper()]
    facts.append(" → ".join(columns))
    chips = join(tag("span", fact, class_="chip info") for fact in facts if fact)
    return section(label) + tag("div", chips, class_="chips")


def _widths(columns: int) -> list[str | int]:
    """Answers get the room of two questions; many columns share alike."""
    rest = ["31%", "53%"] if columns == 2 else [f"{84 / max(1, columns):.0f}%"] * columns
    return ["13%", *rest]


def mapped(
    before: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str | None]]
) -> dict[str, tuple[str, ...]]:
    """Return the columns of all parts after menus were changed.

    A column that a menu newly names is taken from the part that had it; question or answer without
    a column are guessed.

    Args:
        before: the columns of every part, those without a menu too.
        wanted: what the menus say.
    """
    said = {part: [n for n in names if n] for part, names in wanted.items()}
    new = {n: p for p, names in said.items() for n in names if n not in before.get(p, ())}
    merged = {**before, **said}
    left = {
        part: tuple(dict.fromkeys(n for n in names if new.get(n, part) == part))
        for part, names in merged.items()
    }
    return {part: names for part, names in left.items() if names or part not in PAIR}


def _sheet(result: ReadResult | Imported | None, config: RunConfig) -> str:
    """Return what the menu of sheets shows: one of them, or all."""
    if not isinstance(result, ReadResult) or not result.sheets:
        return config.data.sheet
    return result.sheet or EVERY_SHEET


def _menus(result: ReadResult | Imported, config: RunConfig, words: Words) -> list[Any]:
    columns, tabular = list(result.columns), bool(result.parts)
    sheets = list(result.sheets) if isinstance(result, ReadResult) else []
    listed = [(words("data.all_sheets"), EVERY_SHEET), *((name, name) for name in sheets)]
    guessed = [(words("data.guess"), "")]
    known = dict.fromkeys([*ENCODINGS, *filter(None, [config.data.encoding])])
    encodings = guessed + [(name.upper(), name) for name in known]
    return [
        gr.Dropdown(choices=listed, value=_sheet(result, config) or None, visible=len(sheets) > 1),
        *(
            gr.Dropdown(choices=columns, value=result.mapping.get(part), visible=tabular)
            for part in PAIR
        ),
        gr.Dropdown(choices=encodings, value=config.data.encoding, visible=bool(result.encoding)),
    ]


def _more_menus(
    columns: Sequence[str], found: Mapping[str, Sequence[str]], words: Words
) -> list[Any]:
    """Return the menus of joined columns and of the other parts; conversations have none."""
    joined = [list(found.get(part, ())[1:]) for part in PAIR]
    others = [list(found.get(part, ())) for part in PARTS]
    menus = [
        gr.Dropdown(choices=list(columns), value=value, multiselect=True)
        for value in (*joined, *others)
    ]
    return [gr.Accordion(visible=bool(found)), *menus]


def _no_menus() -> list[Any]:
    return [gr.Dropdown() for _ in MENUS]
