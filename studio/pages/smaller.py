"""A part of the Share page: make the base model smaller, and see what that cost.

A student is trained like any run: queued here, worked on by the training child, watched under
Train. Its figures come back to this page when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from core import models
from core.config import OWN_RULE, RunConfig, TrainConfig
from core.errors import StudioError
from core.models import ModelInfo
from core.runs.store import Run
from studio import draft
from studio.backend import Backend, free_memory
from studio.library import model_title
from studio.markup import Markup, banner, findings, section, table, tag
from studio.pages.common import QUIET, on_enter, script, show
from studio.text import Words

KINDS = ("quantized", "layers", "model")
BITS, EVERY = (4, 3, 2), (2, 3, 4)
_PROCESS = 500_000_000  # bytes of a training process without a model
_MARKS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("perplexity", lambda v: f"{v:.2f}"),
    ("rouge_l", lambda v: f"{v:.2f}"),
    ("bleu", lambda v: f"{v:.1f}"),
    ("cer", lambda v: f"{v:.2f}"),
    ("tokens_per_second", lambda v: f"{v:.0f}"),
)


def build_part(backend: Backend, words: Words) -> None:
    """Lay the part out and wire it."""
    enter = on_enter("share")
    result = show(js_on_load=script("press", "press"), elem_id="smaller-result")
    with gr.Column(elem_classes="card", elem_id="smaller"):
        show(section(words("smaller.title"), words("smaller.lead_hint")))
        named = [(words(f"smaller.{kind}"), kind) for kind in KINDS]
        kind = gr.Radio(named, value=KINDS[0], label=words("smaller.kind"), interactive=True)
        about = show(_about(KINDS[0], words))
        with gr.Row():
            bits = gr.Dropdown(
                list(BITS), value=BITS[0], label=words("smaller.bits"), interactive=True
            )
            every = gr.Dropdown(
                list(EVERY),
                value=EVERY[0],
                label=words("smaller.every"),
                interactive=True,
                visible=False,
            )
            other = gr.Dropdown([], label=words("smaller.which"), interactive=True, visible=False)
            passes = gr.Slider(
                1, 20, value=4, step=1, label=words("smaller.passes"), interactive=True
            )
        need = show(elem_classes="quiet")
        start = gr.Button(words("smaller.start"), elem_id="smaller-start")
        said = show(elem_id="smaller-said")

    def look(event: gr.EventData) -> tuple[str, Any, str]:
        choices = [(m.title, m.id) for m in _others(backend)]
        first = choices[0][1] if choices else None
        shown = gr.Dropdown(choices=choices, value=first)
        return (
            _result(backend, str(event.run), words),
            shown,
            _need(backend, KINDS[0], EVERY[0], "", words),
        )

    def choose(which: str, keep: int, model: str | None) -> tuple[Any, ...]:
        shown = [gr.Dropdown(visible=which == name) for name in ("quantized", "layers", "model")]
        return _about(which, words), *shown, _need(backend, which, keep, model or "", words)

    def begin(which: str, width: int, keep: int, model: str | None, times: float) -> str:
        try:
            config = student_config(
                draft.load(), which, int(width), int(keep), model or "", times, words
            )
            backend.start(config)
        except StudioError as error:
            return findings(words.error(error), words)
        return banner("good", words("smaller.started", name=config.name))

    def use(event: gr.EventData) -> str:
        return _use(backend, str(event.run), words)

    enter.enter(look, None, [result, other, need], **QUIET)
    gr.on(
        [kind.input, every.input, other.input],
        choose,
        [kind, every, other],
        [about, bits, every, other, need],
        **QUIET,
    )
    started = start.click(begin, [kind, bits, every, other, passes], said, **QUIET)
    started.then(None, js="() => Studio.refresh()")
    result.press(use, None, said, **QUIET).then(None, js="() => Studio.refresh()")


def student_config(
    base: RunConfig, kind: str, bits: int, every: int, model: str, passes: float, words: Words
) -> RunConfig:
    """The settings of a run that makes the draft's model smaller.

    Args:
        base: the draft: model, class and seed are taken from it, a memory limit is not.
        kind: one of ``KINDS``.
        bits: of a quantized student.
        every: of the layers one in so many stays.
        model: id of a smaller model.
        passes: over the class.
        words: the name of the run is in this language.

    Raises:
        StudioError: if there is no smaller model to take.
    """
    if kind == "model":
        models.resolve(model)
    student = model if kind == "model" else kind
    train = replace(base.train, steps=0, epochs=float(passes))
    if kind != "quantized":  # all weights train, with an optimizer of their own
        usual = TrainConfig()
        train = replace(train, **{part: getattr(usual, part) for part in OWN_RULE})
    return replace(
        base,
        method="distill",
        budget_bytes=0,
        name=f"{base.name} · {words('smaller.student')}" if base.name else words("smaller.student"),
        quant=replace(base.quant, bits=bits if kind == "quantized" else 0),
        train=train,
        distill=replace(base.distill, student=student, every=every),
    )


def _about(kind: str, words: Words) -> Markup:
    return tag("p", words(f"smaller.{kind}_about"), class_="quiet")


def _others(backend: Backend) -> list[ModelInfo]:
    """Models that could be the student: usable, and smaller than the draft's."""
    known, chosen = backend.models(), draft.load().model
    most = next((m.parameters for m in known if chosen in (m.id, m.path)), 0)
    return [m for m in known if m.ready and not m.problem and m.parameters < most]


