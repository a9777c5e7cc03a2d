"""What a start costs: `python -m benches.startup [--runs 15]`.

Each gate is a command that does next to nothing but start. The commands take turns, a bare interpreter among them; the
figures are medians of wall time and of CPU time (user and system). A gate that is missed stays in the table. The first
turn, which writes bytecode, does not count; results are written to a tmpfs where there is one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.elf import build_elf
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder

OCIFAST = str(Path(sys.executable).with_name("ocifast"))
SERVER = """
import sys
from pathlib import Path
from tests.support.faulty import serve_faulty
from tests.support.images import build_image
from tests.support.layers import TarBuilder
with serve_faulty() as server:
    image = build_image([TarBuilder().file("etc/text", b"text")])
    print(server.put(image, "app:1"), f"{server.host}/app@{image.digest}", flush=True)
    sys.stdin.read()
"""


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


def starts(folder: Path, tag: str, pinned: str) -> list[Start]:
    """The table's rows."""
    layout = f"oci:{write_layout(folder / 'layout', build_image([TarBuilder().file('etc/text', b'text')]))}:app"
    program = folder / "hello"
    program.write_bytes(build_elf() + bytes(2 << 20))
    out = str(folder / "out.erofs")
    one = ["--platform", "linux/amd64"]
    return [
        Start("`python -c pass`", [sys.executable, "-c", "pass"]),
        Start("`import ocifast`", [sys.executable, "-c", "import ocifast"], lambda bare: bare + 0.025),
        Start("`ocifast --version`", [OCIFAST, "--version"]),
        Start("`ocifast --help`", [OCIFAST, "--help"], lambda _: 0.060),
        Start("`inspect` of a layout", [OCIFAST, "inspect", *one, layout]),
        Start("`inspect` from loopback", [OCIFAST, "inspect", *one, "--no-cache", tag], lambda _: 0.150),
        Start(
            "`runnable` of 2 MB",
            [OCIFAST, "runnable", str(program), "-o", str(folder / "hello.tar"), "-q"],
            lambda bare: 2 * bare + 0.060,
        ),
        Start("a kept output, `--offline`", [OCIFAST, "compile", *one, "-q", "--offline", tag, out], lambda _: 0.150),
        Start("a kept output, by digest", [OCIFAST, "compile", *one, "-q", pinned, out], lambda _: 0.150),
        Start("a kept output, by tag (a HEAD)", [OCIFAST, "compile", *one, "-q", tag, out], lambda _: 0.150),
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
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="ocifast-startup-", dir=memory))
    # The commands write their bytecode even where the caller's environment says no.
    env = {**os.environ, "OCIFAST_CACHE_DIR": str(folder / "cache"), "LC_ALL": "C.UTF-8"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            rows = starts(folder, *server.stdout.readline().decode().split())
            subprocess.run(
                [*rows[-1].command[:-1], str(folder / "first.erofs")], env=env, check=True, stdout=subprocess.DEVNULL
            )
            for turn in range(options.runs + 1):
                for row in rows:
                    run(row, env, counts=turn > 0)
        finally:
            server.terminate()
            shutil.rmtree(folder)
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
