"""Runs commands and measures them: wall time, CPU time and peak memory, in alternation, as medians."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Command = Sequence[str | os.PathLike[str]]

SAMPLING_SECONDS = 0.02
WARM = 3 << 30
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


class CommandError(Exception):
    """A command ended with a status other than 0. Its text is the command, the status and what it said last."""

    def __init__(self, command: Command, status: int, said: str) -> None:
        super().__init__(f"{' '.join(map(str, command))}\nended with {status}:\n{said[-4000:]}")
        # The last line is where most tools say what was wrong.
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        self.line = f"status {status}: {lines[-1][:200]}" if lines else f"status {status}"


@dataclass(frozen=True)
class Sample:
    """One run.

    Attributes:
        seconds: wall time of all commands.
        cpu: user and system time of all commands and what they ran, and of daemons that worked for them, in seconds.
        peak: resident memory of all these processes together where it was most, looked at every 20 ms, or of the
            largest process, where that is more; in bytes. A process counts at least what this one holds when it starts
            it (about 30 MB): the kernel hands that mark on.
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
        clean: called with the folder after each run, also after one that failed.
        daemons: given the folder, processes that work for the commands and were there before.
        kind: of the result, one of `benches.trees.KINDS`; empty where there is none to compare.
        family: contestants of a family make the same tree.
        problem: why there is no measurement, or empty; after a failure it begins with `failed`.
        tree: how its result compares with the others', or empty.
    """

    group: str
    name: str
    commands: Callable[[Path], Sequence[Command]]
    result: str = ""
    prepare: Callable[[Path], None] | None = None
    samples: list[Sample] = field(default_factory=list)
    clean: Callable[[Path], None] | None = None
    daemons: Callable[[Path], Collection[int]] | None = None
    kind: str = ""
    family: str = ""
    problem: str = ""
    tree: str = ""

    @property
    def cannot(self) -> bool:
        """It does not run on this machine, which is not its failure."""
        return bool(self.problem) and not self.problem.startswith("failed")

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(sample.seconds for sample in self.samples)


def end_tidily() -> None:
    """From now on a program that is told to end (SIGTERM) ends as by an exception: it removes what it has made."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def take_memory_back(folder: Path, size: int = WARM) -> None:
    """Writes and removes a file, so that so much memory is with this machine when a measurement begins.

    A virtual machine that reports its free pages gives them to its host. The run that touches them next would pay for
    their return: up to two seconds for each GiB.

    Args:
        folder: on the file system on which the measured commands write.
        size: bytes; no more than half of what is available are taken.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * PAGE
    with tempfile.TemporaryFile(dir=folder) as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, min(size, available // 2)))


def measure(commands: Sequence[Command], log: Path, env: Mapping[str, str]) -> Sample:
    """Runs the commands; ends the program with what they said when one fails."""
    try:
        return try_measure(commands, log, env)
    except CommandError as error:
        sys.exit(str(error))


def try_measure(
    commands: Sequence[Command], log: Path, env: Mapping[str, str], daemons: Collection[int] = ()
) -> Sample:
    """Runs the commands.

    Args:
        commands: run one after another.
        log: file for what the last of them says.
        env: added to the environment.
        daemons: processes that work for the commands: their CPU time and memory count as well.

    Raises:
        CommandError: one ended with a status other than 0, or could not be started.
    """
    cpu, largest, before, started = 0.0, 0, cpu_seconds(daemons), time.perf_counter()
    with watched(daemons) as watch:
        for command in commands:
            with log.open("wb") as output:
                try:
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        env={**os.environ, **env},
                        start_new_session=True,
                    )
                except OSError as error:
                    raise CommandError(command, 127, str(error)) from error
                watch.root = process.pid
                try:
                    _, status, usage = os.wait4(process.pid, 0)
                except BaseException:
                    # Whoever is told to end takes along all that it has started, which has a session of its own.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    raise
                watch.root = None
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise CommandError(command, process.returncode, log.read_text(errors="replace"))
            cpu += usage.ru_utime + usage.ru_stime
            largest = max(largest, usage.ru_maxrss * 1024)
        seconds = time.perf_counter() - started
    return Sample(seconds, cpu + cpu_seconds(daemons) - before, max(watch.peak, largest), 0)


@dataclass
class Watch:
    """What one thread sees of processes while they run.

    Attributes:
        root: a process that is looked at with all that it has started; None for none.
        peak: the most resident memory of all of them together, in bytes.
    """

    root: int | None = None
    peak: int = 0


@contextmanager
def watched(daemons: Collection[int]) -> Iterator[Watch]:
    """Looks at processes every 20 ms until the block ends.

    Not a control group's `memory.peak`: that counts the pages of a tmpfs, which are the results.
    """
    watch, ended = Watch(), threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLING_SECONDS):
            roots = [*daemons, *([watch.root] if watch.root else [])]
            watch.peak = max(watch.peak, sum(map(resident, family(roots))))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def family(roots: Collection[int]) -> set[int]:
    """Processes with all that they have started and that still run."""
    found, waiting = set[int](), list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            # A process that ended in the meantime has no children any more.
            with suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (thread / "children").read_text().split())
    return found


def resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 when it has ended (proc(5), statm)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def cpu_seconds(pids: Collection[int]) -> float:
    """CPU time of processes that run, and of their children that have ended, in seconds (proc(5), stat)."""
    ticks = 0
    for pid in pids:
        # The name of the command, in parentheses, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICK


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
