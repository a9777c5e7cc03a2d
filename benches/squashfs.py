"""squashfs by us and by other tools: from a registry, every compression, from kept layers, and read by the kernel.

    python -m benches.squashfs oci:DIR:TAG [--runs 3] [--folder /dev/shm] [--only registry,levels,read]
        [--levels 'zstd 3,gzip 6']

All is written below `--folder`, a tmpfs. `registry` goes from Debian's docker-registry on loopback to an image, by us,
by the best tools fed by our own stream, and by skopeo, umoci and mksquashfs one after the other. `levels` makes every
compression once of an image that is unpacked or in a layout already: sizes, and seconds of wall and CPU time. `read`
reads all files of our image and of mksquashfs' through the kernel, with nothing in its caches. Prints tables in
Markdown; needs root.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benches.compare import Comparison
from benches.measure import Command, Contestant, measure, table, take_memory_back
from benches.peers import INFLATE, inflate, umoci
from benches.place import OCIFAST, Place
from benches.results import machine, versions
from benches.workloads import Source, corpus
from tests.support.oracle import mounted
from tests.support.run import attempt

LEVELS: dict[str, tuple[str, ...]] = {
    "zstd 1": ("zstd", "1"),
    "zstd 3": ("zstd", "3"),
    "zstd 9": ("zstd", "9"),
    "zstd 15": ("zstd", "15"),
    "gzip 6": ("gzip", "6"),
    "gzip 9": ("gzip", "9"),
    "lz4": ("lz4",),
    "lz4hc": ("lz4hc",),
    "xz": ("xz",),
    "none": ("none",),
}


def mksquashfs_words(level: Sequence[str]) -> list[str] | None:
    """What mksquashfs is told; the block size is the same by default."""
    name, *number = level
    if name == "none":
        return ["-noI", "-noId", "-noD", "-noF", "-noX"]
    if name == "lz4hc":
        return ["-comp", "lz4", "-Xhc"]
    return ["-comp", name, *(["-Xcompression-level", *number] if number else [])]


def gensquashfs_words(level: Sequence[str]) -> list[str] | None:
    """The same for gensquashfs, which always compresses, and has no lz4hc by that name."""
    name, *number = level
    if name in ("none", "lz4hc"):
        return None
    return ["--compressor", name, *(["-X", f"level={number[0]}"] if number else [])]


def by_us(source: str, level: Sequence[str], backend: str | None, at: Path) -> Sequence[Command]:
    """Compiles an image."""
    name, *number = level
    words: list[str] = ["--compression", name, *(["--level", *number] if number else [])]
    words += [] if backend is None else ["--backend", backend]
    return [[OCIFAST, "compile", "-q", "--no-cache", "-f", "squashfs", *words, source, at / "result"]]


def by_mksquashfs(source: Path, level: Sequence[str], at: Path) -> Sequence[Command]:
    """Packs a folder."""
    words = mksquashfs_words(level) or []
    return [["mksquashfs", source, at / "result", "-no-progress", "-quiet", *words]]


def by_gensquashfs(source: Path, level: Sequence[str], at: Path) -> Sequence[Command]:
    """Packs a folder."""
    words = gensquashfs_words(level) or []
    return [["gensquashfs", "-q", "-j", str(os.cpu_count()), "--pack-dir", source, *words, at / "result"]]


def one_after_the_other(place: Place, at: Path) -> Sequence[Command]:
    """Skopeo to a layout, umoci to a folder, mksquashfs to an image."""
    return [*umoci(place, at), *by_mksquashfs(at / "bundle/rootfs", LEVELS["zstd 3"], at)]


def from_registry(place: Place) -> Iterator[Contestant]:
    """All ways from a registry to an image."""
    yield Contestant("registry", INFLATE, partial(inflate, place))
    for name in ("zstd 3", "zstd 1"):
        yield Contestant(
            "registry", f"ocifast, {name}", partial(by_us, place.reference(), LEVELS[name], None), "result"
        )
    for backend in ("sqfstar", "tar2sqfs"):
        ours = partial(by_us, place.reference(), LEVELS["zstd 3"], backend)
        yield Contestant("registry", f"ocifast --backend {backend}, zstd 3", ours, "result")
    peers = partial(one_after_the_other, place)
    yield Contestant("registry", "skopeo copy + umoci unpack + mksquashfs, zstd 3", peers, "result")


def levels(layout: str, folder: Path, unpacked: Path, names: Sequence[str]) -> None:
    """Prints what compressions make of the image, by every tool: MB, wall seconds, CPU seconds."""
    print("| compression | ocifast | mksquashfs | sqfstar | tar2sqfs | gensquashfs |")
    print("|---|---|---|---|---|---|")
    for name in names:
        level = LEVELS[name]
        cells = []
        ways = {
            "ocifast": partial(by_us, layout, level, None),
            "mksquashfs": partial(by_mksquashfs, unpacked, level),
            "sqfstar": partial(by_us, layout, level, "sqfstar"),
            "tar2sqfs": partial(by_us, layout, level, "tar2sqfs"),
            "gensquashfs": partial(by_gensquashfs, unpacked, level),
        }
        for way, commands in ways.items():
            lacks = (way == "gensquashfs" and gensquashfs_words(level) is None) or (
                way == "tar2sqfs" and level[0] in ("none", "lz4", "lz4hc")
            )
            at = Path(tempfile.mkdtemp(dir=folder))
            if lacks:
                cells.append("")
            else:
                take_memory_back(at)
                sample = measure(commands(at), at / "log", {"TMPDIR": str(at)})
                size = (at / "result").stat().st_size
                cells.append(f"{size / 1e6:.1f}, {sample.seconds:.1f}, {sample.cpu:.1f}")
            shutil.rmtree(at)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def read_all(image: Path, folder: Path) -> float:
    """Seconds that reading all files of an image takes."""
    with mounted(image, "squashfs", folder) as root:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        begun = time.monotonic()
        subprocess.run(
            ["sh", "-c", "find . -type f -print0 | xargs -0 cat >/dev/null"],
            cwd=root,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return time.monotonic() - begun


def reading(layout: str, folder: Path, unpacked: Path, runs: int) -> None:
    """Prints how long reading takes, images in alternation."""
    images = {}
    for name, commands in {
        "ocifast": partial(by_us, layout, LEVELS["zstd 3"], None),
        "mksquashfs": partial(by_mksquashfs, unpacked, LEVELS["zstd 3"]),
    }.items():
        at = folder / name
        at.mkdir()
        measure(commands(at), at / "log", {"TMPDIR": str(at)})
        images[name] = at / "result"
    seconds: dict[str, list[float]] = {name: [] for name in images}
    for number in range(runs):
        for name, image in images.items():
            seconds[name].append(read_all(image, folder / f"mount-{name}-{number}"))
    print("| image by | all files read, s |\n|---|--:|")
    for name, each in seconds.items():
        print(f"| {name} | {sorted(each)[len(each) // 2]:.2f} |")


def gensquashfs_version() -> list[str]:
    """The first line of what gensquashfs says of its version: the comparison does not run it."""
    return attempt("gensquashfs", "--version").stdout.decode().splitlines()[:1]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="squashfs by ocifast and by other tools.")
    parser.add_argument("image", help="oci:DIR:TAG")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant (default 3)")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all is written (default /dev/shm)")
    parser.add_argument("--only", default="registry,levels,read")
    parser.add_argument("--levels", default=",".join(LEVELS), help=f"of {','.join(LEVELS)}")
    options = parser.parse_args()
    match = re.fullmatch(r"oci:(.+):([^:]+)", options.image)
    if match is None:
        parser.error("the image must be oci:DIR:TAG")
    only = options.only.split(",")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ocifast-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        if "registry" in only:
            corpus(folder / "layout", Source(Path(match[1]).resolve(), match[2]))
            (folder / "place").mkdir()
            place = Place(folder / "layout", folder / "place", stack)
            comparison, contestants = Comparison(place, folder), list(from_registry(place))
            comparison.alternate(contestants, options.runs)
            if failed := [one for one in contestants if one.problem]:
                sys.exit(f"{failed[0].name} {failed[0].problem}")
            print(f"{table(contestants)}\n")
        if {"levels", "read"} & set(only):
            unpacked = folder / "unpacked"
            subprocess.run(
                [OCIFAST, "compile", "-q", "--no-cache", options.image, unpacked], check=True, stdout=sys.stderr
            )
            if "levels" in only:
                levels(options.image, folder, unpacked, options.levels.split(","))
                print()
            if "read" in only:
                reading(options.image, folder, unpacked, options.runs)
                print()
        print(*(f"- {line}" for line in [*versions(), *gensquashfs_version(), machine()]), sep="\n")


if __name__ == "__main__":
    main()
