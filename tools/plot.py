"""Draws lines over linear axes as SVG, with colours for light and dark pages; `benches.growth` uses it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, COLUMNS = 380, 270, 3
LEFT, RIGHT, TOP, BOTTOM = 62, 74, 44, 50
COLOURS = 3

STYLE = """
text { fill: #1f2328; }
.small { font-size: 12px; fill: #57606a; }
.grid { stroke: #d0d7de; }
.line { fill: none; stroke-width: 2; }
.l0 { stroke: #0969da; } .f0 { fill: #0969da; }
.l1 { stroke: #bc4c00; } .f1 { fill: #bc4c00; }
.l2 { stroke: #1a7f37; } .f2 { fill: #1a7f37; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.small { fill: #9198a1; }
.grid { stroke: #30363d; }
.l0 { stroke: #58a6ff; } .f0 { fill: #58a6ff; }
.l1 { stroke: #f0883e; } .f1 { fill: #f0883e; }
.l2 { stroke: #3fb950; } .f2 { fill: #3fb950; }
}
"""


@dataclass(frozen=True)
class Line:
    """Points joined by a line; both axes begin at 0."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what is upward, what is to the right, and the lines."""

    title: str
    across: str
    lines: Sequence[Line]


def ticks(most: float) -> list[float]:
    """Round values from 0 to the first one that is not below `most`: three to six of them beyond 0."""
    power = 10 ** math.floor(math.log10(most))
    for step in (power / 5, power / 2, power, power * 2):
        if most / step <= 6:
            return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
    raise AssertionError("a number has fewer than seven of twice its power of ten")


def plot(title: str, panels: Sequence[Panel], note: str) -> str:
    """All panels, three in a row, and a line of small text below them."""
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = WIDTH * COLUMNS, HEIGHT * rows + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="14">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">')
        parts += _panel(panel)
        parts.append("</g>")
    parts += [f'<text class="small" x="12" y="{height - 10}">{html.escape(note)}</text>', "</svg>", ""]
    return "\n".join(parts)


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for line in panel.lines for point in line.points]
    across, upward = ticks(max(x for x, _ in points)), ticks(max(y for _, y in points))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / across[-1] * wide, TOP + high - y / upward[-1] * high

    yield f'<text x="{LEFT}" y="24">{html.escape(panel.title)}</text>'
    yield f'<text class="small" x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{panel.across}</text>'
    for value in upward:
        _, y = at(0, value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}h{wide}"/>'
        yield f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    for value in across:
        x, y = at(value, 0)
        yield f'<text class="small" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{value:g}</text>'
    for number, line in enumerate(panel.lines):
        colour = number % COLOURS
        places = [at(x, y) for x, y in line.points]
        drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="line l{colour}" d="M{drawn}"/>'
        yield from (f'<circle class="f{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        x, y = places[-1]
        yield f'<text class="f{colour}" x="{x + 8:.1f}" y="{y + 4:.1f}">{html.escape(line.name)}</text>'
