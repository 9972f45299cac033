"""One page to print: what was trained, on what, under which budget, and how well.

A single HTML file without scripts or outside requests; charts are inline SVG. All text that came
from people is escaped. Words are in ``assets/report/LANGUAGE.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.events import Evaluated, StepDone, event_from_json
from core.export.run import FinishedRun
from core.home import ASSETS
from core.plan.types import LinearPlan

LONGEST_QUOTE = 120  # characters of an answer that are printed
QUOTED = 3  # answers quoted on either side
_SHADES = {2: "#d6e6f5", 3: "#a9cdea", 4: "#6fa8d6", 8: "#2f6fae", 16: "#12375f"}
_STYLE = """
@page { size: A4; margin: 10mm }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
body { font: 10pt/1.35 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif;
  color: #1b1f24; background: #fff; max-width: 190mm; margin: 6mm auto; padding: 0 4mm }
h1 { font-size: 17pt; margin: 0 0 2mm }
h2 { font-size: 11.5pt; margin: 3.5mm 0 1mm }
p { margin: 1.5mm 0 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .6mm 2mm .6mm 0; vertical-align: top;
  border-bottom: .2mm solid #d5dae0; overflow-wrap: anywhere }
th { font-weight: 600 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
table.quotes { table-layout: fixed }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 6mm }
.two h2 { margin-top: 1mm }
.small { color: #57606a; font-size: 8.5pt }
section { break-inside: avoid }
svg { width: 100%; height: auto }
svg text { font: 8px system-ui, sans-serif; fill: #57606a }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 9pt } }
"""


def strings(language: str) -> dict[str, str]:
    """Return the report's words in ``en`` or ``zh`` (English for any other language)."""
    path = ASSETS / "report" / f"{language}.json"
    if language not in ("en", "zh"):
        path = ASSETS / "report" / "en.json"
    table: dict[str, str] = json.loads(path.read_text("utf-8"))
    return table


def write_report(path: Path, run: FinishedRun, language: str = "en") -> None:
    """Write the report of a finished run as one HTML file."""
    path.write_text(report(run, strings(language), language), "utf-8", newline="\n")


def report(run: FinishedRun, words: Mapping[str, str], language: str = "en") -> str:
    """Return the report as an HTML document."""
    lang = "zh-CN" if language == "zh" else "en"
    parts = [
        f"<h1>{escape(words['title'])}</h1>",
        f'<div class="two">{_facts(run, words)}{_memory(run, words)}</div>',
        _marks(run, words),
        f'<div class="two">{_curve(run, words)}{_plan(run, words)}</div>',
        _answers(run, words),
        f'<p class="small">{escape(words["note"])}</p>',
    ]
    title = escape(f"{words['title']}: {run.name}")
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of escaped cells; all but the first column are numbers if there is a head."""
    kind = ' class="n"' if head else ""
    top = "".join(f"<th{kind if k else ''}>{escape(h)}</th>" for k, h in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind if k else ''}>{escape(c)}</td>" for k, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{top}</tr>' if head else ''}{body}</table>"


def _facts(run: FinishedRun, words: Mapping[str, str]) -> str:
    minutes = f"{float(run.result['seconds']['total']) / 60:.1f}"
    rows = [
        (words["run"], run.name),
        (words["base"], run.base_info.title),
        (words["data"], words["data_value"].format(train=run.train_examples, quiz=len(run.quiz))),
        (words["steps"], str(run.result["steps"])),
        (words["time"], words["minutes"].format(minutes=minutes)),
    ]
    return f"<section>{_table(rows)}</section>"


def _memory(run: FinishedRun, words: Mapping[str, str]) -> str:
    figures = [
        (words["budget"], float(run.result["budget_bytes"])),
        (words["predicted"], float(run.result["predicted_peak_bytes"])),
        (words["measured"], float(run.result["measured_peak_bytes"])),
    ]
    largest = max(value for _, value in figures) or 1.0
    bars = []
    for k, (name, value) in enumerate(figures):
        y, width = 4 + 18 * k, 150 * value / largest
        text = f"{value / 1e6:.0f} MB" if value else words["no_budget"]
        bars.append(
            f'<text x="0" y="{y + 9}">{escape(name)}</text>'
            f'<rect x="60" y="{y}" width="{width:.1f}" height="12" fill="#2f6fae"/>'
            f'<text x="{64 + width:.1f}" y="{y + 9}">{escape(text)}</text>'
        )
    chart = f'<svg viewBox="0 0 270 58" role="img">{"".join(bars)}</svg>'
    return f"<section><h2>{escape(words['memory'])}</h2>{chart}</section>"


def _marks(run: FinishedRun, words: Mapping[str, str]) -> str:
    title = f"<section><h2>{escape(words['marks'])}</h2>"
    base, tuned = run.marks.get("base", {}), run.marks.get("tuned", {})
    if not (base and tuned):
        return f"{title}<p>{escape(words['no_quiz'])}</p></section>"
    comparison = run.marks.get("comparison", {})
    shown = [
        ("mark_row", "marks", "{:.1f}", "rouge_l", 100.0),
        ("loss_row", "nll", "{:.3f}", "nll", 1.0),
        ("bleu_row", "bleu", "{:.1f}", "", 1.0),
        ("exact_row", "exact_match", "{:.2f}", "", 1.0),
    ]
    rows = []
    for label, key, form, interval_of, factor in shown:
        if base.get(key) is None or tuned.get(key) is None:
            continue
        interval = (comparison.get(interval_of) or {}).get("interval")
        signed = form.replace("{:", "{:+")
        span = "" if not interval else " … ".join(signed.format(factor * x) for x in interval)
        difference = signed.format(tuned[key] - base[key])
        cells = (form.format(base[key]), form.format(tuned[key]), difference, span)
        rows.append((words[label], *cells))
    heads = ("", *(words[k] for k in ("base_short", "tuned_short", "difference", "interval")))
    nll = comparison.get("nll", {})
    fell = nll.get("clear") and nll["difference"] < 0
    verdict = words["clear"] if fell else words["unclear"]
    note = f'<p>{escape(verdict)}</p><p class="small">{escape(words["marks_note"])}</p>'
    return f"{title}{_table(rows, heads)}{note}</section>"


def _curve(run: FinishedRun, words: Mapping[str, str]) -> str:
    train, quiz = losses_of(run.folder / "events.jsonl")
    title = f"<section><h2>{escape(words['curve'])}</h2>"
    points = [*train, *quiz]
    if len(points) < 2:
        return f"{title}</section>"
    last, top = max(x for x, _ in points) or 1, max(y for _, y in points) or 1.0

    def line(some: Sequence[tuple[int, float]], colour: str) -> str:
        where = " ".join(f"{24 + 240 * x / last:.1f},{92 - 84 * y / top:.1f}" for x, y in some)
        return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    chart = (
        '<svg viewBox="0 0 270 118" role="img"><path d="M24 8V92H264" fill="none" '
        'stroke="#8c959f" stroke-width=".7"/>'
        f'<text x="0" y="12">{top:.1f}</text><text x="0" y="94">0</text>'
        f'<text x="250" y="102">{last}</text>'
        + line(train, "#2f6fae")
        + line(quiz, "#c4501b")
        + f'<text x="24" y="115" style="fill:#2f6fae">{escape(words["curve_train"])}</text>'
        f'<text x="130" y="115" style="fill:#c4501b">{escape(words["curve_quiz"])}</text></svg>'
    )
    return f"{title}{chart}</section>"


def losses_of(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return (step, loss) of training and of the quiz from a run's events.

    A resumed run repeats steps; the later figure counts.
    """
    train: dict[int, float] = {}
    quiz: dict[int, float] = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            event = event_from_json(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off when the process was killed
        if isinstance(event, StepDone):
            train[event.step] = event.loss
        elif isinstance(event, Evaluated) and event.which == "tuned":
            quiz[event.step] = event.nll
    return sorted(train.items()), sorted(quiz.items())


def _plan(run: FinishedRun, words: Mapping[str, str]) -> str:
    if run.plan is None:
        return ""
    note = words["plan_note"].format(
        bits=f"{run.plan.average_bits:.1f}", rank=f"{run.plan.average_rank:.1f}"
    )
    return (
        f"<section><h2>{escape(words['plan'])}</h2>{_heat(run.plan.linears)}"
        f'<p class="small">{escape(note)}</p></section>'
    )


def _heat(linears: Sequence[LinearPlan]) -> str:
    rows = list(dict.fromkeys(linear.module for linear in linears))
    columns = max((linear.layer for linear in linears), default=0) + 1
    width = 210 / columns
    cells = "".join(
        f'<rect x="{56 + width * linear.layer:.2f}" y="{12 * rows.index(linear.module)}" '
        f'width="{0.9 * width:.2f}" height="10.5" fill="{_SHADES.get(linear.bits, "#888")}"/>'
        for linear in linears
    )
    names = "".join(
        f'<text x="0" y="{12 * k + 8.5}">{escape(name)}</text>' for k, name in enumerate(rows)
    )
    legend = "".join(
        f'<rect x="{56 + 34 * k}" y="{12 * len(rows) + 6}" width="9" height="9" fill="{shade}"/>'
        f'<text x="{68 + 34 * k}" y="{12 * len(rows) + 14}">{bits}</text>'
        for k, (bits, shade) in enumerate(_SHADES.items())
    )
    height = 12 * len(rows) + 20
    return f'<svg viewBox="0 0 270 {height}" role="img">{cells}{names}{legend}</svg>'


def _answers(run: FinishedRun, words: Mapping[str, str]) -> str:
    comparison = run.marks.get("comparison", {})
    better, worse = comparison.get("better", []), comparison.get("worse", [])
    count = len(better) + len(worse) + int(comparison.get("same", 0))
    if not count:
        return ""
    counts = words["counts"].format(
        all=count, better=len(better), worse=len(worse), same=comparison["same"]
    )
    tables = [
        _quoted(words, words[k], moves) for k, moves in (("better", better), ("worse", worse))
    ]
    return f"<p>{escape(counts)}</p>" + "".join(tables)


def _quoted(words: Mapping[str, str], title: str, moves: Sequence[Mapping[str, Any]]) -> str:
    head = f"<section><h2>{escape(title)}</h2>"
    if not moves:
        return f"{head}<p>{escape(words['none'])}</p></section>"
    titles = [words[k] for k in ("question", "reference", "base_short", "tuned_short")]
    rows = [
        [_short(str(move[k])) for k in ("question", "reference", "base", "tuned")]
        for move in moves[:QUOTED]
    ]
    top = "".join(f"<th>{escape(t)}</th>" for t in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'{head}<table class="small quotes"><tr>{top}</tr>{body}</table></section>'


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"
