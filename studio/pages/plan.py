"""Step 3: a memory budget, and what the engine makes of it, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.config import DIRECTIONS, MB, OPTIMIZERS, SWITCH, RunConfig
from core.errors import ConfigError
from studio import charts, draft, maps
from studio.api import Downloads
from studio.backend import Backend, free_memory
from studio.markup import (
    Markup,
    banner,
    empty,
    findings,
    join,
    section,
    stacked_bar,
    table,
    tag,
    tile,
    tiles,
)
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.tasks import Task
from studio.text import Words

SMALLEST_MB, STEP_MB = 300, 20
_BYTE_COLUMNS = ("col_part", "col_bytes", "col_share")
BYTES_A_PARAMETER = 16  # beyond full training in 32 bits nothing is gained


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "plan")
    enter = on_enter("plan")
    most = _most_mb(backend, draft.load())
    with gr.Column(elem_classes="card"):
        show(section(words("plan.budget"), words("plan.budget_hint")))
        budget = gr.Slider(
            SMALLEST_MB,
            most,
            value=900,
            step=STEP_MB,
            label=words("plan.slider"),
            interactive=True,
            elem_id="budget",
        )
        scale = show(elem_id="budget-scale")
        with gr.Accordion(words("plan.more"), open=False, elem_id="plan-more"):
            with gr.Row():
                name = gr.Textbox(label=words("plan.name"), max_lines=1, interactive=True)
                epochs = gr.Slider(
                    0.5, 20, step=0.5, label=words("plan.epochs"), interactive=True, value=1
                )
            with gr.Row():
                rank = gr.Slider(1, 64, step=1, label=words("plan.rank"), interactive=True, value=8)
                rate = gr.Number(label=words("plan.rate"), interactive=True, value=1e-3)
                seed = gr.Number(label=words("plan.seed"), interactive=True, precision=0, value=0)
            with gr.Row():
                optimizer = _choice("optimizer", OPTIMIZERS, words)
                direction = _choice("direction", DIRECTIONS, words)
                decay = _choice("decay", SWITCH, words)
    with gr.Row(elem_classes="nav-row"):
        again = gr.Button(words("plan.again"), elem_id="plan-again")
        show(_start_button(words))
    answer = show(js_on_load=script("plan", "apply"), elem_id="plan")
    footer(words, "plan", back="data")

    rule = [optimizer, direction, decay]
    fields = [budget, name, epochs, rank, rate, seed, *rule]

    def settings() -> list[Any]:
        config = draft.load()
        slider = gr.Slider(value=config.budget_bytes / MB, maximum=_most_mb(backend, config))
        own = [config.name, config.train.epochs, config.adapter.rank, config.train.lr]
        train = config.train
        return [slider, *own, train.seed, train.optimizer, train.direction, train.balanced_decay]

    def most_of(config: RunConfig) -> int:
        return _most_mb(backend, config) * MB

    def answers() -> Iterator[tuple[str, str]]:
        config = draft.load()
        if not config.data.path:
            yield (
                _scale(0, most_of(config), words),
                empty(words("plan.no_data"), words("plan.no_data_text")),
            )
            return
        for task in backend.plan(config).follow():
            yield _scale(_minimum(task), most_of(config), words), _answer(task, config, words)

    def keep(*values: Any) -> Iterator[tuple[str, str]]:
        try:
            _keep(*values)
        except ConfigError as error:
            yield "", findings(words.error(error), words)
            return
        yield from answers()

    def apply(event: gr.EventData) -> list[Any]:
        draft.change(**_change(str(event.change)))
        return settings()

    shown = [scale, answer]
    enter.enter(settings, None, fields, **QUIET).then(answers, None, shown, **QUIET)
    changed = gr.on(
        [budget.release, epochs.release, rank.release, name.blur, rate.blur, seed.blur]
        + [choice.input for choice in rule],
        keep,
        fields,
        shown,
        trigger_mode="always_last",
        **QUIET,
    )
    changed.then(None, js="() => Studio.refresh()")
    again.click(answers, None, shown, **QUIET)
    applied = answer.apply(apply, None, fields, **QUIET).then(answers, None, shown, **QUIET)
    applied.then(None, js="() => Studio.refresh()")


def _most_mb(backend: Backend, config: RunConfig) -> int:
    """Return the slider's end: free memory, but no more than the model could ever use."""
    sizes = [m.parameters for m in backend.models() if config.model in (m.id, m.path)]
    useful = max(2000, BYTES_A_PARAMETER * max(sizes, default=0) // MB)
    return max(2000, min(useful, free_memory() // MB) // 100 * 100)


def _choice(name: str, values: tuple[str, ...], words: Words) -> gr.Dropdown:
    """A setting with few values, each in words."""
    shown = [(words(f"plan.{name}s.{value}"), value) for value in values]
    label = words(f"plan.{name}")
    return gr.Dropdown(
        shown, value=values[0], label=label, interactive=True, elem_id=f"plan-{name}"
    )


def _keep(
    budget: float,
    name: str,
    epochs: float,
    rank: float,
    rate: float,
    seed: float,
    optimizer: str,
    direction: str,
    decay: str,
) -> None:
    draft.change(
        budget_bytes=int(budget * MB),
        name=name.strip()[:120],
        train__epochs=float(epochs),
        train__lr=float(rate or 0),
        train__seed=int(seed or 0),
        train__optimizer=optimizer,
        train__direction=direction,
        train__balanced_decay=decay,
        adapter__rank=int(rank),
    )


def _change(text: str) -> dict[str, Any]:
    """Return the draft's fields for a button's ``field=value``; the draft checks them."""
    field, _, value = text.partition("=")
    number: Any = json.loads(value) if value else 0
    return {field.replace(".", "__"): number}


def _start_button(words: Words) -> Markup:
    return tag(
        "button",
        words("plan.forward"),
        class_="btn primary",
        type="button",
        data_start="",
    )


def _minimum(task: Task) -> int:
    if task.error is not None:
        return int(getattr(task.error, "minimum_budget_bytes", None) or 0)
    return int((task.result or {}).get("minimum_budget_bytes", 0))


def _scale(minimum: int, most: int, words: Words) -> Markup:
    """Return the marks under the slider: smallest budget, free memory (all in bytes)."""
    free = free_memory()
    if free > most:
        marks = [(most, words("plan.plenty", size=words.size(most), free=words.size(free)))]
    else:
        marks = [(free, words("plan.free", size=words.size(free)))]
    if minimum:
        marks.insert(0, (minimum, words("plan.minimum", size=words.size(minimum))))
    return tag("div", *(_mark(size, text, most) for size, text in marks), class_="scale")


def _mark(size: int, text: str, most: int) -> Markup:
    low = SMALLEST_MB * MB
    share = min(1.0, max(0.0, (size - low) / (most - low)))
    side = "start" if share < 0.12 else "end" if share > 0.88 else ""
    place = f"left:{100 * share:.2f}%"
    line = tag("i", style=place, aria_hidden="true")
    return line + tag("span", text, class_=side, style=place)


def _answer(task: Task, config: RunConfig, words: Words) -> Markup:
    if task.error is not None:
        if minimum := _minimum(task):
            return _too_small(minimum, config, words)
        return findings(words.error(task.error), words)
    if task.result is None:
        return _progress(task.progress, words)
    if not task.result["feasible"]:
        return _too_small(task.result["minimum_budget_bytes"], config, words, task.result)
    figures = _figures(task.result, words) + _maps(task.result, words)
    return _quiz_by_concept(config, words) + figures + _bytes(task.result, words)


def _quiz_by_concept(config: RunConfig, words: Words) -> Markup:
    """Say that the next run keeps whole concepts for its quiz, where that is switched on."""
    told = maps.quiz_of(config)
    if told is None:
        return Markup()
    key = "plan.quiz_stale" if told["stale"] else "plan.quiz_by_concept"
    link = tag("a", words("steps.concepts.name"), class_="btn small", href="#/concepts")
    said = words(key, quiz=told["quiz"], n=len(told["held"]))
    return banner("warn" if told["stale"] else "info", said, actions=link)


def _progress(progress: dict[str, Any], words: Words) -> Markup:
    phase = words.get(f"phase.{progress.get('phase', '')}", words("plan.working"))
    share = float(progress.get("share") or 0.0)
    bar = tag("div", tag("i", style=f"width:{100 * share:.0f}%"), class_="bar")
    text = tag("div", tag("strong", words("plan.working")), tag("p", phase), bar)
    return tag("div", text, class_="banner info wide", role="status")


def _too_small(
    minimum: int, config: RunConfig, words: Words, plan: dict[str, Any] | None = None
) -> Markup:
    """Say the smallest budget that works and the smallest change that fits, each one click away."""
    rounded = -(-minimum // (STEP_MB * MB)) * STEP_MB * MB
    size = words.size(rounded)
    actions = _apply(f"budget_bytes={rounded}", words("plan.apply_budget", size=size))
    text = words("plan.too_small_text", size=words.size(minimum))
    shorter = (plan or {}).get("suggestion_values", {}).get("max_length")
    if shorter:
        label = words("plan.apply_max_length", value=shorter)
        actions += _apply(f"train.max_length={shorter}", label)
    return banner(
        "bad", words("plan.too_small", size=words.size(config.budget_bytes)), text, actions=actions
    )


def _apply(change: str, label: str) -> Markup:
    return tag("button", label, class_="btn small", type="button", data_apply=change)


def _figures(plan: dict[str, Any], words: Words) -> Markup:
    peak, budget = plan["predicted_peak_bytes"], plan["budget_bytes"]
    spare = words("plan.spare", size=words.size(budget - peak)) if budget else ""
    packing = words("plan.packed" if plan["packing"] else "plan.one_by_one")
    n = plan["recomputed"]
    recomputing = words("plan.recomputed", n=n) if n else words("plan.kept")
    blocks = words("plan.fused" if plan["fused"] else "plan.generic")
    return tiles(
        tile(words("plan.peak"), words.size(peak), spare, tone="good"),
        tile(words("plan.bits"), f"{plan['average_bits']:.2f}", words("plan.bits_note")),
        tile(words("plan.ranks"), f"{plan['average_rank']:.1f}", words("plan.ranks_note")),
        tile(
            words("plan.batch"),
            words("plan.tokens", n=plan["micro_batch"]),
            words("plan.times", n=plan["accumulation"]),
        ),
        tile(words("plan.ways"), packing, f"{recomputing}; {blocks}"),
    )


def _maps(plan: dict[str, Any], words: Words) -> Markup:
    grid = charts.plan_grid(plan, words)
    panels = join(_map_panel(kind, words) for kind in ("bits", "ranks"))
    return tag("div", panels, class_="maps", data_grid=json.dumps(grid)) + _layer_list(plan, words)


def _map_panel(kind: str, words: Words) -> Markup:
    title = tag("h2", words(f"map.{kind}"))
    legend = tag("div", class_=f"legend {kind}", aria_hidden="true")
    label = words(f"map.{kind}_label")
    plot = tag("div", class_=f"plot heat {kind}", role="img", aria_label=label)
    return tag("section", tag("div", title, legend, class_="panel-head"), plot, class_="card")


def _layer_list(plan: dict[str, Any], words: Words) -> Markup:
    """Return the same as text: for keyboards, screen readers and the curious."""
    head = [words(f"plan.col_{c}") for c in ("layer", "bits", "rank", "bytes", "why")]
    rows = [
        (x["name"], str(x["bits"]), str(x["rank"]), words.size(x["bytes"]), charts.why(x, words))
        for x in plan["linears"]
    ]
    summary = tag("summary", words("plan.layers", n=len(rows)))
    listing = table(head, rows, words("plan.layers", n=len(rows)))
    inner = tag("div", listing, class_="layer-list", tabindex="0")
    return tag("details", summary, inner, class_="more")


def _bytes(plan: dict[str, Any], words: Words) -> Markup:
    """Return where the bytes go, as one bar and as a table."""
    parts = charts.parts_of(plan)
    total = sum(size for _, size in parts) or 1
    segments = [
        (kind if kind in charts.PARTS else "other", _part_name(kind, words), size / total)
        for kind, size in parts
    ]
    bar = stacked_bar(segments, words("plan.bytes"))
    rows = join(_part_row(kind, size, total, words) for kind, size in parts)
    top = tag("tr", *(tag("th", words(f"plan.{c}"), scope="col") for c in _BYTE_COLUMNS))
    listing = tag("table", tag("thead", top), tag("tbody", rows), class_="figures numbers")
    return tag(
        "section",
        section(words("plan.bytes"), words("plan.bytes_hint")),
        bar,
        listing,
        class_="card bytes",
    )


def _part_name(kind: str, words: Words) -> str:
    return words.get(f"part.{kind}", kind)


def _part_row(kind: str, size: int, total: int, words: Words) -> Markup:
    known = kind if kind in charts.PARTS else "other"
    key = tag("i", class_=f"key {known}", aria_hidden="true")
    name = tag("th", key + _part_name(kind, words), scope="row")
    share = f"{100 * size / total:.0f} %"
    return tag("tr", name, tag("td", words.size(size)), tag("td", share))
