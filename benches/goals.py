"""What layered images, dm-verity and containerd's layers cost beside a flat erofs image, on one image, in alternation.

    python -m benches.goals oci:DIR:TAG [--runs 5] [--folder /dev/shm] [--disk /var/tmp]
        [--only layers,verity,read,export]

All but `read` is written below `--folder`; for shared extents name one on btrfs or xfs. `layers` compiles to a flat
image and to a folder of layers, cold, and a second image that shares all layers but its top one into a folder that has
them, beside that layer alone. `verity` seals the flat image. `read` reads all files through the kernel, with nothing in
its caches, from both on `--disk`. `export` fills a layer content cache of containerd from kept layers. Times are told
against `igzip -dc` of all layers (F). Prints a table in Markdown, and where each aim stands; needs root for `read`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benches.layers import OCIFAST, derived, documents
from benches.measure import Command, Contestant, measure, table
from tests.support.oracle import mounted, mounted_layers

PARTS = "layers,verity,read,export"
ROOM = {"layers": 1.1, "verity": 0.25, "export": 0.3, "export, verity": 0.9, "read": 1.1}
"""The aims: times the flat image's, or of F."""
SECOND_SECONDS = 0.05
METADATA_BYTES = 3 << 20


def contestants(layout: Path, tag: str, folder: Path, only: Sequence[str]) -> list[Contestant]:
    """All that is timed as commands, each in the group of `igzip`."""
    image, cache = f"oci:{layout}:{tag}", folder / "cache"
    second = f"oci:{derived(layout, tag, folder / 'second', alone=False)}:app"
    alone = f"oci:{derived(layout, tag, folder / 'alone', alone=True)}:app"
    manifest, _ = documents(layout, tag)
    paths = [layout / "blobs" / layer["digest"].replace(":", "/") for layer in manifest["layers"]]  # type: ignore[attr-defined]
    words = " && ".join(f"igzip -dc '{path}'" for path in paths)
    environment = {"OCIFAST_CACHE_DIR": str(cache)}

    def run(*words: str | Path) -> None:
        measure([[OCIFAST, *words]], folder / "log", environment)

    def kept(_: Path) -> None:
        """All layers of the image are kept."""
        if not list(cache.glob("layers/*/*/*.entries")):
            run("compile", "-q", "--keep-layers", "-f", "tar", image, folder / "warm")

    def filled(at: Path) -> None:
        """A folder has the layers of the image, under the cache's record."""
        kept(at)
        run("compile", "-q", "-f", "layers", image, at / "result")

    def cold(source: str, form: str, *more: str) -> Callable[[Path], Sequence[Command]]:
        return lambda at: [[OCIFAST, "compile", "-q", "--no-cache", "-f", form, *more, source, at / "result"]]

    def export(*more: str) -> Callable[[Path], Sequence[Command]]:
        return lambda at: [[OCIFAST, "cache", "export", "-q", *more, "--containerd", at / "result", image]]

    found = [
        Contestant("F", "`igzip -dc`", lambda _: [["sh", "-c", f"({words}) >/dev/null"]]),
        Contestant("F", "flat", cold(image, "erofs")),
    ]
    if "layers" in only:
        found.append(Contestant("F", "layers", cold(image, "layers")))
        found.append(Contestant("F", "new layer", cold(alone, "layers")))
        again: Callable[[Path], Sequence[Command]] = lambda at: [  # noqa: E731 - as the others
            [OCIFAST, "compile", "-q", "--no-keep-layers", "-f", "layers", second, at / "result"]
        ]
        found.append(Contestant("F", "second image", again, prepare=filled))
    if "verity" in only:
        found.append(Contestant("F", "verity", cold(image, "erofs", "--verity")))
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


def aims(found: Sequence[Contestant], metadata: int) -> list[str]:
    """Where each aim stands."""
    seconds = {one.name: one.seconds for one in found}
    base, flat = seconds["`igzip -dc`"], seconds["flat"]
    told = []
    if "layers" in seconds:
        told.append((f"layers / flat: {seconds['layers'] / flat:.2f}", seconds["layers"] / flat <= ROOM["layers"]))
        more = seconds["second image"] - seconds["new layer"]
        told.append((f"second image, beyond its new layer: {more:.3f} s", more <= SECOND_SECONDS))
        told.append((f"metadata: {metadata / 2**20:.2f} MiB", metadata <= METADATA_BYTES))
    if "verity" in seconds:
        more = (seconds["verity"] - flat) / base
        told.append((f"--verity: + {more:.2f} F", more <= ROOM["verity"]))
    shares = {name: seconds[name] / base for name in ("export", "export, verity") if name in seconds}
    told += [(f"{name}: {share:.2f} F", share <= ROOM[name]) for name, share in shares.items()]
    return [f"- {words}, {'met' if met else 'not met'}" for words, met in told]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--only", default=PARTS)
    asked = parser.parse_args()
    _, place, tag = asked.image.split(":")
    only = asked.only.split(",")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        shutil.copytree(place, folder / "layout")
        found, metadata = contestants(folder / "layout", tag, folder, only), 0
        for _ in range(asked.runs):
            for one in found:
                at = Path(tempfile.mkdtemp(dir=folder))
                if one.prepare is not None:
                    one.prepare(at)
                env = {"OCIFAST_CACHE_DIR": str(folder / "cache")}
                one.samples.append(measure(one.commands(at), folder / "log", env))
                if one.name == "second image":
                    metadata = (at / "result/image.erofs").stat().st_size
                shutil.rmtree(at)
        print(table(found), "", *aims(found, metadata), sep="\n")
    if "read" in only:
        seconds = {name: statistics.median(each) for name, each in reading(asked.image, asked.disk, asked.runs).items()}
        ratio = seconds["layers"] / seconds["flat"]
        print(f"- reading all files, layers / flat: {ratio:.2f}, {'met' if ratio <= ROOM['read'] else 'not met'}")


if __name__ == "__main__":
    main()
