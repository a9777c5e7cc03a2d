"""Executables to images.

    python -m benches.bench_runnable [--runs 5] [--folder /dev/shm] [--megabytes 200]

compares the archive of a static executable with `tar c FILE | sha256sum`, which also reads it once and hashes it once
but writes nothing: in alternation, as medians, with everything on a tmpfs. With `make bench` the parts are measured
each on its own.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ocifast.elf import inspect
from ocifast.loader import resolve
from ocifast.runnable import Runnable

from benches.measure import Command, Contestant, measure, table
from tests.support.elf import build_elf

OCIFAST = Path(sys.executable).with_name("ocifast")
MEGABYTE = 1_000_000
Benchmark = Any


def executable(folder: Path, size: int) -> Path:
    """A static executable of this size, whose bytes do not repeat."""
    path = folder / "executable"
    with path.open("wb") as file:
        file.write(build_elf())
        generator = random.Random(1)
        while file.tell() < size:
            file.write(generator.randbytes(min(MEGABYTE, size - file.tell())))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder on a tmpfs, so that no disk is measured."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_archive(benchmark: Benchmark, folder: Path, compression: str) -> None:
    runnable = Runnable(executable(folder, 20 * MEGABYTE), compression=compression)
    benchmark(runnable.write, folder / "image.tar")


def test_inspect(benchmark: Benchmark) -> None:
    benchmark(inspect, "/bin/busybox")


def test_resolve(benchmark: Benchmark) -> None:
    elf = inspect(shutil.which("skopeo") or "/bin/ls")
    benchmark(resolve, elf)


def contestants(program: Path) -> list[Contestant]:
    """The ways to do it; the first is the measure."""

    def hashed(_: Path) -> Sequence[Command]:
        return [["sh", "-c", f"tar c -C {shlex.quote(str(program.parent))} {program.name} | sha256sum"]]

    def by_us(*options: str) -> Any:
        return lambda at: [[OCIFAST, "runnable", program, "-o", at / "image.tar", *options]]

    return [
        Contestant("archive", "tar c FILE \\| sha256sum", hashed),
        Contestant("archive", "ocifast runnable -o FILE", by_us(), "image.tar"),
        Contestant("archive", "the same, --compression zstd", by_us("--compression", "zstd"), "image.tar"),
    ]


def main() -> None:
    """Runs the comparison and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as path:
        program = executable(Path(path), options.megabytes * MEGABYTE)
        ways = contestants(program)
        for _ in range(options.runs):
            for way in ways:
                at = Path(path, "run")
                at.mkdir()
                sample = measure(way.commands(at), at / "log", {})
                result = at / way.result
                way.samples.append(replace(sample, size=os.stat(result).st_size if way.result else 0))  # noqa: PTH116
                shutil.rmtree(at)
    print(table(ways))


if __name__ == "__main__":
    main()
