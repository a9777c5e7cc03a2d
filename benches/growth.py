"""How cost grows with bytes and with entries: time and memory of images of 1 to 10 GiB and of 0.1 to 2 million files.

    python -m benches.growth [--parts bytes,entries] [--forms erofs,dir] [--runs 3] [--folder /dev/shm] [--disk DIR]
        [--most 1] [--results benches/growth.json] [--note TEXT] [--write]

Layouts are made in `--disk` (by default in `--folder`) and outputs in `--folder`, each removed before the next is made:
10 GiB as a directory take 15 GiB of memory with their layout, less when that is on a disk. Large files are made of
64 pieces of 1 MiB in changing order, deflated once each, so that an image of 10 GiB is made in a minute; to who
inflates them they are as new. `--most 0.01` makes all of it a hundredth, for a quick look. `--write` draws
docs/growth.svg and fills docs/performance.md of what is kept, also alone with `--runs 0`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benches.measure import WARM, Command, Sample, end_tidily, measure, take_memory_back
from benches.place import OCIFAST
from benches.results import machine, today
from benches.workloads.blobs import PIECE, Deflated, Gzip
from benches.workloads.content import Content
from benches.workloads.layouts import EMPTY_BLOCKS, Layout, Member, directory, file
from tools.plot import Line, Panel, plot

ROOT = Path(__file__).parent.parent
RESULTS, PLOT, DOCUMENT = ROOT / "benches/growth.json", ROOT / "docs/growth.svg", ROOT / "docs/performance.md"
GIB, MILLION = 1 << 30, 1_000_000
SIZES = {"bytes": (GIB, 2 * GIB, 4 * GIB, 10 * GIB), "entries": (MILLION // 10, MILLION // 2, MILLION, 2 * MILLION)}
UNITS = {"bytes": (GIB, "GiB"), "entries": (MILLION, "million entries")}
FILE_PIECES, POOL_PIECES = 16, 64
BEGIN, END = "<!-- results: growth -->\n", "<!-- end of results -->"

Results = dict[str, Any]


def of_bytes(layout: Layout, size: int) -> None:
    """An image of files of 16 MiB, so many bytes together, in one layer."""
    content = Content(5, min(16 << 20, max(size, 1 << 18)))
    pieces = [content.take(PIECE) for _ in range(min(POOL_PIECES, max(1, size // PIECE)))]

    def archive() -> Iterator[bytes]:
        left = max(1, size // PIECE)
        number = 0
        while left:
            count = min(left, FILE_PIECES)
            info = tarfile.TarInfo(f"file-{number}")
            info.size = count * PIECE
            yield info.tobuf(tarfile.USTAR_FORMAT)
            yield from (content.random.choice(pieces) for _ in range(count))
            left, number = left - count, number + 1
        yield EMPTY_BLOCKS

    layout.tag("app", [layout.layer(archive(), Deflated)])


def of_entries(layout: Layout, count: int) -> None:
    """An image of so many files of up to 200 bytes, 1,000 in a folder, in one layer."""
    content = Content(6, 1 << 20)

    def members() -> Iterator[Member]:
        for number in range(count):
            if number % 1000 == 0:
                yield directory(f"{number // 1000:04}")
            yield file(f"{number // 1000:04}/{number % 1000:03}", content.take(content.random.randrange(200)))

    layout.tag("app", [layout.archive(members(), partial(Gzip, level=1))])


def make(part: str, size: int, folder: Path) -> None:
    """Writes the layout of one image."""
    layout = Layout(folder)
    {"bytes": of_bytes, "entries": of_entries}[part](layout, size)
    layout.close()


def measure_one(part: str, size: int, asked: argparse.Namespace) -> list[Results]:
    """Makes one image and compiles it to each form; returns a row for each, inflating alone among them."""
    rows = []
    with (
        tempfile.TemporaryDirectory(dir=asked.disk or asked.folder, prefix="ocifast-growth-") as made,
        tempfile.TemporaryDirectory(dir=asked.folder, prefix="ocifast-growth-") as out,
    ):
        # In a process of its own: what this one holds would count as memory of what it runs.
        maker = get_context("spawn").Process(target=make, args=(part, size, Path(made) / "layout"))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(f"the image of {size} {part} could not be made")
        source = f"oci:{made}/layout:app"
        result, log = Path(out) / "result", Path(out) / "log"
        samples: dict[str, list[Sample]] = {form: [] for form in asked.forms}
        for _ in range(asked.runs):
            for form, taken in samples.items():
                words: Command = [OCIFAST, "compile", "-q", "--no-cache", "-f", form, source, result]
                take_memory_back(Path(out), max(WARM, size * 3 // 2 if part == "bytes" else 0))
                taken.append(measure([words], log, {"TMPDIR": out}))
                shutil.rmtree(result) if result.is_dir() else result.unlink()
        for form, taken in samples.items():
            rows.append(
                {
                    "part": part,
                    "size": size,
                    "form": form,
                    "seconds": [round(sample.seconds, 3) for sample in taken],
                    "cpu": round(statistics.median(sample.cpu for sample in taken), 3),
                    "peak": max(sample.peak for sample in taken),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def table(results: Results) -> str:
    """A table in Markdown of all rows."""
    lines = [
        "| image | form | median s | s for each GiB, µs for each entry | CPU s | peak MiB |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        unit, name = UNITS[row["part"]]
        median = statistics.median(row["seconds"])
        each = median / row["size"] * (GIB if row["part"] == "bytes" else MILLION)
        shown = f"{row['size'] / unit:g} {name}"
        cells = [shown, row["form"], f"{median:.2f}", f"{each:.2f}", f"{row['cpu']:.2f}", f"{row['peak'] / 2**20:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Results) -> str:
    """Panels as SVG: wall time, CPU time and memory, by bytes and by entries."""
    panels = []
    for part, (unit, name) in UNITS.items():
        for what, title in (("seconds", "seconds"), ("cpu", "CPU seconds"), ("peak", "peak memory, MiB")):
            lines = []
            for form in dict.fromkeys(row["form"] for row in results["rows"]):
                rows = [row for row in results["rows"] if (row["part"], row["form"]) == (part, form)]
                points = [(row["size"] / unit, _figure(row, what)) for row in rows]
                lines += [Line(form, points)] if points else []
            panels.append(Panel(title, name, lines))
    return plot("What images cost as they grow", panels, f"{results['machine']}; {results['date']}")


def _figure(row: Mapping[str, Any], what: str) -> float:
    figure: float = statistics.median(row["seconds"]) if what == "seconds" else row[what]
    return figure / 2**20 if what == "peak" else figure


def filled(document: str, results: Results | None) -> str:
    """The document with what is between its marks written anew; None when nothing was measured."""
    before, _, rest = document.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"the document has no {BEGIN.strip()}"
    if not results:
        return f"{before}{BEGIN}\nNot measured yet.\n\n{END}{after}"
    note = f" {results['note']}." if results.get("note") else ""
    picture = "![Time and peak memory as images grow, in bytes and in entries: lines from 0.](growth.svg)"
    words = f"{results['date']}; {results['machine']}; {results['runs']} runs of each.{note}"
    return f"{before}{BEGIN}\n{picture}\n\n{table(results)}\n\n{words}\n\n{END}{after}"


def main(words: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benches.growth", description="How cost grows.")
    parser.add_argument("--parts", default="bytes,entries", help="bytes, entries or both")
    parser.add_argument("--forms", default="erofs,dir", type=lambda text: text.split(","), help="formats to compile to")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where outputs are written")
    parser.add_argument("--disk", type=Path, help="where layouts are written (default: --folder)")
    parser.add_argument("--most", type=float, default=1.0, help="factor on all sizes (default 1)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help=f"where figures are kept (default {RESULTS.name})"
    )
    parser.add_argument("--note", default="", help="a sentence on the circumstances, kept and shown with the figures")
    parser.add_argument("--write", action="store_true", help="write plot and table into the documents")
    asked = parser.parse_args(words)
    parts = asked.parts.split(",")
    if not set(parts) <= set(SIZES):
        parser.error(f"--parts are of {','.join(SIZES)}")
    results: Results = json.loads(asked.results.read_text()) if asked.results.exists() else {"rows": []}
    if asked.runs:
        kept = [row for row in results["rows"] if row["part"] not in parts]
        new = [
            row for part in parts for size in SIZES[part] for row in measure_one(part, round(size * asked.most), asked)
        ]
        rows = sorted(kept + new, key=lambda row: list(SIZES).index(row["part"]))
        results = {"date": today(), "machine": machine(), "runs": asked.runs, "note": asked.note, "rows": rows}
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        head = "".join(f' "{key}": {json.dumps(results[key])},\n' for key in results if key != "rows")
        asked.results.write_text(f'{{\n{head} "rows": [\n{lines}\n ]\n}}\n')
    print(table(results))
    if asked.write:
        PLOT.write_text(draw(results))
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), results))


if __name__ == "__main__":
    end_tidily()
    main()
