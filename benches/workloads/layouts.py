"""Writes image layouts of large layers, blob by blob, nothing large in memory (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from benches.workloads.blobs import GZIP, PIECE, Blob, Gzip
from tests.support.images import OCI, as_json, digest_of

Member = tuple[tarfile.TarInfo, bytes]
"""An entry of an archive with its content."""

Layer = tuple[dict[str, Any], str]
"""A layer's descriptor and its diff ID."""

EMPTY_BLOCKS = bytes(2 * tarfile.BLOCKSIZE)


class Layout:
    """A layout that grows layer by layer and tag by tag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs/sha256"
        self.blobs.mkdir(parents=True)
        self.manifests: list[dict[str, Any]] = []

    def archive(self, members: Iterable[Member], make: Callable[[Path], Blob] = Gzip) -> Layer:
        """Adds a layer of these entries."""
        return self.layer(_pieces(members), make)

    def layer(self, pieces: Iterable[bytes], make: Callable[[Path], Blob] = Gzip) -> Layer:
        """Adds a layer that has these bytes as its archive."""
        path = self.blobs / "waiting"
        blob, hashed = make(path), sha256()
        for piece in pieces:
            hashed.update(piece)
            blob.write(piece)
        blob.close()
        return self.keep(path, OCI[blob.media], "sha256:" + hashed.hexdigest())

    def keep(self, path: Path, media_type: str, diff_id: str) -> Layer:
        """Names a finished blob by its digest."""
        hashed, size = sha256(), path.stat().st_size
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                hashed.update(piece)
        path.rename(self.blobs / hashed.hexdigest())
        return {"mediaType": media_type, "digest": "sha256:" + hashed.hexdigest(), "size": size}, diff_id

    def borrow(self, other: Path, layer: Layer) -> Layer:
        """Adds the blob of another layout."""
        name = layer[0]["digest"].removeprefix("sha256:")
        shutil.copyfile(other / "blobs/sha256" / name, self.blobs / name)
        return layer

    def tag(self, name: str, layers: Sequence[Layer], config: Mapping[str, Any] | None = None) -> None:
        """An image of these layers, bottom layer first, by this name."""
        platform = {"architecture": "amd64", "os": "linux"}
        rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}
        described = as_json({**(config or {**platform, "config": {}}), "history": [], "rootfs": rootfs})
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI["manifest"],
            "config": {"mediaType": OCI["config"], "digest": digest_of(described), "size": len(described)},
            "layers": [descriptor for descriptor, _ in layers],
        }
        raw = as_json(manifest)
        for data in (described, raw):
            (self.blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
        annotations = {"org.opencontainers.image.ref.name": name}
        where = {"mediaType": OCI["manifest"], "digest": digest_of(raw), "size": len(raw)}
        self.manifests.append({**where, "annotations": annotations})

    def close(self) -> Path:
        """Writes the index and returns the folder."""
        index = {"schemaVersion": 2, "mediaType": OCI["index"], "manifests": self.manifests}
        (self.folder / "index.json").write_bytes(as_json(index))
        (self.folder / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))
        return self.folder


def directory(name: str) -> Member:
    """A folder."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
    return info, b""


def file(name: str, data: bytes = b"") -> Member:
    """A file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
    return info, data


def read_layers(layout: Path, tag: str) -> tuple[list[Layer], dict[str, Any]]:
    """The layers and the config of an image in a layout.

    Raises:
        LookupError: the layout has no such tag.
    """

    def read(digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
        return found

    for described in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if described.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            manifest = read(described["digest"])
            config = read(manifest["config"]["digest"])
            return list(zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)), config
    raise LookupError(f"{layout} has no image {tag}")


def inflated(blob: Path) -> Iterator[bytes]:
    """The archive of a gzip blob, however many members that has."""
    inflate = zlib.decompressobj(GZIP)
    with blob.open("rb") as source:
        while data := source.read(PIECE):
            while data:
                yield inflate.decompress(data)
                data = inflate.unused_data
                if inflate.eof:
                    inflate = zlib.decompressobj(GZIP)


def inflate_to(blob: Path, target: IO[bytes]) -> None:
    """Writes the archive of a gzip blob."""
    for piece in inflated(blob):
        target.write(piece)
    target.seek(0)


def _pieces(members: Iterable[Member]) -> Iterator[bytes]:
    """The bytes of an archive, some hundred KiB at a time."""
    waiting = bytearray()
    for info, data in members:
        waiting += info.tobuf(tarfile.USTAR_FORMAT)
        waiting += data
        waiting += bytes(-len(data) % tarfile.BLOCKSIZE)
        if len(waiting) >= PIECE // 4:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting) + EMPTY_BLOCKS
