"""Blobs by digest, and the beginnings of blobs."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ocifast import _core
from ocifast.atomic import publish_file, reported
from ocifast.errors import DigestMismatchError, FileError, LayerError, SizeMismatchError, VerificationError
from ocifast.file_data import write_all
from ocifast.refusals import Lock, flush_folder, take_lock
from ocifast.sources import CHUNK, FileSlice
from ocifast.spec import Descriptor

__all__ = ["BlobStore", "BlobWriter"]

_log = logging.getLogger(__name__)


class BlobStore:
    """The blobs of a cache.

    Args:
        folder: the cache's folder.
        prepare: makes or checks it; called before anything is read or written.
        hashes: whether writers compare the digest. False is for callers who hash the bytes anyway, as flattening does,
            and call `BlobWriter.commit` only when they were right.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None], *, hashes: bool = True) -> None:
        self._folder = folder
        self._prepare = prepare
        self._hashes = hashes

    def get(self, descriptor: Descriptor) -> FileSlice | None:
        """Where the blob stands, or None. Its size is compared each time; see `verify` for its digest.

        Raises:
            FileError: the cache is not to be trusted (see `Cache.prepare`).
        """
        self._prepare()
        path = self._path(descriptor.digest)
        try:
            status = path.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size != descriptor.size:
            _log.warning("cached blob %s is damaged: %d bytes of %d", path, status.st_size, descriptor.size)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return FileSlice(path, 0, descriptor.size)

    def is_empty(self) -> bool:
        """Whether there is no blob. Raises FileError: the cache is not to be trusted."""
        self._prepare()
        return not any((self._folder / "blobs").glob("*/*"))

    def find(self, digest: str, limit: int) -> bytes | None:
        """The bytes of a small blob whose size is not known, verified, or None.

        Raises:
            FileError: the cache is not to be trusted (see `Cache.prepare`).
        """
        self._prepare()
        try:
            size = self._path(digest).lstat().st_size
        except OSError:
            return None
        descriptor = Descriptor("", digest, size)
        if size > limit or not self.verify(descriptor):
            return None
        return self._path(digest).read_bytes()

    def verify(self, descriptor: Descriptor) -> bool:
        """Hashes the cached blob again; one that is damaged is removed. False when there is none, or no more."""
        found = self.get(descriptor)
        if found is None:
            return False
        hasher = _core.Hasher(descriptor.digest.partition(":")[0])
        with reported(found.path), found.path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
        if hasher.digest() == descriptor.digest:
            return True
        _log.warning("cached blob %s is damaged: its digest is %s", found.path, hasher.digest())
        found.path.unlink(missing_ok=True)
        return False

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Keeps a small blob. Raises SizeMismatchError, DigestMismatchError, FileError."""
        with self.writer(descriptor, resume=False) as writer:
            writer.write(data)
            writer.commit()

    def writer(self, descriptor: Descriptor, *, resume: bool = True) -> BlobWriter:
        """Begins to write a blob, or goes on where an earlier run ended.

        Raises:
            FileError: it cannot be written, or the cache is not to be trusted.
        """
        self._prepare()
        path = self._path(descriptor.digest)
        with reported(path):
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            return BlobWriter(path, descriptor, resume=resume, hashes=self._hashes)

    def remove_partial(self, path: Path) -> bool:
        """Removes the beginning of a blob, unless somebody writes to it right now."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if take_lock(descriptor, wait=False) is Lock.BUSY:
                return False
            path.unlink()
        finally:
            os.close(descriptor)
        return True

    def _path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self._folder / "blobs" / algorithm / encoded


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

    def __init__(self, place: Path, descriptor: Descriptor, *, resume: bool, hashes: bool) -> None:
        self._place = place
        self._descriptor = descriptor
        self._hasher = _core.Hasher(descriptor.digest.partition(":")[0]) if hashes else None
        self.offset = 0
        self.resume_offset = 0
        self.path, self._file = place, -1
        self._shared = False
        with self._forgiven():
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
            _log.warning("%s is not cached: %s", self._descriptor.digest, error)
            self.drop()

    def _open(self, resume: bool) -> tuple[Path, int]:
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
        own = self._place.with_name(f".{self._place.name}.{os.urandom(8).hex()}.tmp")
        return own, os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

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
