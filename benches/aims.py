"""What the comparison is meant to show, as data, and the check of one run against an earlier one.

A ratio is a contestant's median wall time divided by that of another of its group in the same run: it says more than
seconds on a machine that others use, too. Whoever is compared is named as in `benches.peers`. Aims against tools that
the comparison does not run are not here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from benches.peers import GNU_TAR, GROUPS, INFLATE, UMOCI, WITHOUT_SHA
from benches.results import Medians

TOLERANCE = 0.15


@dataclass(frozen=True)
class Aim:
    """Our median wall time in one group is at most `most` times that of `than`, or at most `most` µs an entry more.

    Attributes:
        group: `WORKLOAD/GROUP`.
        ours: our contestant.
        than: the other one.
        most: the ratio, or with `by_entry` microseconds for each name of the tree beyond the other's time.
        by_entry: see `most`.
    """

    group: str
    ours: str
    than: str
    most: float
    by_entry: bool = False


def compiled(workload: str, form: str, than: str, most: float, *, source: str = "", by_entry: bool = False) -> Aim:
    """An aim of compiling to one format."""
    return Aim(f"{workload}/{source}{form}", f"ocifast compile -f {form}", than, most, by_entry)


AIMS = (
    compiled("corpus", "erofs", INFLATE, 1.3),
    compiled("corpus", "erofs", "mkfs.erofs --oci=f", 1 / 3),
    Aim("corpus/erofs", WITHOUT_SHA, "ocifast compile -f erofs", 1.3),
    compiled("corpus", "dir", INFLATE, 1.4),
    compiled("corpus", "dir", UMOCI, 1 / 4),
    compiled("corpus", "tar", INFLATE, 1.45),
    compiled("corpus", "tar", "crane export", 1 / 3),
    compiled("corpus", "cpio", INFLATE, 1.45),
    compiled("corpus", "ext4", INFLATE, 1.45),
    compiled("corpus", "squashfs", INFLATE, 2.8),
    compiled("corpus", "squashfs", f"{UMOCI} + mksquashfs -comp zstd", 1 / 3),
    Aim("corpus/pull", "ocifast pull", INFLATE, 0.4),
    Aim("corpus/pull", "ocifast pull", "skopeo copy", 1 / 1.3),
    compiled("big", "dir", "ocifast compile -f dir, of four equal layers", 1.1),
    compiled("big", "erofs", "ocifast compile -f erofs, of four equal layers", 1.1),
    compiled("files", "dir", GNU_TAR, 1 / 1.8, source="layout-"),
    compiled("files", "erofs", INFLATE, 3, source="layout-", by_entry=True),
    compiled("files", "ext4", INFLATE, 3, source="layout-", by_entry=True),
)


def verdicts(measured: Medians, entries: Mapping[str, int]) -> str:
    """A table in Markdown of all aims: met, not met, or not measured; none is left out.

    Args:
        measured: the medians.
        entries: names in the tree of each workload.
    """
    lines = ["| image | work | measured against | at most | measured | |", "|---|---|---|--:|--:|---|"]
    for aim in AIMS:
        workload, _, work = aim.group.partition("/")
        group, names = measured.get(aim.group, {}), entries.get(workload, 0)
        shown, verdict, unit = "", "not measured", " µs an entry more" if aim.by_entry else ""
        if aim.ours in group and aim.than in group and (names or not aim.by_entry):
            ours, than = group[aim.ours], group[aim.than]
            value = (ours - than) / names * 1e6 if aim.by_entry else ours / than
            shown, verdict = f"{value:.2f}{unit}", "met" if value <= aim.most else "**not met**"
        # What a contestant's name says of it behind the command.
        circumstance = aim.ours.partition(", ")[2]
        done = ", ".join(filter(None, [GROUPS[work], circumstance]))
        cells = [workload, done, aim.than, f"{aim.most:.2f}{unit}", shown, verdict]
        lines.append(f"| {' | '.join(cells)} |")
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


def losses(measured: Medians, baseline: Medians, absent: Collection[tuple[str, str]] = ()) -> list[str]:
    """One line for each ratio that is more than 15% worse than in the baseline, or that was not measured again.

    Groups that were not run are left out, so that a part can be checked alone, and so are contestants that could not
    run here: `absent` has them by group and name.
    """
    now, lines = ratios(measured), []
    for (group, ours, than), before in ratios(baseline).items():
        if group not in measured or (group, than) in absent:
            continue
        ratio = now.get((group, ours, than))
        if ratio is None:
            lines.append(f"{group}: {ours} against {than} was {before:.2f} and is not measured")
        elif ratio > before * (1 + TOLERANCE):
            lines.append(f"{group}: {ours} takes {ratio:.2f} times as long as {than}, and took {before:.2f} times")
    return lines
