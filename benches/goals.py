"""What layered images, dm-verity and containerd's layers cost beside a flat erofs image, on one image, in alternation.

    python -m benches.goals oci:DIR:TAG [--runs 5] [--folder /dev/shm] [--disk /var/tmp]
        [--only layers,verity,read,export] [--filesystem btrfs|xfs] [--size GIB]

All but `read` is written below `--folder`; with `--filesystem` (as root) on a new one of that kind, of `--size`, on a
loop device over a file there, where extents are shared; how much of an export is, is said. `layers` compiles to a flat
image and to a folder of layers, cold, and a second image that shares all layers but its top one into a folder that has
them, beside that layer alone. `verity` seals the flat image. `read` reads all files through the kernel, with nothing in
its caches, from both on `--disk`. `export` fills a layer content cache of containerd from kept layers. Times are told
against `igzip -dc` of all layers (F). Prints a table in Markdown, and where each aim stands; needs root for `read`.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from benches.layers import OCIFAST, Scene
from benches.measure import Command, Contestant, measure, table
from benches.rounds import alternate
from tests.support.oracle import mounted, mounted_layers

PARTS = "layers,verity,read,export"
ROOM = {"layers": 1.1, "verity": 0.25, "export": 0.3, "export, verity": 0.9, "read": 1.1}
"""The aims: times the flat image's, or of F."""
SECOND_SECONDS = 0.05
METADATA_BYTES = 3 << 20


def contestants(scene: Scene, only: Sequence[str]) -> list[Contestant]:
    """All that is timed as commands, each in the group of `igzip`."""

    def kept(_: Path) -> None:
        """All layers of the image are kept."""
        scene.keep()

    def filled(at: Path) -> None:
        """A folder has the layers of the image, under the cache's record."""
        kept(at)
        scene.run("compile", "-q", "-f", "layers", scene.image, at / "result")

    def cold(source: str, form: str, *more: str) -> Callable[[Path], Sequence[Command]]:
        return lambda at: [[OCIFAST, "compile", "-q", "--no-cache", "-f", form, *more, source, at / "result"]]

    def export(*more: str) -> Callable[[Path], Sequence[Command]]:
        return lambda at: [[OCIFAST, "cache", "export", "-q", *more, "--containerd", at / "result", scene.image]]

    found = [
        scene.inflate(),
        Contestant("F", "flat", cold(scene.image, "erofs")),
    ]
    if "layers" in only:
        found.append(Contestant("F", "layers", cold(scene.image, "layers")))
        found.append(Contestant("F", "new layer", cold(scene.alone, "layers")))
        again: Callable[[Path], Sequence[Command]] = lambda at: [  # noqa: E731 - as the others
            [OCIFAST, "compile", "-q", "--no-keep-layers", "-f", "layers", scene.second, at / "result"]
        ]
        found.append(Contestant("F", "second image", again, prepare=filled))
    if "verity" in only:
        found.append(Contestant("F", "verity", cold(scene.image, "erofs", "--verity")))
    if "export" in only:
        found.append(Contestant("F", "export", export(), prepare=kept))
        found.append(Contestant("F", "export, verity", export("--verity"), prepare=kept))
    return found


def read_all(mount: AbstractContextManager[Path]) -> float:
    """Seconds that reading all files takes, with nothing in the caches of the kernel."""
    with mount as root:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        begun = time.monotonic()
        words = "find . -type f -print0 | xargs -0 cat >/dev/null"
        subprocess.run(["sh", "-c", words], cwd=root, check=True, stdin=subprocess.DEVNULL)
        return time.monotonic() - begun


