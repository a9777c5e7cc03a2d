"""Blobs of a runnable on their way to a destination, each byte once where the destination allows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ocifast import _core
from ocifast.progress import Event, LayerState, Phase, Progress
from ocifast.runnable.checks import COMPRESSIONS
from ocifast.runnable.config import BuiltLayer
from ocifast.runnable.options import RunnableOptions
from ocifast.sources import Destination, DirectDestination
from ocifast.sources.blobs import FileBlob
from ocifast.sources.watched import Watched, stepwise
from ocifast.spec import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, Document

if TYPE_CHECKING:
    import tempfile

    from ocifast.image import Image
    from ocifast.layers.members import Member, Row

__all__ = ["BuildWriter"]

_MEDIA_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_STEP = 4 << 20
"""Bytes between two events of progress."""


class BuildWriter:
    """Writes the blobs of one build.

    A layer's digest is known when its last byte is written. Archives and layouts give a place that gets its name only
    then, and the core writes straight into it; for a registry the layer waits in a temporary file, as uploads start
    with the question whether the blob is there already.

    Args:
        destination: where they go; committed or aborted by the caller.
        runnable: how layers are compressed.
        progress: told of each blob.
    """

    def __init__(self, destination: Destination, runnable: RunnableOptions, progress: Progress) -> None:
        self.destination = destination
        self._progress = progress
        self._compression = runnable.compression
        self._level = COMPRESSIONS[runnable.compression][2] if runnable.level is None else runnable.level
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written: dict[tuple[Member, ...], BuiltLayer] = {}

    def write(self, members: Sequence[Member], comment: str) -> BuiltLayer:
        """Writes a layer; the same members again give the layer that is there."""
        known = self._written.get(tuple(members))
        if known is not None:
            return BuiltLayer(known.descriptor, known.diff_id, comment)
        self._progress(Event(Phase.PACKING, total=sum(member.size for member in members)))
        rows = [member.row() for member in members]
        if isinstance(self.destination, DirectDestination):
            built = self._write_directly(self.destination, rows, comment)
        else:
            built = self._write_and_put(rows, comment)
        self._written[tuple(members)] = built
        return built

    def put(self, document: Document) -> None:
        """Writes a small blob."""
        descriptor = document.descriptor()
        if not self.destination.has_blob(descriptor):
            self.destination.put_blob(descriptor, [document.raw])

    def copy(self, original: Descriptor, descriptor: Descriptor, image: Image) -> None:
        """Copies a layer of a base image.

        Args:
            original: as the base calls it.
            descriptor: as the new image calls it.
            image: the base.
        """
        if self.destination.has_blob(descriptor):
            self._tell(descriptor, LayerState.EXISTS)
        elif not self.destination.mount_blob(descriptor, image.source):
            with image.blob(original) as blob:
                self.destination.put_blob(descriptor, self._watched(descriptor, blob))
            self._tell(descriptor, LayerState.UPLOADED)
        else:
            self._tell(descriptor, LayerState.EXISTS)

    def _write_directly(self, destination: DirectDestination, rows: list[Row], comment: str) -> BuiltLayer:
        slot = destination.open_slot()
        try:
            built = self._layer(rows, slot.fd, slot.offset, comment)
            slot.complete(built.descriptor)
        except BaseException:
            slot.discard()
            raise
        self._tell(built.descriptor, LayerState.UPLOADED)
        return built

    def _write_and_put(self, rows: list[Row], comment: str) -> BuiltLayer:
        if self._folder is None:
            import tempfile

            self._folder = tempfile.TemporaryDirectory(prefix="ocifast-runnable-")
        path = Path(self._folder.name, "layer")
        with path.open("w+b") as file:
            built = self._layer(rows, file.fileno(), 0, comment)
        descriptor = built.descriptor
        if self.destination.has_blob(descriptor):
            self._tell(descriptor, LayerState.EXISTS)
        else:
            blob = FileBlob(path, 0, descriptor.size, name=self.destination.name)
            self.destination.put_blob(descriptor, self._watched(descriptor, blob))
            self._tell(descriptor, LayerState.UPLOADED)
        path.unlink()
        return built

    def _layer(self, rows: list[Row], file: int, offset: int, comment: str) -> BuiltLayer:
        digest, size, diff_id = _core.write_layer(rows, file, offset, compression=self._compression, level=self._level)
        return BuiltLayer(Descriptor(_MEDIA_TYPES[self._compression], digest, size), diff_id, comment)

    def _tell(self, descriptor: Descriptor, state: LayerState) -> None:
        self._progress(Event(Phase.PACKING, descriptor.digest, state, descriptor.size, descriptor.size))

    def _watched(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> Watched:
        def tell(done: int) -> None:
            self._progress(Event(Phase.PACKING, descriptor.digest, LayerState.UPLOADING, done, descriptor.size))

        return Watched(chunks, lambda: stepwise(tell, _STEP))

    def __enter__(self) -> BuildWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()
