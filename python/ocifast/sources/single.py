"""A root filesystem that is no image: one layer, for which a manifest and a config are made.

Both are functions of the layer's bytes, so the image's digest is one of the layer; no path, name or time of this
machine stands in them. What the filesystem is for is not known: the config states Linux, and no architecture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import msgspec

from ocifast import _core
from ocifast.errors import BlobNotFoundError, CompressionError, FileError, LimitError
from ocifast.sources import CHUNK, FileSlice
from ocifast.sources.blobs import BytesBlob, FileBlob
from ocifast.sources.stdin import STDIN
from ocifast.sources.unpacked import Unpacked
from ocifast.spec import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Document

__all__ = ["SingleLayerSource", "open_tar"]

_TYPES = ((b"\x1f\x8b", OCI_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", OCI_LAYER_ZSTD))


class Closing(Protocol):
    """What lasts as long as a source."""

    def close(self) -> None:
        """Ends it."""
        ...


class SingleLayerSource:
    """An image of one layer.

    Args:
        path: of the layer's blob.
        descriptor: of the blob.
        diff_id: of its tar.
        name: how the user wrote the place.
        held: closed by `close`.
    """

    def __init__(self, path: Path, descriptor: Descriptor, diff_id: str, *, name: str, held: Closing) -> None:
        self.name = name
        self._held = held
        self._layer = (descriptor, FileSlice(path, 0, descriptor.size))
        config = {
            "architecture": "",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
        self._config = Document(OCI_CONFIG, msgspec.json.encode(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._config.descriptor(),
            "layers": [descriptor],
        }
        self._manifest = Document(OCI_MANIFEST, msgspec.json.encode(manifest))

    def root(self) -> Document:
        """The manifest that was made (see `Source.root`)."""
        return self._manifest

    def document(self, descriptor: Descriptor) -> Document:
        """There are no others (see `Source.document`)."""
        if descriptor.digest != self._manifest.digest:
            raise BlobNotFoundError(f"{self.name}: there is no manifest {descriptor.digest}", reference=self.name)
        return self._manifest

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether it is the manifest (see `Source.holds`)."""
        return descriptor.digest == self._manifest.digest

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> FileBlob | BytesBlob:
        """The layer or the config (see `Source.blob`)."""
        if descriptor.digest == self._config.digest:
            return BytesBlob(self._config.raw[offset:])
        layer, found = self._layer
        return FileBlob.of(found if descriptor.digest == layer.digest else None, descriptor, offset, name=self.name)

    def close(self) -> None:
        """Removes what was made for it."""
        self._held.close()


def open_tar(path: Path, *, name: str) -> SingleLayerSource:
    """A tar as an image. It is read once for its digests.

    gzip and zstd are read where they stand; what comes through a pipe, xz and bzip2 wait in a temporary file.

    Raises:
        DocumentError, UsageError, CompressionError, LimitError, FileError: see `Unpacked`.
    """
    tar = Unpacked(path, name=name, inflate=False)
    try:
        shown = "standard input" if path == STDIN else str(path)
        with _reported(name, shown), tar.path.open("rb", buffering=0) as file:
            magic = file.read(4)
            kind = next((kind for known, kind in _TYPES if magic.startswith(known)), OCI_LAYER)
            file.seek(0)
            digest, size = _digest(file)
            diff_id = digest if kind == OCI_LAYER else _diff_id(file, name)
        return SingleLayerSource(tar.path, Descriptor(kind, digest, size), diff_id, name=name, held=tar)
    except BaseException:
        tar.close()
        raise


def _digest(file: IO[bytes]) -> tuple[str, int]:
    hasher, size = _core.Hasher(), 0
    while chunk := file.read(CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.digest(), size


def _diff_id(file: IO[bytes], name: str) -> str:
    file.seek(0)
    with Path(os.devnull).open("wb") as nowhere:
        try:
            return _core.decompress(file.fileno(), nowhere.fileno())[0]
        except (CompressionError, LimitError) as error:
            raise type(error)(f"{name}: {error.message}", **error.context) from None


@contextlib.contextmanager
def _reported(name: str, shown: str) -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{name}: cannot read {shown}: {error.strerror or error}", errno=error.errno) from error
