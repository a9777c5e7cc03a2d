"""Draws `docs/chart.svg` from what was measured: seconds from a registry to a root filesystem, by us and by others.

    python -m tools.chart

`python -m benches.compare --write` does it too. The figures stand in `benches/results.json` alone; a test draws the
chart again and compares. It has the colours for light and dark pages.
"""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, CHART = ROOT / "benches/results.json", ROOT / "docs/chart.svg"
WIDTH, LEFT, ROW, BAR = 920, 330, 34, 20
WORKLOAD = "corpus"

BARS = (
    ("erofs", "ocifast", "erofs", "ocifast compile -f erofs"),
    ("directory", "ocifast", "dir", "ocifast compile -f dir"),
    ("directory", "buildah", "dir", "buildah from + mount"),
    ("directory", "skopeo, umoci", "dir", "skopeo copy + umoci unpack"),
    ("squashfs", "ocifast", "squashfs", "ocifast compile -f squashfs"),
    ("squashfs", "skopeo, umoci, mksquashfs", "squashfs", "skopeo copy + umoci unpack + mksquashfs -comp zstd"),
)
"""What is shown: the output, by what, and group and name of its row in the results."""

STYLE = """
text { fill: #1f2328; }
.other { fill: #8c959f; }
.ours { fill: #0969da; }
.small { font-size: 13px; fill: #57606a; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.other { fill: #6e7681; }
.ours { fill: #58a6ff; }
.small { fill: #9198a1; }
}
"""

Results = Mapping[str, Mapping[str, Any]]


def seconds(results: Results, group: str, name: str) -> float:
    """The median of one row.

    Raises:
        LookupError: there is no such row, or it has no measurement.
    """
    rows = [row for row in results.get(WORKLOAD, {}).get("rows", []) if (row["group"], row["name"]) == (group, name)]
    if len(rows) != 1 or not rows[0].get("seconds"):
        raise LookupError(f"the chart's row {group}, {name} of the image {WORKLOAD} is not measured")
    median: float = statistics.median(rows[0]["seconds"])
    return median


def describe(results: Results) -> str:
    """The chart in words."""
    told = [f"{output} by {by} {seconds(results, group, name):.2f} s" for output, by, group, name in BARS]
    return f"Bars, from a registry to a root filesystem: {'; '.join(told)}."


def draw(results: Results) -> str:
    """The chart of results, as SVG."""
    figures = [seconds(results, group, name) for _, _, group, name in BARS]
    scale = (WIDTH - LEFT - 90) / max(figures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(BARS) * ROW + 50}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="15">',
        "<title>Seconds from a registry to a root filesystem</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, ((output, by, _, _), figure) in enumerate(zip(BARS, figures, strict=True)):
        top = number * ROW + 8
        kind = "ours" if by == "ocifast" else "other"
        parts += [
            f'<text x="{LEFT - 12}" y="{top + 15}" text-anchor="end">{html.escape(f"{output}: {by}")}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{figure * scale:.0f}" height="{BAR}" rx="3"/>',
            f'<text x="{LEFT + figure * scale + 8:.0f}" y="{top + 15}">{figure:.2f} s</text>',
        ]
    part = results[WORKLOAD]
    says = f"Four layers, from a registry on loopback to a tmpfs; {part['machine']}; {part['date']}"
    parts += [f'<text class="small" x="12" y="{len(BARS) * ROW + 32}">{html.escape(says)}</text>', "</svg>", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    CHART.write_text(draw(json.loads(RESULTS.read_text())))
