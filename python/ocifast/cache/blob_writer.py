"""A blob on its way into the cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ocifast import _core
from ocifast.atomic import reported
from ocifast.cache.folder import CacheFolder
from ocifast.cache.following import End, Followed
from ocifast.errors import DigestMismatchError, FileError, LayerError, SizeMismatchError, VerificationError
from ocifast.file_data import write_all
from ocifast.leftovers import hold, private_name
from ocifast.refusals import Lock, take_lock
from ocifast.sources import CHUNK
from ocifast.spec import Descriptor

__all__ = ["BlobWriter"]


class BlobWriter:
    """A blob on its way into the cache.

    Bytes go to `HEX.part`. The file stays when the writer is closed before the end; the next writer hashes what is
    there and goes on after it. Other writers of the same blob follow the first one: their `beginning` hands on what it
    writes, and they take its place when it dies. A writer that is used without `beginning` has a file of its own, which
    does not stay.

    A writer that does not hash serves work that can do without a cache. When the disk is full or fails, it drops what
    it has, writes a line to the log, and ignores the rest.

    Attributes:
        path: where the bytes are until `commit`.
        offset: bytes that are there, of this run or of earlier ones.
        resume_offset: bytes that were there when the writer was opened; read them with `beginning`, after which there
            may be more.
    """

    def __init__(
        self,
        folder: CacheFolder,
        place: Path,
        descriptor: Descriptor,
        *,
        resume: bool,
        hashes: bool,
        patience: float,
        stopped: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._place = place
        self._descriptor = descriptor
        self._hasher = _core.Hasher(descriptor.digest.partition(":")[0]) if hashes else None
        self.offset = 0
        self.resume_offset = 0
        self.path, self._file = place, -1
        self._shared = False
        self._patience = patience
        self._stopped = stopped
        self._followed: Followed | None = None
        if not hashes and not folder.is_writable():
            return
        with self._forgiven(), reported(place):
            self._folder.prepare()
            for each in (self._place.parent.parent, self._place.parent):
                each.mkdir(mode=0o700, exist_ok=True)
            if not resume or not self._open_shared():
                self._open_own()

    @property
    def follows(self) -> bool:
        """Whether another run writes the blob, and `beginning` hands on what it writes."""
        return self._followed is not None

    def beginning(self) -> Iterator[bytes]:
        """The bytes that an earlier run has left, or that another one writes now, as they come.

        At its end `resume_offset` says where to go on: at the blob's size when nothing is left to be done.

        Raises:
            FileError: the disk fails.
            CancelledError: the blob is not wanted any more.
        """
        at = 0
        while self._followed is not None and at < self._descriptor.size:
            with reported(self.path):
                chunk = self._followed.read(at)
            if isinstance(chunk, End):
                with self._forgiven(), reported(self.path):
                    self._leave(chunk, at)
                break
            chunk = chunk[: self._descriptor.size - at]
            if self._hasher is not None:
                self._hasher.update(chunk)
            at += len(chunk)
            self.offset = self.resume_offset = at
            yield chunk
        while at < self.resume_offset:
            with reported(self.path):
                chunk = os.pread(self._file, min(CHUNK, self.resume_offset - at), at)
            if not chunk:
                raise FileError(f"{self.path} got shorter while it was read")
            at += len(chunk)
            yield chunk

    def settle(self) -> None:
        """Waits until a run that was followed to the blob's end has given it its name. Raises CancelledError."""
        if self._followed is not None:
            self._followed.settle()

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
        if self._followed is not None:
            with self._forgiven(), reported(self.path):
                self._leave(End.GONE, self.offset)
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
                # Not flushed: whoever reads it hashes it, and has it fetched again when a power failure has damaged it.
                self.path.rename(self._place)
                self._folder.grew(os.fstat(self._file).st_blocks * 512)
                self._release()

    def close(self) -> None:
        """Ends the writing; after `commit` it does nothing, before it what was written stays for the next run."""
        if self._followed is not None:
            self._followed.close()
            self._followed = None
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

    def _open_shared(self) -> bool:
        """Opens the file that all runs go on with, ours or another one's; False where it can be neither."""
        part = self._place.with_name(self._place.name + ".part")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Without locks nobody knows whether somebody writes to it.
            taken = take_lock(fd, wait=False)
            if taken is Lock.BUSY:
                self.path = part
                self._followed, fd = Followed(fd, part, self._patience, self._stopped), -1
                return True
            # Whoever had it may have finished, and given it its name, between our opening and locking it.
            if taken is Lock.HELD and os.path.samestat(os.fstat(fd), part.lstat()):
                ours, fd = fd, -1
                self._take(ours, part, 0)
                return True
            if taken is Lock.MISSING and os.fstat(fd).st_size == 0:
                part.unlink()
        except FileNotFoundError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        return False

    def _open_own(self) -> None:
        while True:
            own = self._place.with_name(private_name(".tmp"))
            file = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            # Until it is locked, another run may take it for a leftover.
            if hold(file, own):
                self.path, self._file = own, file
                return
            os.close(file)

    def _take(self, fd: int, part: Path, at: int) -> None:
        """Goes on with a shared file that is locked by us, of which `at` bytes are hashed."""
        self.path, self._file, self._shared = part, fd, True
        try:
            self._take_beginning(at)
        except BaseException:
            self.close()
            raise
        self.resume_offset = self.offset

    def _leave(self, end: End, at: int) -> None:
        """Follows no more, and goes on from byte `at`: with the same file where it is ours, without one otherwise."""
        followed, self._followed = self._followed, None
        if followed is None:
            return
        if end is End.OURS:
            fd, followed.fd = followed.fd, -1
            self._take(fd, self.path, at)
            return
        followed.close()
        if at == 0:
            self._open_own()

    def _take_beginning(self, at: int) -> None:
        length = os.fstat(self._file).st_size
        self.offset = at
        if length > self._descriptor.size:
            os.ftruncate(self._file, at)
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
        fd, self._file = self._file, -1
        os.close(fd)
