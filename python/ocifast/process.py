"""Runs other people's tools: the only user of `subprocess`, which is loaded with the first of them.

A writer in a thread feeds a packer through its standard input. A packer succeeds only when the writer has said that it
finished and the tool exits 0, because such tools are known to exit 0 with half of the files; the caller then reads the
output back. When the writer fails, the tool is killed *before* its input closes, so that it never takes a cut stream
for a whole one.

No tool is ever run through a shell, none inherits a terminal, and none outlives us: each has a session of its own that
is killed whole, and, where util-linux' `setpriv` is there, the kernel kills the tool when we die without a chance to.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ocifast.errors import CancelledError, HelperError, OcifastError, PackerError, PackerMissingError
from ocifast.records import dataclass

if TYPE_CHECKING:
    import selectors

__all__ = ["STALL", "STDERR_LIMIT", "Finished", "describe_status", "find_tool", "run_helper", "run_tool"]

STDERR_LIMIT = 64 << 10
"""Bytes of standard error that are kept: the last ones, where tools say why they gave up."""
OUTPUT_LIMIT = 64 << 10
"""Most bytes that a helper may answer with; and the last bytes of a tool's standard output that are kept."""
STALL = 300.0
"""Seconds without any sign of life (processor time, input, output) after which a tool counts as hung."""
_TICK = 0.2
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Looked at after PATH: mke2fs and its kind are for everybody, but are often not in the PATH of a plain user."""


@dataclass(frozen=True)
class Finished:
    """A tool that exited 0.

    Attributes:
        stdout: the last 64 KiB of its standard output.
        stderr: the last 64 KiB of its standard error.
    """

    stdout: bytes
    stderr: bytes


def find_tool(name: str) -> str | None:
    """Absolute path of an executable, from PATH and the system's own folders; None when there is none.

    Relative folders of PATH are passed over: what is run must not depend on the current folder.
    """
    import shutil

    if "/" in name:
        return name if name.startswith("/") and os.access(name, os.X_OK) else None
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder.startswith("/")]
    return shutil.which(name, path=os.pathsep.join((*folders, *_SYSTEM_FOLDERS)))


def describe_status(status: int) -> str:
    """How a return code of `subprocess` is called in messages: "exit status 3" or "killed by SIGSEGV"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def run_tool(
    argv: Sequence[str | os.PathLike[str]],
    *,
    feed: Callable[[int], object] | None = None,
    on_output: Callable[[bytes], None] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    cancelled: Callable[[], bool] | None = None,
    stall: float | None = STALL,
) -> Finished:
    """Runs a tool to its end.

    The tool sees the C locale, UTC and no `SOURCE_DATE_EPOCH` (pass times as options: what a tool makes of the variable
    differs), creates files with mode 0600, and reads an empty input when `feed` is None.

    Args:
        argv: the tool (a name or an absolute path) and its arguments.
        feed: writes all of the tool's standard input to the file descriptor that it is given, in a thread of its own,
            and returns only when everything was written. It need not close the descriptor.
        on_output: gets the tool's standard output in pieces, for progress.
        environment: added to our environment.
        folder: the tool's working directory.
        cancelled: asked several times a second; when it says True the tool is killed.
        stall: seconds without a sign of life before the tool is killed; None waits for ever.

    Returns:
        The ends of its outputs, when it exited 0 and `feed` returned.

    Raises:
        PackerMissingError: the tool is not there.
        PackerError: it failed, was killed, hung, or stopped reading its input early; the message ends with the last
            line of its standard error, `context["stderr"]` has the last 64 KiB.
        CancelledError: `cancelled` said so.
        OcifastError, OSError: whatever made `feed` fail, when the tool was not the cause.
    """
    command = [os.fspath(argument) for argument in argv]
    path = find_tool(command[0])
    if path is None:
        raise PackerMissingError(f"{command[0]} is not installed", command=command[0])
    name = Path(command[0]).name
    run = _Run(name, [*_lifeline(), path, *command[1:]], feed, on_output, _environment(environment), folder)
    with run:
        run.wait(cancelled, stall)
    return run.result()


