"""Trust in a kept file: what was true of it when it was published, compared when it is used.

At publication a file is made read-only, and its inode, size, times and digest are recorded. While the first four are
the recorded ones nobody has written to it through the file system, and in a folder that is ours alone it is trusted
without being read. Otherwise it is hashed. Damage below the file system changes none of them: only hashing finds it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.refusals import flush

__all__ = ["KeptFile", "open_kept", "seal"]

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


class KeptFile(msgspec.Struct, frozen=True):
    """What was true of a file when it was published; times in nanoseconds since 1970."""

    inode: int
    size: int
    mtime: int
    ctime: int
    digest: str


def seal(fd: int) -> KeptFile:
    """Makes a finished file read-only, brings it to the disk, and records it. Raises OSError.

    Args:
        fd: the file, open for reading; nothing may write to it, or link to it, after.
    """
    os.fchmod(fd, stat.S_IRUSR)
    flush(fd)
    return _record(fd, _digest(fd))


def open_kept(path: Path, kept: KeptFile, *, always: bool = False) -> tuple[int, KeptFile]:
    """Opens a kept file that is what it was when it was published.

    Args:
        path: in a folder that is ours alone.
        kept: as `seal` has recorded it.
        always: hashes it even when nothing has changed.

    Returns:
        The open file, which the caller closes, and the record as it is now: another one when the file was copied or
        restored, and is the same.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is another one; the message says in what.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        if status.st_size != kept.size:
            raise ValueError(f"{path.name} has {status.st_size} bytes of {kept.size}")
        now = _record(fd, kept.digest)
        if always or now != kept:
            seen = _digest(fd)
            if seen != kept.digest:
                raise ValueError(f"the digest of {path.name} should be {kept.digest}, but is {seen}")
    except BaseException:
        os.close(fd)
        raise
    return fd, now


def _record(fd: int, digest: str) -> KeptFile:
    status = os.fstat(fd)
    return KeptFile(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)


def _digest(fd: int) -> str:
    """SHA-256 over each chunk that is not all zeros, after its offset, and the size: holes cost nothing to read."""
    hasher = _core.Hasher("sha256")
    size = os.fstat(fd).st_size
    at = 0
    while at < size:
        at = _next_data(fd, at, size)
        chunk = os.pread(fd, _CHUNK, at)
        if not chunk:
            break
        if chunk != _ZEROS[: len(chunk)]:
            hasher.update(at.to_bytes(8, "little"))
            hasher.update(chunk)
        at += _CHUNK
    hasher.update(size.to_bytes(8, "little"))
    return hasher.digest()


def _next_data(fd: int, at: int, size: int) -> int:
    """The chunk of the next data from the beginning of a chunk on."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // _CHUNK * _CHUNK
    except OSError as error:
        # ENXIO: only a hole follows. Where holes cannot be asked for, all is data.
        return size if error.errno == errno.ENXIO else at
