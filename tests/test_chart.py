"""The chart of the README shows the figures of docs/performance.md, and no others."""

from __future__ import annotations

import pytest

from tools.chart import BARS, CHART, DOCUMENT, draw, seconds


def test_the_chart_is_that_of_the_document() -> None:
    assert CHART.read_text() == draw(DOCUMENT.read_text())


def test_a_figure_that_changes_changes_the_chart() -> None:
    document = DOCUMENT.read_text()
    _, _, work, by = BARS[0]
    row = next(line for line in document.splitlines() if line.startswith(f"| {work} | `{by}`"))
    changed = document.replace(row, row.replace(f"{seconds(document, work, by):.2f}", "1.11", 1))
    assert "1.11 s" in draw(changed)
    with pytest.raises(LookupError, match="0 rows"):
        draw(document.replace(row, ""))
