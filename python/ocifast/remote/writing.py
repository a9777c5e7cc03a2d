"""What goes into a remote cache: an output or a decoded layer of this machine's as an artifact."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

import msgspec

from ocifast import _core
from ocifast.cache import CachedOutput
from ocifast.cache.kept import KeptFile
from ocifast.cache.layers import DecodedLayer
from ocifast.digests import OpenFile
from ocifast.refusals import processors
from ocifast.remote.form import DIFF_ID, FACTS, FILE, KEY, LAYER, OUTPUT, LayerFacts, OutputFacts, layer_tag
from ocifast.spec import OCI_MANIFEST, Descriptor, Document

__all__ = ["Artifact", "layer_artifact", "output_artifact"]

_LEVEL = 3
"""Of zstd: the network is slower than this, and a higher one hardly smaller."""


class Artifact:
    """A manifest and its blobs, which are in unnamed files until the block ends.

    Args:
        facts: about the files.
        files: open ones.
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
        facts: OutputFacts | LayerFacts,
        files: Iterable[int],
        *,
        kind: str,
        tag: str | None,
        subject: Document | None,
        annotations: dict[str, str],
    ) -> None:
        self.tag = tag
        self._stack = ExitStack()
        self._facts = msgspec.json.encode(facts)
        self._config = Descriptor(FACTS, _core.digest(self._facts), len(self._facts))
        try:
            self._layers = [self._compressed(file) for file in files]
        except BaseException:
            self._stack.close()
            raise
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": _named(self._config),
            "layers": [_named(descriptor) for descriptor, _ in self._layers],
            "annotations": annotations,
        }
        if subject is not None:
            manifest["subject"] = _named(subject.descriptor())
        self.document = Document(OCI_MANIFEST, json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode())

    def blobs(self) -> Iterator[tuple[Descriptor, Iterable[bytes]]]:
        """What the manifest names."""
        yield self._config, (self._facts,)
        for descriptor, fd in self._layers:
            yield descriptor, OpenFile(fd)

    def _compressed(self, file: int) -> tuple[Descriptor, int]:
        """A file as frames, in an open file of its own."""
        made = self._stack.enter_context(tempfile.TemporaryFile()).fileno()  # noqa: SIM115 - closed with the stack
        digest, size = _core.compress_frames(file, made, level=_LEVEL, threads=processors())
        return Descriptor(FILE, digest, size), made

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._stack.close()


def output_artifact(output: CachedOutput, key: str, image: Document) -> Artifact:
    """An output as a referrer of the image that it was made of. Raises OSError."""
    facts = OutputFacts(output.size, output.kept.digest, dict(output.facts))
    with output.path.open("rb", buffering=0) as file:
        return Artifact(facts, [file.fileno()], kind=OUTPUT, tag=None, subject=image, annotations={KEY: key})


def layer_artifact(layer: DecodedLayer, diff_id: str) -> Artifact:
    """A decoded layer under its tag. Raises OSError."""
    kept = msgspec.json.decode(layer.table.note, type=KeptFile)
    facts = LayerFacts(os.fstat(layer.entries).st_size, kept.size, kept.digest)
    files, tag = [layer.entries, layer.data], layer_tag(diff_id)
    return Artifact(facts, files, kind=LAYER, tag=tag, subject=None, annotations={DIFF_ID: diff_id})


def _named(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