def _need(backend: Backend, kind: str, every: int, model: str, words: Words) -> Markup:
    """Say about how much memory teacher and student take together."""
    if not draft.load().data.path:
        return tag("p", words("smaller.no_data"))
    known, chosen = backend.models(), draft.load().model
    sizes = {name: m.parameters for m in known for name in (m.id, m.path)}
    teacher = sizes.get(chosen, 0)
    # A number of the teacher takes 4 bytes; a trained one 16, with its gradient and two moments.
    student = {
        "quantized": teacher,
        "layers": 16 * teacher * (0.3 + 0.7 / max(1, int(every))),
        "model": 16 * sizes.get(model, 0),
    }[kind]
    if kind == "model" and not model:
        return tag("p", words("smaller.none"))
    total = words.size(_PROCESS + 4 * teacher + student)
    return tag("p", words("smaller.memory", need=total, free=words.size(free_memory())))


def _result(backend: Backend, run_id: str, words: Words) -> Markup:
    """Sizes, speed and marks of a finished student beside its teacher; else nothing."""
    if not run_id:
        return Markup()
    try:
        run = backend.run(run_id)
    except StudioError:
        return Markup()  # the page says so already
    found = run.result or {}
    if run.status != "done" or "sizes" not in found:
        return Markup()
    teacher = model_title(backend.models(), str(run.config.get("model", "")))
    head = ["", f"{words('smaller.teacher')} ({teacher})", words("smaller.student")]
    questions = (found.get("quiz") or {}).get("tuned", {}).get("examples", 0)
    hint = words("smaller.result_hint", n=questions) if questions else words("smaller.result_none")
    listing = table(head, _rows(found, words), words("smaller.result"))
    return tag(
        "section",
        section(words("smaller.result"), hint),
        listing,
        tag("div", _use_button(run, words), class_="actions"),
        class_="card",
    )


def _rows(result: Mapping[str, Any], words: Words) -> list[tuple[str, str, str]]:
    sizes, quiz = result["sizes"], result.get("quiz") or {}
    who = [sizes["teacher"], sizes["student"]]
    millions = [words("smaller.millions", n=f"{s['parameters'] / 1e6:,.0f}") for s in who]
    rows = [
        (words("smaller.size"), words.size(who[0]["bytes"]), words.size(who[1]["bytes"])),
        (words("smaller.parameters"), millions[0], millions[1]),
    ]
    for name, text in _MARKS:
        before, after = ((quiz.get(which) or {}).get(name) for which in ("base", "tuned"))
        if before is not None and after is not None:
            key = "speed" if name == "tokens_per_second" else name
            rows.append((words(f"smaller.{key}"), text(before), text(after)))
    return rows


def _use_button(run: Run, words: Words) -> Markup:
    """The button that makes a student with weights of its own the base model."""
    if not _whole(run.folder).is_dir():
        return Markup()
    return tag("button", words("smaller.use"), class_="btn", type="button", data_press="use")


def _use(backend: Backend, run_id: str, words: Words) -> Markup:
    try:
        info = models.add_folder(_whole(backend.run(run_id).folder))
    except StudioError as error:
        return findings(words.error(error), words)
    draft.change(model=info.id)
    return banner("good", words("smaller.used", title=info.title))


def _whole(folder: Path) -> Path:
    """Where a run keeps a model of which all weights were trained."""
    return folder / "model"
