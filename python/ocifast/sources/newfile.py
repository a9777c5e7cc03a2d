"""Files that appear whole or not at all: written beside their place, flushed, renamed."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast.errors import FileError
from ocifast.refusals import flush

__all__ = ["NewFile", "clone_file", "copy_bytes", "reported", "write_all"]

_FICLONE = 0x40049409
"""ioctl_ficlone(2)"""


class NewFile:
    """A file under a name of its own in the folder where it shall be; gone unless it is published.

    Args:
        folder: where the file shall be, existing.
        mode: permissions before the umask.

    Attributes:
        path: the temporary name.
        descriptor: open for reading and writing, until `publish` or `discard`.

    Raises:
        FileError: it could not be made.
    """

    def __init__(self, folder: Path, *, mode: int = 0o666) -> None:
        self.path = folder / f".ocifast-{secrets.token_hex(8)}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with reported(folder):
            self.descriptor = os.open(self.path, flags, mode)

    def publish(self, place: Path) -> None:
        """Flushes the file to the disk and gives it its name, in place of a file that had it.

        The folder is not flushed: see `ocifast.refusals.flush_folder`.
        """
        with reported(place):
            flush(self.descriptor)
            self.path.rename(place)
        self._close()

    def discard(self) -> None:
        """Removes the file, if it was not published."""
        if self.descriptor >= 0:
            self._close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def keep(self) -> NewFile:
        """The same file in an object of its own, which this one no longer removes."""
        kept = copy.copy(self)
        self.descriptor = -1
        return kept

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.discard()


def write_all(descriptor: int, data: bytes, offset: int | None = None) -> None:
    """Writes all of `data`, at the file's position or at `offset`, which may be done from several threads."""
    view = memoryview(data)
    while view:
        if offset is None:
            count = os.write(descriptor, view)
        else:
            count = os.pwrite(descriptor, view, offset)
            offset += count
        view = view[count:]


def clone_file(source: int, destination: int) -> None:
    """Makes an open, empty file the copy of another: blocks are shared where the file system can do that, holes kept.

    Raises:
        OSError: as the system says it.
    """
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError:
        pass
    else:
        return
    size = os.fstat(source).st_size
    os.ftruncate(destination, size)
    start = 0
    while start < size:
        start, end = _next_data(source, start, size)
        copy_bytes(source, destination, end - start, start, source_offset=start)
        start = end


def _next_data(descriptor: int, start: int, size: int) -> tuple[int, int]:
    """Where data begin and end from `start` on; all of it where holes cannot be asked for."""
    try:
        begin = os.lseek(descriptor, start, os.SEEK_DATA)
        return begin, os.lseek(descriptor, begin, os.SEEK_HOLE)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (start, size)


def copy_bytes(source: int, destination: int, size: int, offset: int, *, source_offset: int = 0) -> None:
    """Copies `size` bytes of an open file to an offset of another, within the kernel where it can do that.

    What the kernel will not do, for whatever reason, is done by hand; a disk that fails then says so itself.
    """
    done = 0
    in_kernel = hasattr(os, "copy_file_range")
    while done < size:
        count = 0
        if in_kernel:
            with contextlib.suppress(OSError):
                count = os.copy_file_range(
                    source, destination, min(size - done, 1 << 30), source_offset + done, offset + done
                )
            in_kernel = count > 0
        if not in_kernel:
            chunk = os.pread(source, min(size - done, 1 << 20), source_offset + done)
            if not chunk:
                raise OSError(errno.EIO, "the file to copy from got shorter")
            write_all(destination, chunk, offset + done)
            count = len(chunk)
        done += count


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns an OSError into a FileError that names the place."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}", path=str(path)) from error
