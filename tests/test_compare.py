"""The comparison's aims and its check against an earlier run, without measuring anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches.aims import AIMS, INFLATE, losses, medians, read_baseline, verdicts, write_baseline
from benches.measure import Contestant, Sample

OURS = "ocifast compile -f erofs"


def run(ours: float, inflate: float = 1.0) -> dict[str, dict[str, float]]:
    return {"erofs": {INFLATE: inflate, OURS: ours}}


@pytest.mark.parametrize(
    ("ours", "row"),
    [
        (1.3, f"| erofs | {INFLATE} | 1.30 | 1.30 | met |"),
        (1.31, f"| erofs | {INFLATE} | 1.30 | 1.31 | **not met** |"),
    ],
)
def test_each_aim_has_its_row(ours: float, row: str) -> None:
    rows = verdicts(run(ours)).splitlines()[2:]
    assert rows[0] == row
    assert len(rows) == len(AIMS)
    assert all(other.endswith("| not measured |") for other in rows[1:])


@pytest.mark.parametrize(("ours", "inflate"), [(1.6, 1.0), (3.2, 2.0), (1.14 * 1.6, 1.0), (0.5, 1.0)])
def test_a_ratio_within_the_tolerance_is_no_loss(ours: float, inflate: float) -> None:
    assert losses(run(ours, inflate), run(1.6)) == []


def test_a_ratio_that_fell_behind_is_named() -> None:
    assert losses(run(1.16 * 1.6), run(1.6)) == [
        f"erofs: {OURS} takes 1.86 times as long as {INFLATE}, and took 1.60 times"
    ]


def test_what_is_not_measured_again_is_named_unless_its_group_was_not_run() -> None:
    assert losses({"erofs": {OURS: 1.0}}, run(1.6)) == [f"erofs: {OURS} against {INFLATE} was 1.60 and is not measured"]
    assert losses({"tar": {}}, run(1.6)) == []


def test_medians_are_kept_in_a_file(tmp_path: Path) -> None:
    one = Contestant("erofs", OURS, lambda _: [])
    one.samples += [Sample(seconds, 0, 0, 0) for seconds in (3.0, 1.0, 2.0)]
    none = Contestant("erofs", "a tool that is not there", lambda _: [])
    measured = medians([one, none])
    assert measured == {"erofs": {OURS: 2.0}}
    write_baseline(tmp_path / "baseline.json", measured)
    assert read_baseline(tmp_path / "baseline.json") == measured
