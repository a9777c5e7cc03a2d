"""What flattening takes: an image's layers, where their blobs are kept, and where contents wait."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import TracebackType
from typing import Protocol

from ocifast.sources import Blob, FileSlice
from ocifast.spec import Descriptor

__all__ = ["BlobStore", "BlobWriter", "Layered", "Store"]


class Store(Enum):
    """Where contents wait while layers arrive; the values are those of `_core.Flattener`."""

    SPOOL = "spool"
    """In files of their own, for every output."""
    DIRECTORY = "directory"
    """In one file for each, which a directory takes as they are."""
    EROFS = "erofs"
    """In the erofs image that they are for."""
    EROFS_BLOCKS = "erofs-blocks"
    """The same in whole blocks."""

    @property
    def in_order(self) -> bool:
        """Whether layers stand in order, so that one that runs ahead is copied once more."""
        return self in (Store.EROFS, Store.EROFS_BLOCKS)

    @property
    def may_wait_elsewhere(self) -> bool:
        """Whether contents may wait on another file system than the output's."""
        return self is Store.SPOOL


class Layered(Protocol):
    """What flattening takes of an image."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Descriptors of the layers, bottom layer first."""
        ...

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the decompressed layers, one for each of `layers`."""
        ...

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer from byte `offset` on."""
        ...

    def close(self) -> None:
        """Breaks off what is being read, from any thread; nothing can be read after."""
        ...


class BlobWriter(Protocol):
    """A blob on its way into a store; leaving it without `commit` keeps what is there for another try."""

    resume_offset: int
    """Bytes that an earlier try left."""

    def beginning(self) -> Iterator[bytes]:
        """The bytes that an earlier try left."""
        ...

    def write(self, chunk: bytes, /) -> object:
        """Takes the next bytes."""
        ...

    def commit(self) -> object:
        """All bytes are there and verified: keep them under their digest."""
        ...

    def __enter__(self) -> BlobWriter: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class BlobStore(Protocol):
    """Where verified blobs are kept between runs."""

    def get(self, descriptor: Descriptor) -> FileSlice | None:
        """The blob, if it is there with its size."""
        ...

    def writer(self, descriptor: Descriptor) -> BlobWriter:
        """Begins to keep the blob, or goes on where an earlier try stopped."""
        ...
