"""What the comparison is meant to show, as data, and the check of one run against an earlier one.

A ratio is a contestant's median wall time divided by that of another of its group in the same run: it says more than
seconds on a machine that others use, too. Whoever is compared is named as in the comparison's table. Aims against tools
that the comparison does not run are not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benches.measure import Contestant

INFLATE = "igzip -dc of all layers to /dev/null"
UMOCI = "skopeo copy + umoci unpack"
TOLERANCE = 0.15

Medians = Mapping[str, Mapping[str, float]]
"""Median wall time in seconds, by group and by contestant's name."""


@dataclass(frozen=True)
class Aim:
    """Our median wall time in one group is at most `most` times that of `than`."""

    group: str
    ours: str
    than: str
    most: float


def compiled(form: str, than: str, most: float) -> Aim:
    """An aim of compiling to one format."""
    return Aim(form, f"ocifast compile -f {form}", than, most)


AIMS = (
    compiled("erofs", INFLATE, 1.3),
    compiled("erofs", "mkfs.erofs --oci=f", 1 / 3),
    compiled("dir", INFLATE, 1.4),
    compiled("dir", UMOCI, 1 / 4),
    compiled("tar", INFLATE, 1.45),
    compiled("cpio", INFLATE, 1.45),
    compiled("ext4", INFLATE, 1.45),
    compiled("squashfs", INFLATE, 2.8),
    Aim("pull", "ocifast pull", "skopeo copy", 1 / 1.3),
)


def medians(contestants: Sequence[Contestant]) -> dict[str, dict[str, float]]:
    """The medians of what was measured; contestants without a sample are left out."""
    found: dict[str, dict[str, float]] = {}
    for one in contestants:
        if one.samples:
            found.setdefault(one.group, {})[one.name] = one.seconds
    return found


def verdicts(measured: Medians) -> str:
    """A table in Markdown of all aims: met, not met, or not measured; none is left out."""
    lines = ["| work | measured against | at most | measured | |", "|---|---|--:|--:|---|"]
    for aim in AIMS:
        group = measured.get(aim.group, {})
        if aim.ours in group and aim.than in group:
            ratio = group[aim.ours] / group[aim.than]
            shown, verdict = f"{ratio:.2f}", "met" if ratio <= aim.most else "**not met**"
        else:
            shown, verdict = "", "not measured"
        lines.append(f"| {aim.group} | {aim.than} | {aim.most:.2f} | {shown} | {verdict} |")
    return "\n".join(lines)


def ratios(measured: Medians) -> dict[tuple[str, str, str], float]:
    """Each of our medians divided by each other contestant's of its group."""
    return {
        (group, ours, than): seconds / other
        for group, names in measured.items()
        for ours, seconds in names.items()
        if ours.startswith("ocifast ")
        for than, other in names.items()
        if not than.startswith("ocifast ")
    }


def losses(measured: Medians, baseline: Medians) -> list[str]:
    """One line for each ratio that is more than 15% worse than in the baseline, or that was not measured again.

    Groups that were not run are left out, so that a part can be checked alone.
    """
    now, lines = ratios(measured), []
    for (group, ours, than), before in ratios(baseline).items():
        if group not in measured:
            continue
        ratio = now.get((group, ours, than))
        if ratio is None:
            lines.append(f"{group}: {ours} against {than} was {before:.2f} and is not measured")
        elif ratio > before * (1 + TOLERANCE):
            lines.append(f"{group}: {ours} takes {ratio:.2f} times as long as {than}, and took {before:.2f} times")
    return lines


def write_baseline(path: Path, measured: Medians) -> None:
    """Writes medians as JSON."""
    path.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n")


def read_baseline(path: Path) -> dict[str, dict[str, float]]:
    """Reads what `write_baseline` wrote."""
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found
