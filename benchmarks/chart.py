"""A small chart in SVG: quality against memory, one point a variant. No library is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.settings import OWN
from benchmarks.table import MB, summarise

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 120, 44, 56  # margins; labels stand right of the points
OURS, OTHERS, INK, GRID = "#b3261e", "#33658a", "#222", "#e4e4e4"
STEPS = (1, 2, 2.5, 5, 10)
LINE = 15  # least distance of two labels, in pixels


@dataclass(frozen=True)
class Point:
    """A variant: medians (x, y), the range of y over the seeds, and whether it is ours."""

    label: str
    x: float
    y: float
    low: float
    high: float
    own: bool


def points_of(document: Mapping[str, Any]) -> list[Point]:
    """Return held-out loss against peak memory in MB, a point a variant that has both."""
    points = []
    for variant, of in summarise(document["runs"]).items():
        if "nll" in of:
            nll = of["nll"]
            x = of["peak_bytes"].median / MB
            points.append(Point(variant, x, nll.median, nll.low, nll.high, variant in OWN))
    return points


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both, from little memory to much."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, p.y)):
        if not kept or point.y < kept[-1].y:
            kept.append(point)
    return kept


def ticks(low: float, high: float, number: int = 6) -> list[float]:
    """Return round values, the first at most ``low``, the last at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / number))
    step = next(s * power for s in STEPS if s * power >= span / number * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def chart(document: Mapping[str, Any]) -> str:
    """Return the picture of a pair, as SVG; with a sentence if no run succeeded."""
    points = points_of(document)
    data = document["data"]
    title = f"{data.get('model', '')} on {data.get('class', '')}: held-out loss against memory"
    body = _drawn(points) if points else [_text(WIDTH / 2, HEIGHT / 2, "No run succeeded.")]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            _text(LEFT, 24, title, anchor="start", extra='font-size="15"'),
            *body,
            "</svg>\n",
        ]
    )


def _drawn(points: Sequence[Point]) -> list[str]:
    """Return grid, frontier, points with the range over the seeds, and labels."""
    across = ticks(min(p.x for p in points), max(p.x for p in points))
    up = ticks(min(p.low for p in points), max(p.high for p in points))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        left = LEFT + (x - across[0]) / (across[-1] - across[0]) * (right - LEFT)
        return left, bottom - (y - up[0]) / (up[-1] - up[0]) * (bottom - TOP)

    parts = []
    for x in across:
        parts.append(_line(at(x, up[0]), at(x, up[-1]), GRID))
        parts.append(_text(at(x, up[0])[0], bottom + 18, f"{x:g}"))
    for y in up:
        parts.append(_line(at(across[0], y), at(across[-1], y), GRID))
        parts.append(_text(LEFT - 8, at(across[0], y)[1] + 4, f"{y:.4g}", anchor="end"))
    corner = at(across[0], up[0])
    parts += [_line(corner, at(across[-1], up[0]), INK), _line(corner, at(across[0], up[-1]), INK)]
    middle = (TOP + bottom) / 2
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, "peak memory, MB"))
    turned = f'transform="rotate(-90 18 {middle:.0f})"'
    parts.append(_text(18, middle, "held-out loss, nats a token (less is better)", extra=turned))
    corners = " ".join("{:.1f},{:.1f}".format(*at(p.x, p.y)) for p in frontier(points))
    parts.append(f'<polyline points="{corners}" fill="none" stroke="#999" stroke-dasharray="4 4"/>')
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: at(p.x, p.y)[1]):
        color = OURS if point.own else OTHERS
        x, y = at(point.x, point.y)
        parts.append(_line(at(point.x, point.low), at(point.x, point.high), color))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')
        row = y + 4
        while any(abs(row - r) < LINE and abs(x - left) < RIGHT for left, r in taken):
            row += 1
        taken.append((x, row))
        parts.append(_text(x + 9, row, point.label, anchor="start", color=color))
    return parts


def _line(a: tuple[float, float], b: tuple[float, float], color: str) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{color}"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", color: str = INK, extra: str = ""
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}" {extra}>{escape(text)}</text>'