def run_helper(argv: Sequence[str], message: bytes, timeout: float) -> bytes:
    """Runs a helper program by its name, without a shell, and returns what it answered.

    Args:
        argv: the helper (a name that is looked up in PATH, or an absolute path) and its arguments.
        message: all of its standard input; never shown in a message.
        timeout: seconds until it is killed.

    Returns:
        Its standard output, at most 64 KiB.

    Raises:
        HelperError: not found, another exit status than 0, no end within `timeout`, or more than 64 KiB of output.
    """
    path = find_tool(argv[0])
    if path is None:
        raise HelperError(f"the helper {argv[0]} is not installed or not executable", command=argv[0])
    pieces: list[bytes] = []
    size = 0

    def keep(chunk: bytes) -> None:
        nonlocal size
        size += len(chunk)
        if size > OUTPUT_LIMIT:
            raise HelperError(f"the helper {argv[0]} answered with more than {OUTPUT_LIMIT} bytes", command=argv[0])
        pieces.append(chunk)

    def feed(fd: int) -> None:
        # A helper may answer before it has read all (erase, list): that is its right, unlike a packer's.
        with contextlib.suppress(BrokenPipeError), open(fd, "wb", closefd=False) as pipe:
            pipe.write(message)

    deadline = time.monotonic() + timeout
    run = _Run(argv[0], [path, *argv[1:]], feed, keep, dict(os.environ), None)
    try:
        with run:
            run.wait(lambda: time.monotonic() > deadline, None)
    except CancelledError:
        raise HelperError(f"the helper {argv[0]} did not answer within {timeout:g} s", command=argv[0]) from None
    output = b"".join(pieces)
    if run.status != 0:
        raise HelperError(
            f"the helper {argv[0]} failed: {describe_status(run.status)}",
            output=output,
            command=argv[0],
            status=run.status,
        )
    return output


