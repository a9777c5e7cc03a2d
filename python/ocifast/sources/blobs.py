"""Blobs of this machine: a slice of a file, or bytes in memory.

Files of layouts and archives belong to others and may be hostile (threat: a link in an image's folder to a file or FIFO
of the host): a link is followed only where `open_linked` says so, and only regular files are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast.errors import BlobNotFoundError, DocumentError, FileError
from ocifast.sources import CHUNK, FileSlice
from ocifast.spec import Descriptor

__all__ = ["BytesBlob", "FileBlob", "open_beneath", "open_linked", "read_all"]


class FileBlob:
    """A slice of a regular file. The file is opened when the first chunk is asked for."""

    local: FileSlice | None

    def __init__(self, path: Path, offset: int, length: int, *, name: str) -> None:
        """Args: `path` a regular file, `offset` and `length` in bytes, `name` how messages call the image."""
        self.local = FileSlice(path, offset, length)
        self._slice = self.local
        self._name = name

    @classmethod
    def of(cls, found: FileSlice | None, descriptor: Descriptor, offset: int, *, name: str) -> FileBlob:
        """A blob from byte `offset` on. `found` is the stored file of its digest.

        Reads at most one byte more than the descriptor says, so that an oversized blob is noticed.

        Raises:
            BlobNotFoundError: there is no such file.
        """
        if found is None:
            raise BlobNotFoundError(
                f"{name}: blob {descriptor.digest} is missing", reference=name, layer=descriptor.digest
            )
        length = max(min(found.length, descriptor.size + 1) - offset, 0)
        return cls(found.path, found.offset + offset, length, name=name)

    def __iter__(self) -> Iterator[bytes]:
        left = self._slice.length
        try:
            with self._slice.path.open("rb", buffering=0) as file:
                file.seek(self._slice.offset)
                while left and (chunk := file.read(min(CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise FileError(f"{self._name}: cannot read {self._slice.path}: {error.strerror}") from error

    def __enter__(self) -> FileBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass


class BytesBlob:
    """Bytes in memory."""

    local: FileSlice | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), CHUNK):
            yield self._data[start : start + CHUNK]

    def __enter__(self) -> BytesBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass


def open_beneath(folder: Path, *parts: str, name: str) -> int:
    """Opens a regular file in a folder for reading and returns its descriptor; the caller closes it.

    The folder itself may be a link, it is the user's own word; none of `parts` may.

    Raises:
        FileNotFoundError: it is not there.
        DocumentError: a part is a link, or the file is not a regular one.
        FileError: it cannot be opened.
    """
    shown = "/".join(parts)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    opened = -1
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            status = os.lstat(part, dir_fd=opened)
            if stat.S_ISLNK(status.st_mode):
                raise DocumentError(f"{name}: {shown} is a symbolic link; links inside of an image are not followed")
            if last and not stat.S_ISREG(status.st_mode):
                raise DocumentError(f"{name}: {shown} is not a regular file")
            # O_NONBLOCK: what was looked at may have been replaced by a FIFO since.
            kind = os.O_NONBLOCK if last else os.O_DIRECTORY
            inner = os.open(part, flags | kind, dir_fd=opened)
            os.close(opened)
            opened = inner
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise DocumentError(f"{name}: {shown} is not a regular file")
    except (FileNotFoundError, NotADirectoryError, DocumentError) as error:
        if opened >= 0:
            os.close(opened)
        if isinstance(error, NotADirectoryError):
            raise FileNotFoundError(shown) from error
        raise
    except OSError as error:
        if opened >= 0:
            os.close(opened)
        raise FileError(f"{name}: cannot read {folder / shown}: {error.strerror}") from error
    return opened


def open_linked(folder: Path, *parts: str, name: str, anywhere: bool = False) -> tuple[int, Path]:
    """Opens a regular file of a layout for reading, links followed; returns its descriptor and where it is.

    Links may lead to other files of the folder. A blob may stand elsewhere under its own name: that is another layout's
    blob (bazel's rules link those of the base image), and what is read there must have the digest anyway. `anywhere`
    lets all links lead where they will. Nothing is opened before it is known to be a regular file in such a place.

    Raises:
        FileNotFoundError: it is not there, or a link leads nowhere.
        DocumentError: not a regular file, or a link that leads elsewhere.
        FileError: it cannot be opened.
    """
    shown = "/".join(parts)
    held = -1
    try:
        held = os.open(folder.joinpath(*parts), os.O_PATH | os.O_CLOEXEC)
        status = os.fstat(held)
        where = Path(f"/proc/self/fd/{held}").readlink()
        is_blob = parts[0] == "blobs" and where.name == parts[-1]
        if not anywhere and not is_blob and not where.is_relative_to(os.path.realpath(folder)):
            raise DocumentError(
                f"{name}: {shown} is a symbolic link that leads out of the layout; --follow-links follows it"
            )
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"{name}: {shown} is not a regular file")
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), where
    except NotADirectoryError as error:
        raise FileNotFoundError(shown) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{name}: cannot read {folder / shown}: {error.strerror}", errno=error.errno) from error
    finally:
        if held >= 0:
            os.close(held)


def read_all(fd: int, limit: int, *, name: str, what: str) -> bytes:
    """Reads an open file whole and closes it.

    Raises:
        DocumentError: it is longer than `limit` bytes.
        FileError: reading failed.
    """
    try:
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FileError(f"{name}: cannot read {what}: {error.strerror}") from error
    if len(data) > limit:
        raise DocumentError(f"{name}: {what} is longer than {limit >> 20} MiB")
    return data
