"""The chart of the README shows the results that are kept, and no others."""

from __future__ import annotations

import json

import pytest

from benches.document import README, described
from benches.results import RESULTS, read
from tools.chart import BARS, CHART, draw


def test_the_chart_is_that_of_the_results() -> None:
    assert CHART.read_text() == draw(read(RESULTS))


def test_a_figure_that_changes_changes_the_chart() -> None:
    changed = json.loads(json.dumps(read(RESULTS)))
    _, _, group, name = BARS[0]
    (row,) = [row for row in changed["corpus"]["rows"] if (row["group"], row["name"]) == (group, name)]
    row["seconds"] = [1111.0]
    assert "1111.00 s" in draw(changed)
    assert "1111.00 s" in described(README.read_text(), changed)
    row["seconds"] = []
    with pytest.raises(LookupError, match="not measured"):
        draw(changed)


def test_it_has_colours_for_light_and_dark_pages() -> None:
    light, dark = draw(read(RESULTS)).split("@media (prefers-color-scheme: dark)")
    assert "text { fill: #1f2328; }" in light
    assert "text { fill: #e6edf3; }" in dark
