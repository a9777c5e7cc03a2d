"""The same manifest and options give the same bytes: every format, backend and compression, any threads, on any day."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ocifast.packers import load_format

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.pack import PLAIN_FORMATS
from tests.support.run import run

pytestmark = pytest.mark.tools

BACKENDS = sorted({(name, backend.name) for name in PLAIN_FORMATS for backend in load_format(name).backends})
COMPRESSIONS = {
    "cpio": ("gzip", "zstd"),
    "erofs": ("lz4", "zstd"),
    "squashfs": ("gzip", "xz", "lz4", "lz4hc", "none"),
    "sqfstar": ("gzip", "xz", "lz4", "none"),
    "tar2sqfs": ("gzip", "xz"),
    "mksquashfs": ("gzip", "xz", "lz4", "none"),
}
"""What each backend has beside its default."""

CASES: list[tuple[str, str, tuple[str, ...]]] = [
    *((form, backend, ()) for form, backend in BACKENDS),
    *(
        (form, backend, ("--compression", compression))
        for form, backend in BACKENDS
        for compression in COMPRESSIONS.get(backend, ())
    ),
    ("ext4", "ext4", ("--journal",)),
    ("squashfs", "squashfs", ("--no-fragments", "--block-size", "4K")),
]

RUNS = {1: ("+0", "UTC", 0o22), 2: ("+1y", "Asia/Tokyo", 0o77), 5: ("-20y", "America/New_York", 0)}
"""By number of threads: the day, the zone and the umask."""

PROGRAM = "import os, sys; os.umask(int(sys.argv.pop(1))); from ocifast.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with work for several threads: files of many blocks, small ones, and such as a later layer replaces."""
    tick = b"".join(number.to_bytes(3, "big") for number in range(300_000))
    lower = TarBuilder().directory("./", mode=0o751, mtime=50).directory("d", mtime=60)
    for number in range(60):
        lower.file(f"d/{number}", tick[number * 1000 : number * 15_000], mtime=70 + number, uid=number)
    lower.file("large", tick * 3, mtime=5).file("gone", tick, mtime=6)
    middle = TarBuilder().file("d/7", tick[:400_000], mtime=8).whiteout("gone").symlink("link", "d/7", mtime=9)
    upper = TarBuilder().file("zeros", bytes(3_000_000), mtime=9).hard_link("d/again", "large")
    upper.pax({"SCHILY.xattr.user.note": "v"}).file("noted", tick[:5000], mtime=11).fifo("pipe", mtime=12)
    folder = tmp_path_factory.mktemp("same")
    return f"oci:{write_layout(folder / 'layout', build_image([lower, middle, upper]))}:app"


@pytest.mark.root
@pytest.mark.parametrize(("form", "backend", "options"), CASES)
def test_the_same_bytes_for_any_number_of_threads_on_any_day(
    location: str, tmp_path: Path, form: str, backend: str, options: tuple[str, ...]
) -> None:
    made: dict[int, bytes | str] = {}
    for threads, (day, zone, umask) in RUNS.items():
        out = tmp_path / str(threads)
        environment = {"TZ": zone, "OCIFAST_CACHE_DIR": str(tmp_path / f"cache-{threads}"), "HOME": str(tmp_path)}
        faked = ["--exclude-monotonic", "-f", day, sys.executable, "-c", PROGRAM, str(umask)]
        words = ["compile", location, str(out), "-f", form, "--backend", backend, "-j", str(threads), "--no-cache"]
        run("faketime", *faked, *words, *options, env=environment)
        made[threads] = dump_directory(out) if form == "dir" else out.read_bytes()
    assert len(made[1]) > 3000
    different = [threads for threads in RUNS if made[threads] != made[1]]
    assert different == []
    assert "SOURCE_DATE_EPOCH" not in os.environ
