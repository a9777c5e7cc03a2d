"""The images that are compared, each built by a script: from a seed alone, or of a given image, the corpus.

`WORKLOADS` is the table. A workload of its own is a function that writes a layout and a line there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from benches.workloads.blobs import Blob, Pigz, Zstd, estargz
from benches.workloads.content import POOL_BYTES, Content
from benches.workloads.layouts import Layout, Member, directory, file, inflate_to, inflated, read_layers
from tests.support.images import OCI

TAG = "app"
MTIME = 1_700_000_000


@dataclass(frozen=True)
class Source:
    """What a workload is built of.

    Attributes:
        corpus: layout of the given image; None when none was given.
        tag: its tag.
        scale: of sizes and numbers; 1 is what is measured, tests take less.
    """

    corpus: Path | None = None
    tag: str = TAG
    scale: float = 1.0

    def count(self, whole: int) -> int:
        """A number of the real workload, scaled, at least 1."""
        return max(1, round(whole * self.scale))

    def content(self, seed: int) -> Content:
        """Contents; a small workload has a small pool, which is made faster."""
        return Content(seed, max(1 << 18, min(POOL_BYTES, self.count(POOL_BYTES))))


@dataclass(frozen=True)
class Workload:
    """One image, and the work that is compared on it.

    Attributes:
        name: on the command line and in the results.
        title: of its table.
        about: what it is, in a sentence or two.
        build: writes its layout into a folder that does not exist yet; its image has the tag `app`.
        groups: the work that is compared, of `benches.peers.GROUPS`.
        of_corpus: it is made of the given image.
        slow: its registry is behind 20 ms and 50 MB/s.
    """

    name: str
    title: str
    about: str
    build: Callable[[Path, Source], None]
    groups: tuple[str, ...]
    of_corpus: bool = False
    slow: bool = False


def corpus(folder: Path, source: Source) -> None:
    """The given image as it is, under the tag `app`."""
    assert source.corpus is not None
    layout = Layout(folder)
    layers, config = read_layers(source.corpus, source.tag)
    layout.tag(TAG, [layout.borrow(source.corpus, layer) for layer in layers], config)
    layout.close()


def big(folder: Path, source: Source) -> None:
    """2 GB in one layer, one gzip member, one deflate stream; and as tag `four` the same files in four equal layers."""
    content, files = source.content(1), list[tuple[str, int]]()
    sizes = content.random
    left = source.count(2_000_000_000)
    while left > 0:
        # From 1 KiB to 8 MiB, as many of each size as of the double, so that most bytes are in large files.
        size = min(left, int(1024 * 2 ** (13 * sizes.random())))
        files.append((f"data/{len(files) % 50}/file-{len(files)}", size))
        left -= size
    folders = [directory("data"), *(directory(f"data/{number}") for number in range(50))]

    def members(quarter: int | None) -> Iterator[Member]:
        # A seed for each file: its content is the same in either image.
        yield from folders
        for number, (name, size) in enumerate(files):
            if quarter is None or number % 4 == quarter:
                content.random.seed(number)
                yield file(name, content.take(size))

    layout = Layout(folder)
    layout.tag(TAG, [layout.archive(members(None))])
    layout.tag("four", [layout.archive(members(quarter)) for quarter in range(4)])
    layout.close()


def sixty(folder: Path, source: Source) -> None:
    """60 layers of 40 files, 2 MB each; every layer replaces a file of the one before and deletes another."""
    content = source.content(2)
    layout = Layout(folder)

    def members(number: int) -> Iterator[Member]:
        yield directory("srv")
        yield directory(f"srv/layer-{number}")
        for which in range(40):
            size = content.random.randrange(source.count(100_000))
            yield file(f"srv/layer-{number}/file-{which}", content.take(size))
        if number:
            yield directory(f"srv/layer-{number - 1}")
            yield file(f"srv/layer-{number - 1}/file-0", b"replaced by the layer above\n")
            yield file(f"srv/layer-{number - 1}/.wh.file-1")

    layout.tag(TAG, [layout.archive(members(number)) for number in range(60)])
    layout.close()


def files(folder: Path, source: Source) -> None:
    """300,000 files of up to 580 bytes in 3,000 folders: 327 MB as an archive, one layer."""
    content = source.content(3)
    folders = source.count(3000)

    def members() -> Iterator[Member]:
        yield directory("many")
        for number in range(folders):
            yield directory(f"many/{number:04}")
            for which in range(100):
                yield file(f"many/{number:04}/{which}", content.take(content.random.randrange(581)))

    layout = Layout(folder)
    layout.tag(TAG, [layout.archive(members())])
    layout.close()


def recompressed(make: Callable[[Path], Blob], folder: Path, source: Source) -> None:
    """The corpus with all its layers compressed another way."""
    assert source.corpus is not None
    layout = Layout(folder)
    layers, config = read_layers(source.corpus, source.tag)
    blobs = [source.corpus / "blobs" / descriptor["digest"].replace(":", "/") for descriptor, _ in layers]
    layout.tag(TAG, [layout.layer(inflated(blob), make) for blob in blobs], config)
    layout.close()


def in_members(folder: Path, source: Source) -> None:
    """The corpus as eStargz, a gzip member for each file's content."""
    assert source.corpus is not None
    layout, made = Layout(folder), []
    layers, config = read_layers(source.corpus, source.tag)
    for descriptor, _ in layers:
        with tempfile.TemporaryFile(dir=folder) as archive:
            inflate_to(source.corpus / "blobs" / descriptor["digest"].replace(":", "/"), archive)
            path = folder / "blobs/sha256/waiting"
            diff_id = estargz(archive, path)
        made.append(layout.keep(path, OCI["gzip"], diff_id))
    layout.tag(TAG, made, config)
    layout.close()


