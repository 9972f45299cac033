"""A comparison as one page to print: a single HTML file without scripts or outside requests.

All text that came from people is escaped; the chart is inline SVG. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.compare.entries import Entry, Measure
from core.compare.table import Cell, Comparison, Row, cell_json, problem
from core.compare.words import Wording

# Readable on white and told apart by their dashes too; six rows at most have one each.
_COLOURS = ("#2450d6", "#0b7d70", "#a35b00", "#8a3ffc", "#b3261e", "#52607a")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4")
_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 240, 44, 10
_STYLE = """
@page { size: A4 landscape; margin: 10mm }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
body { font: 10pt/1.4 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif;
  color: #1b1f24; background: #fff; max-width: 277mm; margin: 6mm auto; padding: 0 4mm }
h1 { font-size: 17pt; margin: 0 0 2mm }
h2 { font-size: 11.5pt; margin: 5mm 0 1mm }
p, ul { margin: 1.5mm 0 } ul { padding-left: 5mm }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 1mm 3mm 1mm 0; vertical-align: top;
  border-bottom: .2mm solid #d5dae0; overflow-wrap: anywhere }
th { font-weight: 600 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td.n b { font-weight: 600; white-space: nowrap }
.small, td small { color: #57606a; font-size: 8.5pt } td small { display: block }
td.n small { white-space: nowrap }
.better { color: #0b6b56 } .worse, .over { color: #b3261e }
section { break-inside: avoid }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #57606a }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 9pt } }
"""


def report(found: Comparison, words: Wording, date: str) -> str:
    """Return the page.

    Args:
        found: what is compared.
        words: its language.
        date: when it is written, for people.
    """
    lang = "zh-CN" if words.language == "zh" else "en"
    title = escape(words("title"))
    parts = [
        f"<h1>{title}</h1>",
        _facts(found, words),
        _notes(found.notes, words),
        _table(found, words),
        _chart(found, words),
        _failures(found.rows, words),
        f'<p class="small">{escape(words("how"))}</p>',
        f'<p class="small">{escape(words("made", date=date))}</p>',
    ]
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )  # fmt: skip


def _facts(found: Comparison, words: Wording) -> str:
    entries = [entry for row in found.rows for entry in row.entries]
    models = {Path(str(e.settings.get("model", ""))).name for e in entries}
    data = {Path(str(e.settings.get("data.path", ""))).name for e in entries}
    limits = {words.value("budget_bytes", e.budget_bytes) for e in entries}
    facts = [(words("model"), models), (words("data"), data), (words("budget"), limits)]
    lines = [f"{name}: {', '.join(sorted(values))}" for name, values in facts]
    if found.base_nll is not None:
        lines.append(f"{words('base')}: {words('measures.nll')} {found.base_nll:.3f}")
    return f"<p>{escape(' · '.join(lines))}</p>"


def _notes(notes: Sequence[str], words: Wording) -> str:
    if not notes:
        return ""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>{escape(words('notes_title'))}</h2><ul>{listed}</ul></section>"


def _table(found: Comparison, words: Wording) -> str:
    names = "".join(
        f'<th class="n">{escape(words(f"measures.{m.id}"))}</th>' for m in found.measures
    )
    rows = "".join(
        f"<tr><td>{_name(row, k == found.reference and len(found.rows) > 1, words)}</td>"
        + "".join(_cell(m, row.cells.get(m.id), row, words) for m in found.measures)
        + "</tr>"
        for k, row in enumerate(found.rows)
    )
    return f"<table><tr><th>{escape(words('row'))}</th>{names}</tr>{rows}</table>"


def _name(row: Row, reference: bool, words: Wording) -> str:
    done = row.summary(words)
    small = f"{done} · {words('is_reference')}" if reference else done
    return f"<b>{escape(row.label)}</b><small>{escape(small)}</small>"


def _cell(measure: Measure, cell: Cell | None, row: Row, words: Wording) -> str:
    if cell is None:
        return '<td class="n">–</td>'
    said: dict[str, Any] = cell_json(measure, cell, row, words)
    over = ' class="over"' if said["over_budget"] else ""
    lines = [f"<b{over}>{escape(said['text'])}</b>"]
    lines += [
        f"<small>{escape(said[part])}</small>" for part in ("interval", "count") if said[part]
    ]
    lines += [
        f'<small class="{escape(said["verdict"])}">{escape(said[part])}</small>'
        for part in ("difference_text", "verdict_text")
        if said[part]
    ]
    return f'<td class="n">{"".join(lines)}</td>'


# --- the chart -----------------------------------------------------------------------------------


def _chart(found: Comparison, words: Wording) -> str:
    curves = [
        (k, entry.curve) for k, row in enumerate(found.rows) for entry in row.entries if entry.curve
    ]
    points = [point for _, curve in curves for point in curve]
    if len(points) < 2:
        return ""
    last = max(step for step, _ in points) or 1
    values = [loss for _, loss in points] + ([found.base_nll] if found.base_nll else [])
    low, high = min(0.0, *values), max(values) or 1.0

    def place(step: float, loss: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 10) * step / last
        y = _TOP + (_HEIGHT - _TOP - 30) * (high - loss) / ((high - low) or 1.0)
        return f"{x:.1f},{y:.1f}"

    lines = "".join(_line([place(*p) for p in curve], k) for k, curve in curves)
    if found.base_nll is not None:
        ends = [place(0, found.base_nll), place(last, found.base_nll)]
        lines += f'<polyline points="{" ".join(ends)}" fill="none" stroke="#8c959f"/>'
    foot = _HEIGHT - 30
    axes = (
        f'<path d="M{_LEFT} {_TOP}V{foot}H{_WIDTH - 10}" fill="none" stroke="#8c959f"/>'
        f'<text x="0" y="{_TOP + 8}">{high:.2f}</text><text x="0" y="{foot}">{low:.2f}</text>'
        f'<text x="{_WIDTH - 10}" y="{foot + 14}" text-anchor="end">'
        f"{escape(words('step'))} {last}</text>"
    )
    label = escape(words("curve_label"), quote=True)
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return (
        f"<section><h2>{escape(words('curve'))}</h2>{drawing}{axes}{lines}</svg>"
        f"{_legend(found, words)}</section>"
    )


def _line(points: Iterable[str], k: int) -> str:
    colour, dash = _COLOURS[k % len(_COLOURS)], _DASHES[k % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
        f'stroke-width="1.8"{dashed}/>'
    )


def _legend(found: Comparison, words: Wording) -> str:
    keys = "".join(
        f'<svg viewBox="0 0 26 8" style="width:26px">{_line(("0,4", "26,4"), k)}</svg> '
        f"{escape(row.label)} &nbsp; "
        for k, row in enumerate(found.rows)
    )
    base = ""
    if found.base_nll is not None:
        line = '<polyline points="0,4 26,4" fill="none" stroke="#8c959f"/>'
        base = f'<svg viewBox="0 0 26 8" style="width:26px">{line}</svg> {escape(words("base"))}'
    return f'<p class="small">{keys}{base}</p>'


def _failures(rows: Sequence[Row], words: Wording) -> str:
    failed = [(row.label, e) for row in rows for e in row.entries if e.status == "failed"]
    if not failed:
        return ""
    listed = "".join(f"<li>{_why(label, entry)}</li>" for label, entry in failed)
    return f"<section><h2>{escape(words('failed'))}</h2><ul>{listed}</ul></section>"


def _why(label: str, entry: Entry) -> str:
    return f"{escape(entry.name or label)}: {escape(problem(entry))}"
