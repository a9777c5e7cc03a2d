"""What was measured, as a file that is kept: one part for each workload, with command, versions, machine and date.

`benches/results.json` is the one that the documents show and that `make compare-check` compares with.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benches.measure import Contestant
from benches.place import OCIFAST
from tests.support.run import Argument, attempt

RESULTS = Path(__file__).parent / "results.json"

Medians = Mapping[str, Mapping[str, float]]
"""Median wall time in seconds, by `WORKLOAD/GROUP` and by contestant's name."""

Results = dict[str, dict[str, Any]]
"""By workload what `part` makes."""

QUESTIONS: tuple[tuple[Argument, ...], ...] = (
    (OCIFAST, "--version"),
    ("skopeo", "--version"),
    ("umoci", "--version"),
    ("buildah", "--version"),
    ("containerd", "--version"),
    ("crane", "version"),
    ("mkfs.erofs", "-V"),
    ("mksquashfs", "-version"),
    ("tar2sqfs", "--version"),
    ("tar", "--version"),
    ("igzip", "--version"),
    ("docker-registry", "--version"),
)


def versions() -> list[str]:
    """The first line of what each tool says of its version; tools that are not there are left out."""
    lines = []
    for question in QUESTIONS:
        try:
            answer = attempt(*question)
        except AssertionError:
            continue
        said = (answer.stdout + answer.stderr).decode(errors="replace").split("\n")[0].strip()
        lines.append(said if any(letter.isalpha() for letter in said) else f"{question[0]} {said}")
    return lines


def machine() -> str:
    """Cores, processor and kernel."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores, {models[0] if models else platform.machine()}, {memory:.0f} GiB, Linux {kernel}"


def today() -> str:
    """The date, in UTC."""
    return datetime.now(timezone.utc).date().isoformat()


def row(one: Contestant) -> dict[str, Any]:
    """One contestant."""
    found: dict[str, Any] = {"group": one.group, "name": one.name}
    if one.samples:
        found["seconds"] = [round(sample.seconds, 4) for sample in one.samples]
        found["cpu"] = round(statistics.median(sample.cpu for sample in one.samples), 3)
        found["peak"] = max(sample.peak for sample in one.samples)
        found["size"] = one.samples[-1].size
    return found | ({"tree": one.tree} if one.tree else {}) | ({"problem": one.problem} if one.problem else {})


def part(contestants: Sequence[Contestant], command: str, entries: int, note: str = "") -> dict[str, Any]:
    """One workload's results.

    Args:
        contestants: those that ran, and those that could not.
        command: what measured them.
        entries: names in the image's tree; 0 when no tree was read.
        note: a sentence on the circumstances.
    """
    return {
        "command": command,
        "date": today(),
        "machine": machine(),
        "versions": versions(),
        "entries": entries,
        **({"note": note} if note else {}),
        "rows": [row(one) for one in contestants],
    }


def merged(before: Results, workload: str, now: dict[str, Any]) -> Results:
    """Results with one workload's rows instead of those of the same groups; rows of other groups stay."""
    groups = {one["group"] for one in now["rows"]}
    earlier = before.get(workload, {})
    kept = [one for one in earlier.get("rows", []) if one["group"] not in groups]
    # A group whose results are no trees counts no names.
    entries = now["entries"] or earlier.get("entries", 0)
    return {**before, workload: {**now, "entries": entries, "rows": kept + now["rows"]}}


def medians(results: Results) -> dict[str, dict[str, float]]:
    """The medians of what was measured; contestants without a sample are left out."""
    found: dict[str, dict[str, float]] = {}
    for workload, one in results.items():
        for each in one["rows"]:
            if each.get("seconds"):
                names = found.setdefault(f"{workload}/{each['group']}", {})
                names[each["name"]] = statistics.median(each["seconds"])
    return found


def read(path: Path) -> Results:
    """Reads what `write` wrote; nothing was measured where there is no file."""
    found: Results = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(path: Path, results: Results) -> None:
    """Writes results as JSON, a row a line, so that a change of one is a change of one line."""
    parts = []
    for workload, one in sorted(results.items()):
        rows = ",\n".join(f"   {json.dumps(each)}" for each in one["rows"])
        head = "".join(f"  {json.dumps(key)}: {json.dumps(one[key])},\n" for key in sorted(one) if key != "rows")
        parts.append(f' {json.dumps(workload)}: {{\n{head}  "rows": [\n{rows}\n  ]\n }}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