def second(folder: Path, source: Source) -> None:
    """The corpus, and as tag `second` an image that has all its layers but the top one, and 30 MB of its own."""
    assert source.corpus is not None
    layout, content = Layout(folder), source.content(4)
    layers, config = read_layers(source.corpus, source.tag)
    kept = [layout.borrow(source.corpus, layer) for layer in layers]
    own = (file(f"opt/file-{number}", content.take(source.count(100_000))) for number in range(300))
    layout.tag(TAG, kept, config)
    layout.tag("second", [*kept[:-1], layout.archive([directory("opt"), *own])], config)
    layout.close()


FORMS = ("dir", "erofs")
WORKLOADS = (
    Workload(
        "corpus",
        "The corpus",
        "The image that is named on the command line, from the registry to each kind of output, and back.",
        corpus,
        ("tar", "dir", "cpio", "ext4", "erofs", "squashfs", "pull", "push", "tls", "runnable"),
        of_corpus=True,
    ),
    Workload(
        "big",
        "One big layer",
        "2 GB in one layer, one gzip member; the same files in four equal layers beside it.",
        big,
        FORMS,
    ),
    Workload(
        "sixty",
        "Sixty small layers",
        "60 layers of 40 files, 2 MB each; every layer replaces a file of the one below it and deletes another.",
        sixty,
        ("tar", *FORMS, "squashfs", "pull"),
    ),
    Workload(
        "files",
        "Many small files",
        "300,000 files of up to 580 bytes in 3,000 folders, one layer, 327 MB as a tar.",
        files,
        ("layout-dir", "layout-ext4", "layout-erofs"),
    ),
    Workload(
        "zstd",
        "zstd layers",
        "The corpus with its layers compressed by `zstd -3`.",
        partial(recompressed, Zstd),
        FORMS,
        True,
    ),
    Workload(
        "pigz",
        "gzip with flush points",
        "The corpus with its layers as pigz writes them: a flush point after every 128 KiB.",
        partial(recompressed, Pigz),
        FORMS,
        True,
    ),
    Workload(
        "estargz",
        "Many gzip members",
        "The corpus as eStargz: a gzip member for each file, and for every 4 MiB of a large one.",
        in_members,
        FORMS,
        True,
    ),
    Workload(
        "second",
        "Again, with what is there",
        "An image that shares all layers of the corpus but one, on a machine that had the corpus; and the corpus"
        " in a second format, on a machine that had the first.",
        second,
        ("second-image", "second-format"),
        True,
    ),
    Workload(
        "slow",
        "A registry far away",
        "The corpus from a registry that answers after 20 ms and sends 50 MB/s, all connections together.",
        corpus,
        ("pull", *FORMS),
        True,
        slow=True,
    ),
)


def place_of(workload: Workload, source: Source, folder: Path) -> Path:
    """Where the layout of a workload stands in a folder: by name, scale and corpus, so that no old one is taken."""
    corpus = read_layers(source.corpus, source.tag) if source.corpus and workload.of_corpus else None
    key = sha256(repr((source.scale, corpus)).encode()).hexdigest()[:12]
    return folder / f"{workload.name}-{key}"


def build(workload: Workload, source: Source, folder: Path) -> Path:
    """The layout of a workload, built in `folder` unless it is there; nothing half-built stays."""
    layout = place_of(workload, source, folder)
    if not layout.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = layout.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            workload.build(unfinished, source)
            unfinished.rename(layout)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return layout
