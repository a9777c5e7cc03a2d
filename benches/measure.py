"""Runs commands and measures them: wall time, CPU time and peak memory, in alternation, as medians."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Command = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Sample:
    """One run.

    Attributes:
        seconds: wall time of all commands.
        cpu: user and system time of all commands and what they ran, in seconds.
        peak: largest resident set of one process, in bytes. A process counts at least what this one holds when it
            starts it (about 30 MB): the kernel hands that mark on.
        size: bytes of the result; a folder's is not looked at.
    """

    seconds: float
    cpu: float
    peak: int
    size: int


@dataclass
class Contestant:
    """One way to do a piece of work.

    Attributes:
        group: contestants of a group do the same work; the first one is the measure of the others.
        name: how the table calls it.
        commands: given an empty folder, the commands to run one after another.
        result: name of the result within the folder, for its size.
        prepare: called with the folder before each run, not timed.
        samples: what was measured so far.
    """

    group: str
    name: str
    commands: Callable[[Path], Sequence[Command]]
    result: str = ""
    prepare: Callable[[Path], None] | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(sample.seconds for sample in self.samples)


def measure(commands: Sequence[Command], log: Path, env: Mapping[str, str]) -> Sample:
    """Runs the commands; ends the program with what they said when one fails."""
    cpu, peak, started = 0.0, 0, time.perf_counter()
    for command in commands:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **env}
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{log.read_text()[-4000:]}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * 1024)
    return Sample(time.perf_counter() - started, cpu, peak, 0)


def table(contestants: Sequence[Contestant]) -> str:
    """A table in Markdown: for each group its contestants, with the ratio of their medians to the first one's."""
    lines = [
        "| work | by | median s | fastest to slowest s | times the first | CPU s | peak MiB | result MB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    first: dict[str, float] = {}
    for one in contestants:
        base = first.setdefault(one.group, one.seconds)
        seconds = [sample.seconds for sample in one.samples]
        size = one.samples[-1].size
        cells = [
            one.group,
            one.name,
            f"{one.seconds:.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{one.seconds / base:.2f}",
            f"{statistics.median(sample.cpu for sample in one.samples):.2f}",
            f"{max(sample.peak for sample in one.samples) / 2**20:.0f}",
            f"{size / 1e6:.0f}" if size else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
