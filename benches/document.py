"""Tables of results in Markdown, and the documents that show them: docs/performance.md, docs/chart.svg, the README.

A document has a table between a line `<!-- results: WORKLOAD -->` and a line `<!-- end of results -->`; `aims` stands
for the table of aims, and `growth` for what `benches.growth` writes. What is between them is written by
`write_documents` alone, and a test writes it again.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benches.aims import verdicts
from benches.peers import GROUPS
from benches.results import Results, medians
from benches.workloads import WORKLOADS
from tools.chart import describe, draw

ROOT = Path(__file__).parent.parent
DOCUMENT, CHART, README = ROOT / "docs/performance.md", ROOT / "docs/chart.svg", ROOT / "README.md"

MARKED = re.compile(r"(<!-- results: (?!growth)([a-z]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
ALT = re.compile(r"!\[[^]]*\](?=\(docs/chart\.svg\))")


def table(part: Mapping[str, Any]) -> str:
    """The rows of one workload: for each group its contestants, with the ratio of their medians to the first one's.

    Who is not installed or failed has its row, and so has who made another tree.
    """
    lines = [
        "| work | by | median s | fastest to slowest s | times the first | CPU s | peak MiB | result MB | tree |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    first: dict[str, float] = {}
    shown = set[str]()
    for row in part["rows"]:
        group = row["group"]
        cells = ["" if group in shown else GROUPS[group], row["name"]]
        shown.add(group)
        if seconds := row.get("seconds"):
            median = statistics.median(seconds)
            base = first.setdefault(group, median)
            cells += [f"{median:.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}", f"{median / base:.2f}"]
            cells += [
                f"{row['cpu']:.2f}",
                f"{row['peak'] / 2**20:.0f}",
                f"{row['size'] / 1e6:.0f}" if row["size"] else "",
            ]
            cells.append(row.get("tree", ""))
        else:
            problem = row.get("problem", "").replace("|", "\\|")
            cells += [""] * 6 + [f"**{problem}**" if problem.startswith("failed") else problem]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def words_on(part: Mapping[str, Any]) -> str:
    """Date, machine and versions, in a line, and what else is to be known."""
    note = f" {part['note']}." if part.get("note") else ""
    return f"{part['date']}; {part['machine']}; {', '.join(part['versions'])}.{note}"


def section(name: str, results: Results) -> str:
    """What stands between the marks of one workload, or of the aims."""
    if name == "aims":
        return verdicts(medians(results), {workload: part["entries"] for workload, part in results.items()})
    (workload,) = (one for one in WORKLOADS if one.name == name)
    if name not in results:
        return f"{workload.about}\n\nNot measured yet."
    part = results[name]
    return f"{workload.about}\n\n    {part['command']}\n\n{table(part)}\n\n{words_on(part)}"


def filled(document: str, results: Results) -> str:
    """A document with all that is between its marks written anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{section(found[2], results)}\n\n{found[3]}", document)


def described(readme: str, results: Results) -> str:
    """The README with the chart told in words anew, for those who do not see it."""
    return ALT.sub(lambda _: f"![{describe(results)}]", readme)


def write_documents(results: Results) -> None:
    """Writes tables, chart and what the README says of the chart."""
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), results))
    CHART.write_text(draw(results))
    README.write_text(described(README.read_text(), results))
