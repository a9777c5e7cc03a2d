"""Docker archives, written: what `docker load` and `podman load` take.

Such an archive has one config, its layers as plain tars, and a `manifest.json` that names them. Compressed layers are
decompressed while they arrive; how long they get is known only then, so each waits in a file of its own, where the
archive is made, until all are there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.errors import (
    BlobNotFoundError,
    DiffIdMismatchError,
    DocumentError,
    ImageReferenceError,
    NotAnImageError,
    OcifastError,
    UsageError,
)
from ocifast.reference import Reference
from ocifast.sources import Source
from ocifast.sources.archive_destination import TarWriter
from ocifast.sources.archive_place import archive_place
from ocifast.sources.verify import verified
from ocifast.spec import CONFIG_LIMIT, Descriptor, Document, ImageConfig, Manifest, decode_config, decode_manifest

__all__ = ["DockerArchiveDestination"]


class DockerArchiveDestination:
    """A new Docker archive with one image; a file that has its name is replaced when all is written.

    Args:
        path: the archive; `-` is standard output, which gets nothing before all is written.
        name: how the user wrote the place.
        reference: what the image is called after loading; None leaves it without a name.
        sync: whether the archive is brought to the disk before it has its name.

    Raises:
        UsageError: the path is not that of a file.
    """

    is_remote = False
    holds_indexes = False

    def __init__(self, path: Path, *, name: str, reference: Reference | None = None, sync: bool = True) -> None:
        if reference is not None and reference.digest is not None:
            raise ImageReferenceError(f"{name}: a Docker archive cannot hold a digest; write NAME:TAG")
        self.name = name
        self._place = archive_place(path, sync=sync)
        self._reference = reference
        self._lock = threading.Lock()
        self._layers: dict[str, tuple[NewFile, str, int]] = {}
        self._small: dict[str, bytes] = {}
        self._root: Document | None = None
        self._tar: TarWriter | None = None

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        """Does nothing: the manifest gives the order."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was put already."""
        return descriptor.digest in self._layers or descriptor.digest in self._small

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """False: all bytes must come into the file."""
        return False

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Takes a config or a layer, verified (see `Destination.put_blob`); may be called from several threads."""
        passed = verified(descriptor, chunks, name=self.name)
        if ".tar" not in descriptor.media_type:
            if descriptor.size > CONFIG_LIMIT:
                raise DocumentError(f"{self.name}: the config is longer than {CONFIG_LIMIT >> 20} MiB")
            self._small[descriptor.digest] = b"".join(passed)
            return
        with self._place.new_file() as file:
            diff_id, size = _decompress(passed, file.fd, name=self.name)
            with self._lock:
                if descriptor.digest not in self._layers:
                    # From here on `abort` and `commit` remove it.
                    self._layers[descriptor.digest] = (file.keep(), diff_id, size)

    def put_document(self, document: Document, *, root: bool) -> None:
        """Takes the image's manifest, of which the archive holds no copy. Raises UsageError for an index."""
        if document.is_index or not root:
            raise UsageError(f"{self.name}: a Docker archive holds one image; choose one with --platform")
        self._root = document

    def commit(self) -> None:
        """Writes the archive and gives it its name, or to standard output.

        Raises:
            DiffIdMismatchError: a layer is not what the config says.
            NotAnImageError: it is an artifact, which has no root filesystem.
            BlobNotFoundError: a layer was not put: a foreign one, that is kept elsewhere.
            DocumentError: the config has more or fewer diff IDs than there are layers.
        """
        if self._root is None:
            raise UsageError(f"{self.name}: no manifest was written")
        manifest = decode_manifest(self._root, name=self.name)
        self._check_complete(manifest)
        raw = self._small[manifest.config.digest]
        layers = [self._layers[layer.digest] for layer in manifest.layers]
        self._compare(decode_config(raw, name=f"{self.name}: config"), manifest.layers)
        self._tar = TarWriter(self._place)
        written: set[str] = set()
        for file, diff_id, size in layers:
            if diff_id not in written:
                written.add(diff_id)
                offset = self._tar.reserve(_layer_name(diff_id), size)
                self._tar.copy(file.fd, size, offset)
        config = manifest.config.digest.partition(":")[2] + ".json"
        self._tar.add(config, raw)
        listing = {
            "Config": config,
            "RepoTags": [str(self._reference)] if self._reference is not None else [],
            "Layers": [_layer_name(diff_id) for _, diff_id, _ in layers],
        }
        self._tar.add("manifest.json", msgspec.json.encode([listing]))
        self._tar.publish()
        self._forget()

    def abort(self) -> None:
        """Removes what was written."""
        self._forget()
        if self._tar is not None:
            self._tar.discard()

    def _check_complete(self, manifest: Manifest) -> None:
        known = manifest.config.digest in self._small
        if not known or any(layer.digest in self._small for layer in manifest.layers):
            kind = manifest.artifact_type or manifest.config.media_type
            raise NotAnImageError(f"{self.name}: a Docker archive holds images, and this is an artifact of type {kind}")
        for layer in manifest.layers:
            if layer.digest not in self._layers:
                raise BlobNotFoundError(
                    f"{self.name}: a Docker archive holds all layers, and the foreign layer {layer.digest} is not kept "
                    "with the image",
                    layer=layer.digest,
                )

    def _compare(self, config: ImageConfig, layers: tuple[Descriptor, ...]) -> None:
        expected = config.rootfs.diff_ids
        if len(expected) != len(layers):
            raise DocumentError(
                f"{self.name}: the manifest has {len(layers)} layers, but the config {len(expected)} diff IDs"
            )
        for layer, diff_id in zip(layers, expected, strict=True):
            seen = self._layers[layer.digest][1]
            if seen != diff_id:
                raise DiffIdMismatchError(
                    f"{self.name}: layer {layer.digest} should have the diff ID {diff_id}, but has {seen}",
                    layer=layer.digest,
                    expected=diff_id,
                    seen=seen,
                )

    def _forget(self) -> None:
        for file, _, _ in self._layers.values():
            file.discard()
        self._layers.clear()


def _layer_name(diff_id: str) -> str:
    return diff_id.partition(":")[2] + ".tar"


def _decompress(chunks: Iterator[bytes], destination: int, *, name: str) -> tuple[str, int]:
    """Decompresses a stream into a file; returns the diff ID and the number of bytes.

    The core reads from a pipe, in a thread, while the chunks come here.
    """
    result: list[tuple[str, int]] = []
    failure: list[OcifastError] = []
    reading, writing = os.pipe()

    def run() -> None:
        try:
            result.append(_core.decompress(reading, destination))
        except OcifastError as error:
            failure.append(type(error)(f"{name}: {error.message}", **error.context))
        finally:
            # Whoever still writes gets EPIPE instead of waiting for a reader that is gone.
            os.close(reading)

    thread = threading.Thread(target=run, name="ocifast-decompress")
    thread.start()
    try:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[pipe.write(view) :]
    except BrokenPipeError:
        # These may be other bytes than the descriptor says, which is known at their end, and says whose fault it is.
        for _ in chunks:
            pass
    finally:
        thread.join()
    if failure:
        raise failure[0]
    return result[0]