def reading(image: str, disk: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, through the flat image and through the layers."""
    with tempfile.TemporaryDirectory(dir=disk) as name:
        folder = Path(name)
        for form in ("erofs", "layers"):
            command: Command = [OCIFAST, "compile", "-q", "--no-cache", "-f", form, image, folder / form]
            measure([command], folder / "log", {})
        seconds: dict[str, list[float]] = {"flat": [], "layers": []}
        for _ in range(runs):
            seconds["flat"].append(read_all(mounted(folder / "erofs", "erofs", folder / "flat")))
            seconds["layers"].append(read_all(mounted_layers(folder / "layers", folder / "layered")))
        return seconds


@contextmanager
def filesystem(kind: str, folder: Path, gibibytes: int) -> Iterator[Path]:
    """A new file system on a loop device over a file in a folder, mounted there."""
    image, point = folder / "disk", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(gibibytes << 30)
    point.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


class Seen:
    """What was looked at in what the runs left.

    Attributes:
        metadata: bytes of the metadata of an image of layers.
        shared: of the bytes that were exported, the share that is shared with other files; None where nothing was
            exported, or the file system does not tell.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.metadata = 0
        self.shared: float | None = None

    def look(self, one: Contestant, at: Path) -> None:
        """Looks at what a run has left."""
        if one.name == "second image":
            self.metadata = (at / "result/image.erofs").stat().st_size
        if one.name == "export":
            self.shared = shared(list((at / "result").rglob("*.erofs")))


def shared(files: Sequence[Path]) -> float | None:
    """The share of the blocks of some files that others have as well, by the flags of filefrag(8)."""
    both = all_of_them = 0
    for path in files:
        subprocess.run(["sync", path], check=True)
        done = subprocess.run(["filefrag", "-v", "-b4096", path], capture_output=True, text=True, check=False)
        if done.returncode:
            return None
        for length, flags in re.findall(r"^ *\d+: .*?: +(\d+): +(?:\d+:)? *(\S*)$", done.stdout, re.MULTILINE):
            all_of_them += int(length)
            both += int(length) if "shared" in flags.split(",") else 0
    return both / all_of_them if all_of_them else None


def aims(found: Sequence[Contestant], seen: Seen) -> list[str]:
    """Where each aim stands."""
    seconds = {one.name: one.seconds for one in found}
    base, flat = seconds["`igzip -dc`"], seconds["flat"]
    told = []
    if "layers" in seconds:
        told.append((f"layers / flat: {seconds['layers'] / flat:.2f}", seconds["layers"] / flat <= ROOM["layers"]))
        more = seconds["second image"] - seconds["new layer"]
        told.append((f"second image, beyond its new layer: {more:.3f} s", more <= SECOND_SECONDS))
        told.append((f"metadata: {seen.metadata / 2**20:.2f} MiB", seen.metadata <= METADATA_BYTES))
    if "verity" in seconds:
        more = (seconds["verity"] - flat) / base
        told.append((f"--verity: + {more:.2f} F", more <= ROOM["verity"]))
    shares = {name: seconds[name] / base for name in ("export", "export, verity") if name in seconds}
    told += [(f"{name}: {share:.2f} F", share <= ROOM[name]) for name, share in shares.items()]
    lines = [f"- {words}, {'met' if met else 'not met'}" for words, met in told]
    if "export" in shares:
        known = "nobody knows how much" if seen.shared is None else f"{seen.shared:.0%}"
        lines.append(f"- of the exported blocks {known} are shared with what is kept: the aims are for a disk with all")
    return lines


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--only", default=PARTS)
    parser.add_argument("--filesystem", choices=["btrfs", "xfs"])
    parser.add_argument("--size", type=int, default=8)
    asked = parser.parse_args()
    _, place, tag = asked.image.split(":")
    only = asked.only.split(",")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder)))
        if asked.filesystem is not None:
            folder = stack.enter_context(filesystem(asked.filesystem, folder, asked.size))
        scene = Scene.of(Path(place), tag, folder)
        found, seen = contestants(scene, only), Seen(scene)
        alternate(found, asked.runs, folder, scene.environment, look=seen.look)
        print(table(found), "", *aims(found, seen), sep="\n")
    if "read" in only:
        seconds = {name: statistics.median(each) for name, each in reading(asked.image, asked.disk, asked.runs).items()}
        ratio = seconds["layers"] / seconds["flat"]
        print(f"- reading all files, layers / flat: {ratio:.2f}, {'met' if ratio <= ROOM['read'] else 'not met'}")


if __name__ == "__main__":
    main()
