"""Where images are read from and written to.

A `Source` is one reference at one place: a repository of a registry, an image layout, an archive. Its core is four
members; all that a caller wants beyond (platform choice, verification, flattening) is derived once, in `image`.
A `Destination` is the other end of a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ocifast.records import dataclass

if TYPE_CHECKING:
    from ocifast.spec import Descriptor, Document

__all__ = [
    "CHUNK",
    "AttachedSource",
    "Blob",
    "BlobSlot",
    "Destination",
    "DirectDestination",
    "FileDestination",
    "FileSlice",
    "IndirectSource",
    "KeepingSource",
    "NamedSource",
    "ReferredSource",
    "RestartPoints",
    "Source",
]

CHUNK = 256 << 10
"""Bytes of a chunk that local sources hand on; a registry hands on what the network gives."""


@dataclass(frozen=True)
class FileSlice:
    """Bytes that stand in a local file, so that the core reads them itself.

    Attributes:
        path: a regular file.
        offset: first byte.
        length: number of bytes.
        points: the restart points of the blob that it is, where those are kept.
    """

    path: Path
    offset: int
    length: int
    points: RestartPoints | None = field(default=None, compare=False, repr=False)


class RestartPoints(Protocol):
    """Restart points of a blob that is kept: from where it can be inflated (see `ocifast.cache.points`)."""

    def open(self) -> int | None:
        """An open file with them, to be closed; None when there are none."""
        ...

    def layer(self) -> Any:
        """The `_core.LayerTable` of the blob's layer; None when it is not known."""
        ...

    def begin(self) -> Any:
        """New files to note them in, `points` and `entries`; None where nothing can be kept."""
        ...

    def publish(self, made: Any, /, *, entries: bool) -> None:
        """Keeps what `begin` gave, complete; the entries only if they are."""
        ...

    def drop(self, why: str | Exception, /) -> None:
        """Removes them, because they are damaged."""
        ...


