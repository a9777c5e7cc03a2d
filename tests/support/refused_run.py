"""Runs command lines in one process, where calls may be refused: `refused_run.py < COMMANDS.json > RESULTS.json`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import ExitStack

from ocifast.cli import main


def run(words: list[str]) -> dict[str, object]:
    """The exit status of one command line, and what it wrote to standard output and standard error."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        before = [os.dup(number) for number in (1, 2)]
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        status = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, fd in enumerate(before, 1):
            os.dup2(fd, number)
            os.close(fd)
        said = [os.pread(file.fileno(), 1 << 20, 0).decode() for file in files]
    return {"status": status, "out": said[0], "err": said[1]}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump({name: run(words) for name, words in asked.items()}, sys.stdout)
