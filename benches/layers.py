"""What kept layers cost and save, on one image in a layout, in alternation.

    python -m benches.layers oci:DIR:TAG [--runs 5] [--folder /dev/shm] [--only cold,again,second,three]

All is written below `--folder`, the cache included. `cold` compiles without a cache, with one, with one that keeps no
layers, and with one that keeps them; `again` makes each format of an image whose layers are kept and no output is;
`second` makes a flat erofs image of an image that shares all layers but its top one, beside a cold compile of that
layer alone; `three` makes an erofs, an ext4 and a tar of one decode, and one after the other. Erofs images of `cold`
and `second` are made in whole blocks as well, which file systems can share. Times are told against `igzip -dc` of all
layers of the image to nowhere. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benches.measure import Command, Contestant, measure, table
from benches.rounds import alternate
from tests.support.images import Layer, as_json, digest_of
from tests.support.layers import TarBuilder

OCIFAST = Path(sys.executable).with_name("ocifast")
FORMATS = ("tar", "cpio", "erofs", "ext4", "squashfs", "dir")
THREE = ("erofs", "ext4", "tar")
BLOCK = ["--tails", "block"]
TOP_BYTES = 30_000_000


def documents(layout: Path, tag: str) -> tuple[dict[str, object], dict[str, object]]:
    """The manifest and the config of an image."""

    def read(digest: str) -> dict[str, object]:
        found: dict[str, object] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        return found

    index = json.loads((layout / "index.json").read_text())
    names = [one.get("annotations", {}).get("org.opencontainers.image.ref.name") for one in index["manifests"]]
    manifest = read(index["manifests"][names.index(tag)]["digest"])
    return manifest, read(manifest["config"]["digest"])  # type: ignore[index]


def derived(source: Path, tag: str, target: Path, *, alone: bool) -> Path:
    """A layout of the image with another top layer, or of that layer alone."""
    noise = random.Random(3)
    tar = TarBuilder().directory("opt/")
    for number in range(300):
        # Half of it compresses, as programs do.
        tar.file(f"opt/file-{number}", noise.randbytes(TOP_BYTES // 600) + bytes(TOP_BYTES // 600))
    top = Layer(tar)
    manifest, config = documents(source, tag)
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    layers: list[dict[str, object]] = [] if alone else manifest["layers"][:-1]  # type: ignore[index]
    for layer in layers:
        name = str(layer["digest"]).removeprefix("sha256:")
        (blobs / name).hardlink_to(source / "blobs/sha256" / name)
    diff_ids = [] if alone else config["rootfs"]["diff_ids"][:-1]  # type: ignore[index]
    config_raw = as_json({**config, "history": [], "rootfs": {"type": "layers", "diff_ids": [*diff_ids, top.diff_id]}})
    media = "application/vnd.oci.image.layer.v1.tar+gzip"
    raw = as_json(
        {
            **manifest,
            "config": {**manifest["config"], "digest": digest_of(config_raw), "size": len(config_raw)},  # type: ignore[dict-item]
            "layers": [*layers, {"mediaType": media, "digest": top.digest, "size": top.size}],
        }
    )
    for data in (top.blob, config_raw, raw):
        (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(raw),
        "size": len(raw),
        "annotations": {"org.opencontainers.image.ref.name": "app"},
    }
    (target / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": [entry]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return target


@dataclass(frozen=True)
class Scene:
    """An image, others made of it, and a cache, all in one folder.

    Attributes:
        folder: where all is.
        image: its location.
        second: an image that shares all layers but the top one with it.
        alone: an image of that layer alone.
        blobs: the layers of the image.
    """

    folder: Path
    image: str
    second: str
    alone: str
    blobs: tuple[Path, ...]

    @classmethod
    def of(cls, source: Path, tag: str, folder: Path) -> Scene:
        """With a copy of a layout."""
        layout = folder / "layout"
        shutil.copytree(source, layout)
        second, alone = (derived(layout, tag, folder / name, alone=name == "alone") for name in ("second", "alone"))
        manifest, _ = documents(layout, tag)
        blobs = [layout / "blobs" / layer["digest"].replace(":", "/") for layer in manifest["layers"]]  # type: ignore[attr-defined]
        return cls(folder, f"oci:{layout}:{tag}", f"oci:{second}:app", f"oci:{alone}:app", tuple(blobs))

    @property
    def cache(self) -> Path:
        """The cache of all runs."""
        return self.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """Of all runs."""
        # A small file system would not have the room for what is measured.
        return {"OCIFAST_CACHE_DIR": str(self.cache), "OCIFAST_CACHE_SIZE": "none"}

    def run(self, *words: str | Path) -> None:
        """Runs ocifast, not timed."""
        measure([[OCIFAST, *words]], self.folder / "log", self.environment)

    def keep(self) -> None:
        """Sees to it that the cache has all layers of the image, decoded."""
        if len(list(self.cache.glob("layers/*/*/*.entries"))) == len(self.blobs):
            return
        shutil.rmtree(self.cache, ignore_errors=True)
        self.run("compile", "-q", "--keep-layers", "-f", "tar", self.image, self.folder / "warm")

    def inflate(self) -> Contestant:
        """What the others are told against."""
        words = " && ".join(f"igzip -dc '{path}'" for path in self.blobs)
        return Contestant("F", "`igzip -dc`", lambda _: [["sh", "-c", f"({words}) >/dev/null"]])


def contestants(scene: Scene, only: Sequence[str]) -> list[Contestant]:
    """All that is measured, each in the group of `igzip`."""

    def forget(_: Path) -> None:
        shutil.rmtree(scene.cache, ignore_errors=True)

    def warm(_: Path) -> None:
        """All layers of the image are kept, since long, and nothing else."""
        scene.keep()
        shutil.rmtree(scene.cache / "outputs", ignore_errors=True)
        # Where blocks can be shared, those of a file that is not on the disk yet are waited for.
        os.sync()

    def compiled(source: str, form: str, *more: str) -> Callable[[Path], Sequence[Command]]:
        return lambda at: [[OCIFAST, "compile", "-q", "-f", form, *more, source, at / "result"]]

    found = [scene.inflate()]
    if "cold" in only:
        for form, tails in (("erofs", []), ("erofs", BLOCK), ("tar", [])):
            for name, more in (
                ("no cache", ["--no-cache"]),
                ("no layers", ["--no-keep-layers"]),
                ("layers", ["--keep-layers"]),
            ):
                words = " ".join(["cold", form, *tails])
                found.append(
                    Contestant("F", f"{words}, {name}", compiled(scene.image, form, *tails, *more), prepare=forget)
                )
    if "again" in only:
        found.extend(Contestant("F", f"again, {form}", compiled(scene.image, form), prepare=warm) for form in FORMATS)
    if "second" in only:
        found.append(Contestant("F", "new layer, cold", compiled(scene.alone, "erofs", "--no-cache")))
        for tails in ([], BLOCK):
            words = " ".join(["second image", *tails])
            found.append(Contestant("F", words, compiled(scene.second, "erofs", *tails, "--keep-layers"), prepare=warm))
    if "three" in only:

        def made(at: Path, *forms: str) -> Command:
            return [OCIFAST, "compile", "-q", "--no-cache", scene.image, *(at / f"result.{form}" for form in forms)]

        found.append(Contestant("F", "three formats, one by one", lambda at: [made(at, form) for form in THREE]))
        found.append(Contestant("F", "three formats, one decode", lambda at: [made(at, *THREE)]))
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--only", default="cold,again,second,three")
    asked = parser.parse_args()
    _, place, tag = asked.image.split(":")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        scene = Scene.of(Path(place), tag, folder)
        all_of_them = contestants(scene, asked.only.split(","))
        alternate(all_of_them, asked.runs, folder, scene.environment)
        print(table(all_of_them))


if __name__ == "__main__":
    main()
