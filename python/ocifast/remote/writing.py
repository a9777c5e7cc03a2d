"""What goes into a remote cache: an output or a decoded layer of this machine's as an artifact."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from ocifast import _core
from ocifast.cache import CachedOutput
from ocifast.cache.kept import KeptFile
from ocifast.cache.layers import DecodedLayer
from ocifast.remote.form import DIFF_ID, KEY, LAYER, OUTPUT, TAR, LayerFacts, OutputFacts, layer_tag
from ocifast.signatures.making import EMPTY
from ocifast.spec import OCI_EMPTY, OCI_MANIFEST, Descriptor, Document

__all__ = ["Artifact", "layer_artifact", "output_artifact"]

_LEVEL = 3
"""Of zstd: the network is slower than this, and a higher one hardly smaller."""
_CHUNK = 1 << 20


class Artifact:
    """A manifest and its blob, which stands in a file without a name until the block ends.

    Args:
        files: the members of the tar, by name; a file by its path, or bytes.
        kind: artifact type.
        tag: that it gets; None for a referrer.
        subject: that it refers to.
        annotations: of the manifest.

    Attributes:
        document: the manifest.
        tag: that it gets.
    """

    def __init__(
        self,
        files: Iterable[tuple[str, Path | bytes]],
        *,
        kind: str,
        tag: str | None,
        subject: Document | None,
        annotations: dict[str, str],
    ) -> None:
        self.tag = tag
        self._stack = ExitStack()
        self._file = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the stack
        try:
            rows = [_row(name, content) for name, content in files]
            digest, size, _ = _core.write_layer(rows, self._file.fileno(), 0, compression="zstd", level=_LEVEL)
        except BaseException:
            self._stack.close()
            raise
        self._layer = Descriptor(TAR, digest, size)
        self._empty = Descriptor(OCI_EMPTY, _core.digest(EMPTY), len(EMPTY))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": _named(self._empty),
            "layers": [_named(self._layer)],
            "annotations": annotations,
        }
        if subject is not None:
            manifest["subject"] = _named(subject.descriptor())
        self.document = Document(OCI_MANIFEST, json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode())

    def blobs(self) -> Iterator[tuple[Descriptor, Iterable[bytes]]]:
        """What the manifest names."""
        yield self._empty, (EMPTY,)
        yield self._layer, _Chunks(self._file.fileno(), self._layer.size)

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._stack.close()


class _Chunks:
    """The bytes of an open file, from the beginning each time."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self._size, _CHUNK):
            yield os.pread(self._fd, min(_CHUNK, self._size - at), at)


def output_artifact(output: CachedOutput, key: str, image: Document) -> Artifact:
    """An output as a referrer of the image that it was made of."""
    facts = OutputFacts(output.size, output.kept.digest, dict(output.facts))
    files: list[tuple[str, Path | bytes]] = [("facts.json", msgspec.json.encode(facts)), ("output", output.path)]
    return Artifact(files, kind=OUTPUT, tag=None, subject=image, annotations={KEY: key})


def layer_artifact(layer: DecodedLayer, diff_id: str) -> Artifact:
    """A decoded layer under its tag."""
    kept = msgspec.json.decode(layer.table.note, type=KeptFile)
    files: list[tuple[str, Path | bytes]] = [
        ("facts.json", msgspec.json.encode(LayerFacts(kept.digest))),
        ("layer.entries", Path(f"/proc/self/fd/{layer.entries}")),
        ("layer.erofs", Path(f"/proc/self/fd/{layer.data}")),
    ]
    return Artifact(files, kind=LAYER, tag=layer_tag(diff_id), subject=None, annotations={DIFF_ID: diff_id})


def _row(name: str, content: Path | bytes) -> tuple[bytes, int, str, bytes, int, int, int, int, int]:
    if isinstance(content, bytes):
        return name.encode(), 0o600, "bytes", content, len(content), 0, 0, 0, 0
    return name.encode(), 0o600, "file", os.fsencode(content), content.stat().st_size, 0, 0, 0, 0


def _named(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
