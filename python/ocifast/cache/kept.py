"""Trust in a kept file: what was true of it when it was published, compared when it is used.

At publication a file is made read-only, and its inode, size, times and digest are recorded. While the first four are
the recorded ones nobody has written to it through the file system (only root can set a ctime back), and in a folder
that is ours alone it is trusted without being read. Otherwise it is hashed. Damage below the file system changes none
of them: only hashing finds it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.file_data import share_blocks
from ocifast.refusals import flush, processors

__all__ = ["KeptFile", "copy_with_digest", "file_digest", "open_kept", "open_regular", "seal"]


class KeptFile(msgspec.Struct, frozen=True):
    """What was true of a file when it was published.

    Attributes:
        inode: its number.
        size: in bytes.
        mtime: when it was written last, in nanoseconds since 1970.
        ctime: when its inode changed last, in the same way; a rename counts.
        digest: of its bytes, by whatever rule its kind has.
    """

    inode: int
    size: int
    mtime: int
    ctime: int
    digest: str

    @classmethod
    def of(cls, fd: int, digest: str) -> KeptFile:
        """What an open file is now, which must have its last name."""
        status = os.fstat(fd)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)


def file_digest(fd: int) -> str:
    """The digest of a file by its chunks, hashed side by side (`_core.file_digest`): holes cost nothing to read."""
    return _core.file_digest(fd, threads=processors())


def copy_with_digest(source: int, destination: int, *, shared_only: bool = False) -> str | None:
    """Makes an open, empty file the copy of another, with shared blocks where that can be; returns its `file_digest`.

    With `shared_only` nothing is copied where blocks cannot be shared, and None is returned.

    Raises:
        OSError, FileError: it cannot be read or written.
    """
    if share_blocks(source, destination):
        return file_digest(destination)
    return None if shared_only else _core.copy_file(source, destination, threads=processors())


def seal(fd: int) -> None:
    """Makes a finished file read-only and brings it to the disk. Raises OSError.

    Args:
        fd: the file; nothing may write to it, or link to it, after.
    """
    os.fchmod(fd, stat.S_IRUSR)
    flush(fd)


def open_kept(
    path: Path, kept: KeptFile, *, always: bool = False, digest: Callable[[int], str] = file_digest
) -> tuple[int, KeptFile]:
    """Opens a kept file that is what it was when it was published.

    Args:
        path: in a folder that is ours alone.
        kept: its record.
        always: hashes it even when nothing has changed.
        digest: the rule by which it is hashed.

    Returns:
        The open file, which the caller closes, and the record as it is now: another one when the file was copied or
        restored, and is the same.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is another one; the message says in what.
    """
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        if status.st_size != kept.size:
            raise ValueError(f"{path.name} has {status.st_size} bytes of {kept.size}")
        now = KeptFile.of(fd, kept.digest)
        if always or now != kept:
            seen = digest(fd)
            if seen != kept.digest:
                raise ValueError(f"the digest of {path.name} should be {kept.digest}, but is {seen}")
    except BaseException:
        os.close(fd)
        raise
    return fd, now


def open_regular(path: Path) -> int:
    """Opens a file for reading, and waits for nobody: others may have put a FIFO there.

    Raises:
        OSError: it is not there, is a link, or cannot be read.
        ValueError: it is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"{path.name} is not a regular file")
    return fd