class _Run:
    """One tool from its start to its end; leaving the `with` block leaves no process, thread or descriptor behind."""

    def __init__(
        self,
        name: str,
        command: list[str],
        feed: Callable[[int], object] | None,
        on_output: Callable[[bytes], None] | None,
        environment: dict[str, str],
        folder: str | os.PathLike[str] | None,
    ) -> None:
        self.name = name
        self.command = command
        self.stdout = _Tail(OUTPUT_LIMIT)
        self.stderr = _Tail(STDERR_LIMIT)
        self.failure: BaseException | None = None
        self.killed_for_feed = False
        self._feed = feed
        self._on_output = on_output
        import subprocess

        try:
            self._process = subprocess.Popen(  # noqa: S603 - a list, never a shell
                command,
                stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=folder,
                start_new_session=True,
                umask=0o077,
                bufsize=0,
            )
        except OSError as error:
            raise PackerError(f"{name} cannot be started: {error.strerror}", command=name) from error
        self._thread = threading.Thread(target=self._write, name=f"feed {name}", daemon=True)

    @property
    def status(self) -> int:
        """The return code; known after `wait`."""
        return self._process.returncode

    def __enter__(self) -> _Run:
        if self._feed is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Also on KeyboardInterrupt. The tool goes first: a blocked writer of ours wakes with EPIPE when it is gone.
        self._kill()
        self._process.wait()
        if self._feed is not None:
            self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _write(self) -> None:
        assert self._feed is not None
        assert self._process.stdin is not None
        try:
            self._feed(self._process.stdin.fileno())
        except BaseException as error:
            self.failure = error
            if not _is_broken_pipe(error):
                self.killed_for_feed = True
                self._kill()
                self._process.wait()
        # Only now does the tool see the end of its input, or it is dead and sees nothing.
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, cancelled: Callable[[], bool] | None, stall: float | None) -> None:
        """Reads both outputs to their ends and waits; kills the tool when cancelled or hung."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        watchdog = _Watchdog(self._process.pid, stall)
        import selectors

        with selectors.DefaultSelector() as selector:
            for pipe in (self._process.stdout, self._process.stderr):
                selector.register(pipe, selectors.EVENT_READ, pipe)
            ended = False
            while selector.get_map():
                ready = selector.select(_TICK)
                for key, _ in ready:
                    self._read(selector, key.data)
                if cancelled is not None and cancelled():
                    raise CancelledError(f"{self.name} was stopped", command=self.name)
                if watchdog.hung(len(ready)):
                    raise PackerError(
                        f"{self.name} hung: no sign of life for {stall:g} s; it was killed",
                        command=self.name,
                        stderr=self.stderr.text(),
                    )
                # A grandchild may hold the pipes open for ever: once the tool is gone, take what is there and leave.
                if ended and not ready:
                    break
                ended = self._process.poll() is not None
        waited = False
        while self._process.poll() is None:
            if cancelled is not None and cancelled():
                raise CancelledError(f"{self.name} was stopped", command=self.name)
            # Both outputs are closed: the end is a matter of microseconds, or of a tool that goes on in the dark.
            select.select([], [], [], _TICK if waited else 0.001)
            waited = True

    def _read(self, selector: selectors.BaseSelector, pipe: IO[bytes]) -> None:
        chunk = os.read(pipe.fileno(), 64 << 10)
        if not chunk:
            selector.unregister(pipe)
        elif pipe is self._process.stderr:
            self.stderr.add(chunk)
        else:
            self.stdout.add(chunk)
            if self._on_output is not None:
                self._on_output(chunk)

    def result(self) -> Finished:
        """What came of it; raises when the tool or its writer failed."""
        if self.failure is not None and self.killed_for_feed:
            raise self.failure
        if self.status != 0:
            detail = self.stderr.last_line() or self.stdout.last_line()
            raise PackerError(
                f"{self.name} failed ({describe_status(self.status)})" + (f": {detail}" if detail else ""),
                command=self.name,
                status=self.status,
                stdout=self.stdout.text(),
                stderr=self.stderr.text(),
            )
        if self.failure is not None:
            raise PackerError(
                f"{self.name} stopped reading before the end of its input, but reported success",
                command=self.name,
                stderr=self.stderr.text(),
            ) from self.failure
        return Finished(self.stdout.bytes(), self.stderr.bytes())


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > self._limit:
            del self._data[: len(self._data) - self._limit]

    def bytes(self) -> bytes:
        return bytes(self._data)

    def text(self) -> str:
        return self._data.decode(errors="replace")

    def last_line(self) -> str:
        lines = [line.strip() for line in self.text().replace("\r", "\n").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:400]


class _Watchdog:
    """Notices that a tool, with all that it has started, neither computes nor reads nor writes: /proc tells."""

    def __init__(self, pid: int, stall: float | None) -> None:
        self._pid = pid
        self._stat = Path(f"/proc/{pid}/stat")
        self._io = Path(f"/proc/{pid}/io")
        self._stall = stall
        self._seen: tuple[bytes, ...] = ()
        self._seen_others: frozenset[tuple[bytes, ...]] = frozenset()
        self._since = self._checked = time.monotonic()

    def hung(self, events: int) -> bool:
        now = time.monotonic()
        if self._stall is None:
            return False
        if events:
            self._since = now
            return False
        if now - self._checked >= min(1.0, self._stall / 4):
            self._checked = now
            signs = self._signs()
            if signs != self._seen:
                self._seen, self._since = signs, now
            elif (others := self._others()) != self._seen_others:
                self._seen_others, self._since = others, now
        return now - self._since > self._stall

    def _others(self) -> frozenset[tuple[bytes, ...]]:
        """The same of all processes in the tool's session, whose leader it is."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == self._pid:
                    found.add((fields[11], fields[12], (process / "io").read_bytes()))
        return frozenset(found)

    def _signs(self) -> tuple[bytes, ...]:
        try:
            # proc(5): the second field of stat is the name in parentheses; 14 and 15 are user and system time.
            fields = self._stat.read_bytes().rpartition(b")")[2].split()
            return (fields[11], fields[12], self._io.read_bytes())
        except (OSError, IndexError):
            return (str(time.monotonic()).encode(),)  # cannot tell: never call it hung


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    return kept | {"LC_ALL": "C", "TZ": "UTC"} | dict(extra or {})


def _is_broken_pipe(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BrokenPipeError):
            return True
        seen = seen.__cause__
    # The core reports the system's own words (strerror(3) in the C locale).
    return isinstance(error, OcifastError) and "broken pipe" in str(error).lower()


@cache
def _lifeline() -> tuple[str, ...]:
    # PR_SET_PDEATHSIG (prctl(2)) must be set in the child. `preexec_fn` would run Python between fork and exec, which
    # can deadlock in a process with threads; setpriv does it in C. The signal is sent when the *thread* that started
    # the tool ends: run_tool waits in that thread.
    setpriv = find_tool("setpriv")
    if setpriv is None:
        return ()
    words = (setpriv, "--pdeathsig", "KILL", "--")
    import subprocess

    probe = subprocess.run([*words, "/bin/true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    return words if probe.returncode == 0 else ()
