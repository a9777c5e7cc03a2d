"""How cost grows: small runs, and the plot and table of what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benches import growth
from tools.plot import Line, Panel, plot, ticks


def test_the_document_shows_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    document = growth.DOCUMENT.read_text()
    if growth.RESULTS.exists():
        results = json.loads(growth.RESULTS.read_text())
        assert growth.filled(document, results) == document
        assert growth.draw(results) == growth.PLOT.read_text()
    else:
        assert growth.filled(document, None) == document
        assert not growth.PLOT.exists()


@pytest.mark.slow
def test_a_small_run_has_a_row_for_each_size_and_form(tmp_path: Path) -> None:
    kept = tmp_path / "growth.json"
    words = ["--most", "0.001", "--runs", "1", "--folder", str(tmp_path), "--results", str(kept), "--forms", "erofs"]
    growth.main(words)
    rows = json.loads(kept.read_text())["rows"]
    assert [(row["part"], row["size"]) for row in rows] == [
        *(("bytes", round(size * 0.001)) for size in growth.SIZES["bytes"]),
        *(("entries", round(size * 0.001)) for size in growth.SIZES["entries"]),
    ]
    assert all(row["peak"] > 0 and row["seconds"][0] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == [kept]
    results = json.loads(kept.read_text())
    shown = growth.filled(f"before\n{growth.BEGIN}{growth.END}\nafter", results)
    assert shown.startswith(f"before\n{growth.BEGIN}\n![")
    assert shown.endswith(f"1 runs of each.\n\n{growth.END}\nafter")
    assert growth.draw(results).count('class="line l0"') == 6
    # One part is measured anew, the other stays.
    growth.main([*words, "--parts", "entries", "--forms", "dir"])
    again = json.loads(kept.read_text())["rows"]
    assert [row["form"] for row in again] == ["erofs"] * 4 + ["dir"] * 4
    assert again[:4] == rows[:4]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (10, [0, 2, 4, 6, 8, 10]),
        (9.3, [0, 2, 4, 6, 8, 10]),
        (2, [0, 0.5, 1, 1.5, 2]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (55, [0, 10, 20, 30, 40, 50, 60]),
        (0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
    ],
)
def test_axes_have_round_figures(most: float, expected: list[float]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_lines_stand_where_their_figures_are() -> None:
    drawn = plot("title", [Panel("up & down", "GiB", [Line("erofs", [(0, 0), (10, 100)])])], "note")
    # From the corner of the axes to the opposite one.
    assert 'd="M62.0 220.0L306.0 44.0"' in drawn
    assert "up &amp; down" in drawn
    light, dark = drawn.split("@media (prefers-color-scheme: dark)")
    assert ".l0 { stroke: #0969da; }" in light
    assert ".l0 { stroke: #58a6ff; }" in dark
