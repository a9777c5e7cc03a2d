"""A root filesystem that is no image: one layer, for which a manifest and a config are made.

Both are functions of the layer's bytes, and so is the image's digest; they hold no path, name or time of this machine.
The architecture of such a filesystem is unknown: the config states Linux alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from ocifast import _core
from ocifast.digests import digest_and_size
from ocifast.errors import CompressionError, FileError, LimitError
from ocifast.sources import FileSlice
from ocifast.sources.made import Closing, MadeSource
from ocifast.sources.stdin import STDIN
from ocifast.sources.unpacked import Unpacked
from ocifast.spec import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Document

__all__ = ["SingleLayerSource", "open_tar"]

_TYPES = ((b"\x1f\x8b", OCI_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", OCI_LAYER_ZSTD))


class SingleLayerSource(MadeSource):
    """An image of one layer.

    Args:
        path: of the layer's blob.
        descriptor: of the blob.
        diff_id: of its tar.
        name: how the user wrote the place.
        held: closed by `close`.
    """

    def __init__(self, path: Path, descriptor: Descriptor, diff_id: str, *, name: str, held: Closing) -> None:
        config_raw = msgspec.json.encode(
            {
                "architecture": "",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        )
        config = Document(OCI_CONFIG, config_raw)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": [descriptor],
        }
        document = Document(OCI_MANIFEST, msgspec.json.encode(manifest))
        layers = {descriptor.digest: FileSlice(path, 0, descriptor.size)}
        super().__init__(document, config, layers, name=name, held=held)


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
            digest, size = digest_and_size(file)
            diff_id = digest if kind == OCI_LAYER else _diff_id(file, name)
        return SingleLayerSource(tar.path, Descriptor(kind, digest, size), diff_id, name=name, held=tar)
    except BaseException:
        tar.close()
        raise


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