class Blob(Protocol):
    """A blob opened for reading: iterate it once for its bytes, in order, and close it (`with`).

    The bytes are *not verified*: the reader compares size and digest. At most the descriptor's
    size (less the offset asked for) plus one byte is handed on.
    """

    local: FileSlice | None
    """Set when all bytes are in a local file already; iterating works as well."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __enter__(self) -> Blob: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Source(Protocol):
    """One image or index at one place. Safe to use from several threads."""

    name: str
    """How a user writes it; in messages. Never holds a credential."""

    def root(self) -> Document:
        """The manifest or index that the reference names, verified when the reference has a digest.

        Raises:
            ImageNotFoundError, NotAnImageError, DocumentError, RegistryError.
        """
        ...

    def document(self, descriptor: Descriptor) -> Document:
        """A child manifest or index by its descriptor, verified; its media type is the descriptor's.

        Raises:
            BlobNotFoundError, VerificationError, DocumentError, RegistryError.
        """
        ...

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether a child manifest or index is there, as far as that is known without asking a server.

        Layouts and archives may leave out the images of an index that their writer had not got. A registry has all that
        its indexes name: True.
        """
        ...

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a config or a layer. Nothing has been read when this returns, but for what opening takes.

        Args:
            descriptor: of the blob.
            offset: first byte that is wanted, when an earlier download left the bytes before it; from 0 to the size.

        Raises:
            BlobNotFoundError, RegistryError; iterating raises RegistryError and FileError.
        """
        ...

    def close(self) -> None:
        """Gives connections and files back; the source cannot be used after."""
        ...


@runtime_checkable
class NamedSource(Source, Protocol):
    """A source whose name may come to mean something else, and which can say what it means without fetching it."""

    def digest(self) -> str:
        """Digest of the manifest or index that the reference names now.

        Raises:
            ImageNotFoundError, RegistryError, DigestInvalidError.
        """
        ...


@runtime_checkable
class AttachedSource(Source, Protocol):
    """A source that has more than its image: what refers to it, as signatures do."""

    def tagged(self, tag: str) -> Document | None:
        """The manifest or index of another tag of the same repository or layout; None when there is none.

        Raises:
            NotAnImageError, DocumentError, RegistryError.
        """
        ...

    def referring(self, digest: str) -> Iterable[Descriptor]:
        """Manifests that have the manifest `digest` as their subject, wherever the image is.

        Raises:
            DocumentError, RegistryError.
        """
        ...


@runtime_checkable
class ReferredSource(Source, Protocol):
    """A source in one repository, of which manifests can be listed by their subject."""

    def referrers(self, digest: str) -> Iterable[Descriptor]:
        """Manifests in the same repository that have the manifest `digest` as their subject.

        Raises:
            RegistryError, DocumentError.
        """
        ...


@runtime_checkable
class IndirectSource(Source, Protocol):
    """A source that reads another one and keeps what it fetches."""

    @property
    def origin(self) -> Source:
        """That other one, which blobs can be mounted from and which lists referrers."""
        ...


@runtime_checkable
class KeepingSource(Source, Protocol):
    """A source that keeps what it fetches in files of this machine."""

    def keep(self, descriptor: Descriptor, passed: Callable[[int], None]) -> FileSlice | None:
        """Brings a blob into a file, where it may be already. Its bytes are *not verified*.

        Args:
            descriptor: of the blob.
            passed: gets the number of bytes that are there, now and then.

        Returns:
            None when it could not be kept.

        Raises:
            BlobNotFoundError, RegistryError, VerificationError.
        """
        ...

    def mend(self, descriptor: Descriptor) -> bool:
        """Whether what was kept of a blob was damaged, or has gone; it is removed, and may be asked for anew."""
        ...


class Destination(Protocol):
    """The place an image is written to. Safe to use from several threads until `commit` or `abort`."""

    name: str
    """How a user writes it; in messages."""
    is_remote: bool
    """Whether it is a registry, to which blobs are sent; else they are written to this machine's files."""
    holds_indexes: bool
    """Whether it takes an index; else it takes one image alone."""

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        """The blobs that will be put, in the order of the manifest; optional, and before the first of them.

        A place that is one stream (an archive) keeps this order whatever the order of arrival, so that the same image
        gives the same bytes; all others do nothing.
        """
        ...

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there already, with this size."""
        ...

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """Takes the blob from `source` without its bytes passing through here, where that is possible."""
        ...

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Writes a blob and verifies its size and digest on the way; nothing stays of one that does not match."""
        ...

    def put_document(self, document: Document, *, root: bool) -> None:
        """Writes a manifest or index byte for byte, after all that it names; `root` gives it the destination's name."""
        ...

    def commit(self) -> None:
        """Makes all of it visible at once, where the place allows it."""
        ...

    def abort(self) -> None:
        """Takes back what `commit` has not made visible."""
        ...


@runtime_checkable
class FileDestination(Destination, Protocol):
    """A destination that holds blobs as files, which may share their extents with others."""

    def put_file(self, descriptor: Descriptor, file: FileSlice) -> None:
        """Does what `put_blob` does, from a file; what is there is another file, never a second name of this one."""
        ...


class BlobSlot(Protocol):
    """Room for one blob whose digest is known only when all of it is written."""

    fd: int
    """A file descriptor, open for reading and writing."""
    offset: int
    """Where the blob's first byte goes; there is room to the end of the file."""

    def complete(self, descriptor: Descriptor) -> None:
        """Gives what was written its name. Size and digest are the writer's word: the bytes are not read again."""
        ...

    def discard(self) -> None:
        """Takes back what was written, unless it is complete."""
        ...


@runtime_checkable
class DirectDestination(Destination, Protocol):
    """A destination in local files, that the core can write a new blob into without a copy."""

    def open_slot(self) -> BlobSlot:
        """Room for a blob. Until it is completed or discarded, nothing else may be written here."""
        ...
