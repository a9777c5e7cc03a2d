"""Draws `docs/chart.svg` from the tables of `docs/performance.md`: seconds from a registry to a root filesystem.

`make picture` runs it. The figures stand in the document alone; a test draws the chart again and compares.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT, CHART = ROOT / "docs/performance.md", ROOT / "docs/chart.svg"
WIDTH, LEFT, ROW, BAR = 920, 330, 34, 20

BARS = (
    ("erofs", "ocifast", "registry to erofs", "ocifast compile -f erofs"),
    ("directory", "ocifast", "registry to directory", "ocifast compile -f dir"),
    ("directory", "skopeo, umoci", "registry to directory", "skopeo copy, then umoci unpack"),
    ("squashfs", "ocifast", "", "ocifast compile -f squashfs"),
    (
        "squashfs",
        "skopeo, umoci, mksquashfs",
        "",
        "skopeo copy, umoci unpack, mksquashfs",
    ),
)
"""What is shown: the output, by what, and the cells that name its row, the last by how it begins."""

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


def seconds(document: str, work: str, by: str) -> float:
    """The figure of one row, found by its words.

    Raises:
        LookupError: there is no such row, or more than one.
    """
    found = []
    for line in document.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if line.startswith("|") and (cells[:2] == [work, by] or (not work and cells[0].startswith(by))):
            found.append(float(cells[2 if work else 1]))
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows of docs/performance.md are of {work or by}, {by}")
    return found[0]


def draw(document: str) -> str:
    """The chart of a document, as SVG."""
    figures = [seconds(document, work, by) for _, _, work, by in BARS]
    scale = (WIDTH - LEFT - 90) / max(figures)
    (day,) = set(re.findall(r"Versions: ocifast .* on (\d{4}-\d\d-\d\d)", document))
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
    says = f"291 MB in four layers, from a registry on loopback to a tmpfs, two cores; {day}, squashfs 2026-11-27"
    parts += [f'<text class="small" x="12" y="{len(BARS) * ROW + 32}">{says}</text>', "</svg>", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    CHART.write_text(draw(DOCUMENT.read_text()))
