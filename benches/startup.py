"""What a start costs: `python -m benches.startup [--runs 15] [--python FILE]`.

Each gate is a command that does next to nothing but start. The commands take turns, a bare interpreter among them; the
figures are medians of wall time and of CPU time (user and system). A gate that is missed stays in the table. The first
turn, which writes bytecode, does not count; results are written to a tmpfs where there is one. The registry is Debian's
docker-registry on loopback.

`--python` names the interpreter of an environment into which ocifast was installed: beside the tools of a developer the
HTTP library imports more than it does for a user.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.elf import build_elf
from tests.support.images import BuiltImage, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import serve_registry


@dataclass
class Start:
    """One command line.

    Attributes:
        name: in the table.
        command: what is run.
        limit: most seconds, of what the bare interpreter takes; None for no gate.
        wall: seconds of each run.
        cpu: the same of user and system.
    """

    name: str
    command: Sequence[str]
    limit: Callable[[float], float] | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def starts(folder: Path, python: Path, image: BuiltImage, tag: str) -> list[Start]:
    """The table's rows, of an image in a registry."""
    ocifast, bare = str(python.with_name("ocifast")), str(python)
    layout = f"oci:{write_layout(folder / 'layout', image)}:app"
    pinned = f"{tag.rpartition(':')[0]}@{image.digest}"
    program = folder / "hello"
    program.write_bytes(build_elf() + bytes(2 << 20))
    out = str(folder / "out.erofs")
    one = ["--platform", "linux/amd64"]
    return [
        Start("`python -c pass`", [bare, "-c", "pass"]),
        Start("`import ocifast`", [bare, "-c", "import ocifast"], lambda bare: bare + 0.025),
        Start("`ocifast --version`", [ocifast, "--version"]),
        Start("`ocifast --help`", [ocifast, "--help"], lambda _: 0.060),
        Start("`inspect` of a layout", [ocifast, "inspect", *one, layout]),
        Start("`inspect` from loopback", [ocifast, "inspect", *one, "--no-cache", tag], lambda _: 0.150),
        Start(
            "`runnable` of 2 MB",
            [ocifast, "runnable", str(program), "-o", str(folder / "hello.tar"), "-q"],
            lambda bare: 2 * bare + 0.060,
        ),
        Start("a kept output, `--offline`", [ocifast, "compile", *one, "-q", "--offline", tag, out], lambda _: 0.150),
        Start("a kept output, by digest", [ocifast, "compile", *one, "-q", pinned, out], lambda _: 0.150),
        Start("a kept output, by tag (a HEAD)", [ocifast, "compile", *one, "-q", tag, out], lambda _: 0.150),
    ]


def run(start: Start, env: dict[str, str], *, counts: bool) -> None:
    """Runs it once."""
    begun = time.perf_counter()
    process = subprocess.Popen(start.command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(start.command)} ended with {process.returncode}")
    if counts:
        start.wall.append(took)
        start.cpu.append(usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="where ocifast is installed")
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    # The commands write their bytecode even where the caller's environment says no.
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="ocifast-startup-", dir=memory) as made:
        folder = Path(made)
        env["OCIFAST_CACHE_DIR"] = str(folder / "cache")
        with serve_registry(folder / "registry") as registry:
            image = build_image([TarBuilder().file("etc/text", b"text")])
            rows = starts(folder, options.python, image, registry.put(image, "app:1"))
            first = [*rows[-1].command[:-1], str(folder / "first.erofs")]
            subprocess.run(first, env=env, check=True, stdout=subprocess.DEVNULL)
            for turn in range(options.runs + 1):
                for row in rows:
                    run(row, env, counts=turn > 0)
    bare = statistics.median(rows[0].wall)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {options.runs} turns\n")
    print("| start | wall ms | fastest | CPU ms | at most | |\n|---|--:|--:|--:|--:|---|")
    for row in rows:
        wall, limit = statistics.median(row.wall), row.limit(bare) if row.limit else None
        verdict = "" if limit is None else "met" if wall <= limit else "**missed**"
        most = "" if limit is None else f"{limit * 1e3:.0f}"
        cpu = statistics.median(row.cpu) * 1e3
        print(f"| {row.name} | {wall * 1e3:.0f} | {min(row.wall) * 1e3:.0f} | {cpu:.0f} | {most} | {verdict} |")


if __name__ == "__main__":
    main()
