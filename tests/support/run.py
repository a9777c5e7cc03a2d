"""Runs foreign tools for the tests. A tool that is missing or fails is a failed test, never a skipped one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Argument = str | os.PathLike[str]

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""Debian keeps file system tools in sbin, which an ordinary user's PATH may lack."""


COMMAND = Path(sys.executable).with_name("ocifast")
"""The console script of the environment that runs the tests."""

EVERYWHERE = frozenset(
    {
        "bash",
        "cargo",
        "cat",
        "cc",
        "chmod",
        "cp",
        "date",
        "dd",
        "diff",
        "echo",
        "env",
        "false",
        "find",
        "gcc",
        "grep",
        "gzip",
        "head",
        "ld",
        "ldd",
        "ln",
        "ls",
        "mkdir",
        "mkfifo",
        "mknod",
        "mv",
        "ocifast",
        "printf",
        "prlimit",
        "python",
        "python3",
        "readelf",
        "rm",
        "script",
        "sed",
        "sh",
        "sleep",
        "sort",
        "stat",
        "strip",
        "tar",
        "tr",
        "true",
        "wc",
    }
)
"""What any machine has that can build this package: `make test` runs nothing else."""

packages_allowed = True
"""Whether what runs now may use other programs: `tests/conftest.py` says so for each test."""


def tool(name: str) -> str:
    """Path of an installed tool; fails the test when it is missing.

    `tests/apt-packages.txt` lists the Debian packages that bring all tools.
    """
    allowed = packages_allowed or Path(name).is_absolute() or name in EVERYWHERE
    assert allowed, (
        f"a test that runs {name} carries the mark `tools`: `make test` leaves it out, `make test-all` runs it"
    )
    found = shutil.which(name, path=PATH)
    assert found is not None, f"{name} is not installed; see tests/apt-packages.txt"
    return found


def run(
    *command: Argument,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 300,
) -> bytes:
    """Runs a tool and returns its standard output; anything but exit status 0 fails with what it said."""
    done = attempt(*command, stdin=stdin, cwd=cwd, env=env, timeout=timeout)
    said = (done.stderr + done.stdout).decode(errors="backslashreplace")[-4000:]
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {said}"
    return done.stdout


def attempt(
    *command: Argument,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a tool and returns whatever came of it. `env` is added to the environment of the tests."""
    words: Sequence[Argument] = [tool(os.fspath(command[0])), *command[1:]]
    return subprocess.run(
        words,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8", **(env or {})},
        timeout=timeout,
        check=False,
    )


def ocifast(*words: Argument, env: dict[str, str] | None = None, cwd: Path | None = None) -> bytes:
    """Runs our command line as a user would and returns its standard output; a failure fails the test."""
    return run(COMMAND, *words, env=env, cwd=cwd)


def try_ocifast(
    *words: Argument, stdin: bytes | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs our command line and returns whatever came of it."""
    return attempt(COMMAND, *words, stdin=stdin, env=env, cwd=cwd)
