"""An image of one manifest, which was made here: documents in memory, layers in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ocifast.errors import BlobNotFoundError
from ocifast.sources import FileSlice
from ocifast.sources.blobs import BytesBlob, FileBlob
from ocifast.spec import Descriptor, Document

__all__ = ["Closing", "MadeSource"]


class Closing(Protocol):
    """What lasts as long as a source."""

    def close(self) -> None:
        """Ends it."""
        ...


class MadeSource:
    """An image that was made (see `ocifast.sources.Source`).

    Args:
        manifest: of it.
        config: of it.
        layers: the blobs of its layers, by digest.
        name: how messages call it.
        held: closed by `close`.
    """

    def __init__(
        self, manifest: Document, config: Document, layers: Mapping[str, FileSlice], *, name: str, held: Closing
    ) -> None:
        self.name = name
        self._manifest, self._config = manifest, config
        self._layers, self._held = layers, held

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
        """A layer or the config (see `Source.blob`)."""
        if descriptor.digest == self._config.digest:
            return BytesBlob(self._config.raw[offset:])
        return FileBlob.of(self._layers.get(descriptor.digest), descriptor, offset, name=self.name)

    def close(self) -> None:
        """Lets go of the layers, and removes what was made for them."""
        self._held.close()
