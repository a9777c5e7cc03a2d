"""Blobs by digest: found, verified, and written by a `BlobWriter`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from ocifast.cache.blob_writer import BlobWriter
from ocifast.cache.folder import CacheFolder
from ocifast.cache.following import never
from ocifast.cache.kept import open_regular
from ocifast.cache.points import BlobPoints, PointStore
from ocifast.digests import OpenFile, digest_of
from ocifast.logs import logger
from ocifast.refusals import Lock, take_lock
from ocifast.removal import remove_entry
from ocifast.sources import FileSlice
from ocifast.spec import Descriptor

__all__ = ["BlobStore", "BlobWriter", "LentBlobs"]

_log = logger(__name__)


class BlobStore:
    """The blobs of a cache.

    Args:
        folder: the cache's folder.
        hashes: whether writers compare the digest. False is for callers who hash the bytes anyway, as flattening does,
            and call `BlobWriter.commit` only when they were right.

    Attributes:
        patience: seconds without a new byte until a blob that another run fetches is fetched here as well.
    """

    def __init__(self, folder: CacheFolder, *, hashes: bool = True) -> None:
        self._folder = folder
        self._hashes = hashes
        self._points = PointStore(folder)
        self.patience = 30.0

    def get(self, descriptor: Descriptor) -> FileSlice | None:
        """Where the blob stands, or None. That it can be read, and its size, is looked at each time.

        Its digest is compared by who reads it; see `verify`.
        """
        if not self._folder.is_readable():
            return None
        path = self._path(descriptor.digest)
        try:
            fd = open_regular(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._drop(path, error)
            return None
        try:
            size = os.fstat(fd).st_size
            if size != descriptor.size:
                self._drop(path, f"{size} bytes of {descriptor.size}")
                return None
            with contextlib.suppress(OSError):
                os.utime(fd)
        finally:
            os.close(fd)
        return FileSlice(path, 0, descriptor.size, self.points(descriptor))

    def points(self, descriptor: Descriptor) -> BlobPoints:
        """The restart points of a blob, if there are some."""
        return self._points.of(descriptor.digest)

    def lend(self) -> LentBlobs:
        """The blobs as one run uses them, which remembers what it was lent."""
        return LentBlobs(self)

    def is_empty(self) -> bool:
        """Whether there is no blob that may be used."""
        return not self._folder.is_readable() or not any((self._folder.path / "blobs").glob("*/*"))

    def is_writable(self) -> bool:
        """Whether more may be kept."""
        return self._folder.is_writable()

    def failed(self, descriptor: Descriptor, error: Exception) -> None:
        """Takes note that a blob could not be kept (see `CacheFolder.failed`)."""
        self._folder.failed(descriptor.digest, error)

    def find(self, digest: str, limit: int) -> bytes | None:
        """The bytes of a small blob whose size is not known, verified, or None."""
        if not self._folder.is_readable():
            return None
        path = self._path(digest)
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._drop(path, error)
            return None
        if len(data) > limit:
            return None
        seen = digest_of([data], digest.partition(":")[0])
        if seen != digest:
            self._drop(path, f"its digest is {seen}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def verify(self, descriptor: Descriptor) -> bool:
        """Hashes the cached blob again; one that is damaged is removed. False when there is none, or no more."""
        found = self.get(descriptor)
        if found is None:
            return False
        try:
            with os.fdopen(open_regular(found.path), "rb", buffering=0) as file:
                seen = digest_of(OpenFile(file.fileno()), descriptor.digest.partition(":")[0])
        except (OSError, ValueError) as error:
            self._drop(found.path, error)
            return False
        if seen == descriptor.digest:
            return True
        self._drop(found.path, f"its digest is {seen}")
        return False

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Keeps a small blob. Raises SizeMismatchError, DigestMismatchError, FileError."""
        with self.writer(descriptor, resume=False) as writer:
            writer.write(data)
            writer.commit()

    def writer(self, descriptor: Descriptor, *, resume: bool = True, stopped: Callable[[], bool] = never) -> BlobWriter:
        """Begins to write a blob, goes on where an earlier run ended, or follows one that writes it now.

        Args:
            descriptor: of the blob.
            resume: False for a new beginning, whatever there is.
            stopped: whether the blob is not wanted any more; asked while another run is followed.

        Raises:
            FileError: it cannot be written; not from a store that does not hash (see `BlobWriter`).
        """
        place = self._path(descriptor.digest)
        return BlobWriter(
            self._folder,
            place,
            descriptor,
            resume=resume,
            hashes=self._hashes,
            patience=self.patience,
            stopped=stopped,
        )

    def remove_partial(self, path: Path) -> bool:
        """Removes the beginning of a blob, unless somebody writes to it right now."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if take_lock(fd, wait=False) is Lock.BUSY:
                return False
            path.unlink()
        finally:
            os.close(fd)
        return True

    def _drop(self, path: Path, why: str | Exception) -> None:
        text = why.strerror if isinstance(why, OSError) else why
        _log.warning("cached blob %s is damaged: %s", path, text)
        with contextlib.suppress(OSError):
            remove_entry(path)
        with contextlib.suppress(OSError):
            self._points.remove(f"{path.parent.name}:{path.name}")

    def _path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self._folder.path / "blobs" / algorithm / encoded


class LentBlobs:
    """What one run uses of the blobs of a cache, remembered until the run ends: all of it may be damaged.

    Safe to use from several threads.

    Args:
        store: lends the blobs.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lent: dict[str, Descriptor] = {}
        # These are neither gone on from nor followed again: whoever writes what is damaged may write on.
        self._anew: set[str] = set()

    def get(self, descriptor: Descriptor) -> FileSlice | None:
        """See `BlobStore.get`."""
        found = self._store.get(descriptor)
        if found is not None:
            self._lent[descriptor.digest] = descriptor
        return found

    def points(self, descriptor: Descriptor) -> BlobPoints:
        """See `BlobStore.points`."""
        return self._store.points(descriptor)

    def writer(self, descriptor: Descriptor, *, stopped: Callable[[], bool] = never) -> BlobWriter:
        """See `BlobStore.writer`; a blob that was damaged is begun anew."""
        writer = self._store.writer(descriptor, resume=descriptor.digest not in self._anew, stopped=stopped)
        if writer.resume_offset or writer.follows:
            self._lent[descriptor.digest] = descriptor
        return writer

    @property
    def lent(self) -> tuple[Descriptor, ...]:
        """All that was lent."""
        return tuple(self._lent.values())

    def mend(self, descriptors: Collection[Descriptor]) -> bool:
        """Whether one of these was damaged, or has gone since it was lent; it is removed, and may be asked for anew.

        Then all of them are begun anew where they are not whole: they are not found to be damaged one after the other.
        """
        damaged = False
        # An image may name a blob many times.
        for each in {each.digest: each for each in descriptors}.values():
            used = each.digest in self._lent or self._store.get(each) is not None
            if used and not self._store.verify(each):
                self._lent.pop(each.digest, None)
                damaged = True
        if damaged:
            self._anew.update(each.digest for each in descriptors)
        return damaged
