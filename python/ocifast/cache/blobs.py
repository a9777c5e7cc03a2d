"""Blobs by digest, and the beginnings of blobs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast import _core
from ocifast.atomic import publish_file, reported
from ocifast.cache.folder import CacheFolder
from ocifast.cache.kept import open_regular
from ocifast.errors import DigestMismatchError, FileError, LayerError, SizeMismatchError, VerificationError
from ocifast.file_data import write_all
from ocifast.leftovers import hold, private_name
from ocifast.refusals import Lock, flush_folder, take_lock
from ocifast.removal import remove_entry
from ocifast.sources import CHUNK, FileSlice
from ocifast.spec import Descriptor

__all__ = ["BlobStore", "BlobWriter"]

_log = logging.getLogger(__name__)


class BlobStore:
    """The blobs of a cache.

    Args:
        folder: the cache's folder.
        hashes: whether writers compare the digest. False is for callers who hash the bytes anyway, as flattening does,
            and call `BlobWriter.commit` only when they were right.
    """

    def __init__(self, folder: CacheFolder, *, hashes: bool = True) -> None:
        self._folder = folder
        self._hashes = hashes
        self._lent: dict[str, Descriptor] = {}

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
        self._lent[descriptor.digest] = descriptor
        return FileSlice(path, 0, descriptor.size)

    def mend(self) -> bool:
        """Whether something that was lent was damaged, or has gone since; it is removed, and may be asked for anew."""
        lent, self._lent = self._lent, {}
        whole = [self.verify(descriptor) for descriptor in lent.values()]
        return not all(whole)

    def is_empty(self) -> bool:
        """Whether there is no blob that may be used."""
        return not self._folder.is_readable() or not any((self._folder.path / "blobs").glob("*/*"))

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
        hasher = _core.Hasher(digest.partition(":")[0])
        hasher.update(data)
        if hasher.digest() != digest:
            self._drop(path, f"its digest is {hasher.digest()}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def verify(self, descriptor: Descriptor) -> bool:
        """Hashes the cached blob again; one that is damaged is removed. False when there is none, or no more."""
        found = self.get(descriptor)
        if found is None:
            return False
        hasher = _core.Hasher(descriptor.digest.partition(":")[0])
        try:
            with os.fdopen(open_regular(found.path), "rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    hasher.update(chunk)
        except (OSError, ValueError) as error:
            self._drop(found.path, error)
            return False
        if hasher.digest() == descriptor.digest:
            return True
        self._drop(found.path, f"its digest is {hasher.digest()}")
        return False

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Keeps a small blob. Raises SizeMismatchError, DigestMismatchError, FileError."""
        with self.writer(descriptor, resume=False) as writer:
            writer.write(data)
            writer.commit()

    def writer(self, descriptor: Descriptor, *, resume: bool = True) -> BlobWriter:
        """Begins to write a blob, or goes on where an earlier run ended.

        Raises:
            FileError: it cannot be written; not from a store that does not hash (see `BlobWriter`).
        """
        place = self._path(descriptor.digest)
        writer = BlobWriter(self._folder, place, descriptor, resume=resume, hashes=self._hashes)
        if writer.resume_offset:
            self._lent[descriptor.digest] = descriptor
        return writer

    def remove_partial(self, path: Path) -> bool:
        """Removes the beginning of a blob, unless somebody writes to it right now."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if take_lock(descriptor, wait=False) is Lock.BUSY:
                return False
            path.unlink()
        finally:
            os.close(descriptor)
        return True

    def _drop(self, path: Path, why: str | Exception) -> None:
        text = why.strerror if isinstance(why, OSError) else why
        _log.warning("cached blob %s is damaged: %s", path, text)
        with contextlib.suppress(OSError):
            remove_entry(path)

    def _path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self._folder.path / "blobs" / algorithm / encoded


class BlobWriter:
    """A blob on its way into the cache.

    Bytes go to `HEX.part`, which stays when the writer is closed before the end: the next one hashes what is there and
    goes on after it. While one writer has it, others of the same blob write to a file of their own and leave nothing.

    A writer that does not hash stands beside work that can do without a cache: when the disk is full or fails, it drops
    what it has, says so in the log, and lets the rest pass.

    Attributes:
        path: where the bytes are until `commit`.
        offset: bytes that are there, of this run or of earlier ones.
        resume_offset: bytes that were there when the writer was opened; read them with `beginning`.
    """

    def __init__(self, folder: CacheFolder, place: Path, descriptor: Descriptor, *, resume: bool, hashes: bool) -> None:
        self._folder = folder
        self._place = place
        self._descriptor = descriptor
        self._hasher = _core.Hasher(descriptor.digest.partition(":")[0]) if hashes else None
        self.offset = 0
        self.resume_offset = 0
        self.path, self._file = place, -1
        self._shared = False
        if not hashes and not folder.is_writable():
            return
        with self._forgiven(), reported(place):
            self.path, self._file = self._open(resume)
            self._shared = self.path.suffix == ".part"
            try:
                self._take_beginning()
            except BaseException:
                self.close()
                raise
            self.resume_offset = self.offset

    def beginning(self) -> Iterator[bytes]:
        """The bytes that an earlier run has left."""
        at = 0
        while at < self.resume_offset:
            with reported(self.path):
                chunk = os.pread(self._file, min(CHUNK, self.resume_offset - at), at)
            if not chunk:
                raise FileError(f"{self.path} got shorter while it was read")
            at += len(chunk)
            yield chunk

    def write(self, chunk: bytes) -> None:
        """Adds bytes.

        Raises:
            SizeMismatchError: more than the descriptor says.
            FileError: the disk is full, or fails.
        """
        if self.offset + len(chunk) > self._descriptor.size:
            self.drop()
            raise self._wrong_size(f"more than {self._descriptor.size}")
        if self._hasher is not None:
            self._hasher.update(chunk)
        if self._file >= 0:
            with self._forgiven(), reported(self.path):
                write_all(self._file, chunk, self.offset)
        self.offset += len(chunk)

    def commit(self) -> None:
        """Compares size and digest and gives the blob its name. Nothing stays of a wrong one.

        Raises:
            SizeMismatchError, DigestMismatchError: it is not what the descriptor means.
        """
        if self.offset != self._descriptor.size:
            self.drop()
            raise self._wrong_size(str(self.offset))
        seen = self._hasher.digest() if self._hasher is not None else self._descriptor.digest
        if seen != self._descriptor.digest:
            self.drop()
            hint = "; it went on from what an earlier run had left, which is now removed" if self.resume_offset else ""
            raise DigestMismatchError(
                f"a blob's digest should be {self._descriptor.digest}, but is {seen}{hint}",
                layer=self._descriptor.digest,
                expected=self._descriptor.digest,
                seen=seen,
            )
        if self._file >= 0:
            with self._forgiven(), reported(self._place):
                publish_file(self._file, self.path, self._place)
                flush_folder(self._place.parent)
                self._folder.grew(os.fstat(self._file).st_blocks * 512)
                self._release()

    def close(self) -> None:
        """Ends the writing; after `commit` it does nothing, before it what was written stays for the next run."""
        if self._file < 0:
            return
        if not self._shared or self.offset == 0:
            self.drop()
        else:
            self._release()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        # Bytes that were found wrong must not be gone on from.
        if isinstance(value, (VerificationError, LayerError)):
            self.drop()
        self.close()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except (FileError, OSError) as error:
            if self._hasher is not None:
                raise
            self._folder.failed(self._descriptor.digest, error)
            self.drop()

    def _open(self, resume: bool) -> tuple[Path, int]:
        self._folder.prepare()
        for folder in (self._place.parent.parent, self._place.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        if resume:
            part = self._place.with_name(self._place.name + ".part")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(part, flags, 0o600)
            try:
                # Without locks nobody knows whether somebody writes to it.
                taken = take_lock(file, wait=False)
                # Whoever had it may have finished, and given it its name, between our opening and locking it.
                if taken is Lock.HELD and os.path.samestat(os.fstat(file), part.lstat()):
                    return part, file
                if taken is Lock.MISSING and os.fstat(file).st_size == 0:
                    part.unlink()
            except FileNotFoundError:
                pass
            os.close(file)
        while True:
            own = self._place.with_name(private_name(".tmp"))
            file = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            # Until it is locked, another run may take it for a leftover.
            if hold(file, own):
                return own, file
            os.close(file)

    def _take_beginning(self) -> None:
        length = os.fstat(self._file).st_size
        if length > self._descriptor.size:
            os.ftruncate(self._file, 0)
            return
        if self._hasher is None:
            self.offset = length
        while self._hasher is not None and self.offset < length:
            chunk = os.pread(self._file, CHUNK, self.offset)
            if not chunk:
                break
            self._hasher.update(chunk)
            self.offset += len(chunk)

    def _wrong_size(self, seen: str) -> SizeMismatchError:
        return SizeMismatchError(
            f"blob {self._descriptor.digest} should be {self._descriptor.size} bytes long, but is {seen}",
            layer=self._descriptor.digest,
            expected=self._descriptor.size,
            seen=seen,
        )

    def drop(self) -> None:
        """Ends the writing and removes what was written."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._release()

    def _release(self) -> None:
        descriptor, self._file = self._file, -1
        os.close(descriptor)
