"""Calls that a file system, a container or a kernel may refuse, and that the work can do without (docs/refusals.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from ocifast.logs import logger

__all__ = ["Lock", "flush", "flush_folder", "flush_renames", "locked_folder", "processors", "take_lock"]

_log = logger(__name__)

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.EPERM})
"""NFS without a lock daemon, Lustre without `flock`, filters of system calls; NFS wants a file open for writing."""

_NO_FLUSH = frozenset(
    {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS, errno.EPERM, errno.EACCES, errno.ENOTTY}
)
"""CIFS, FUSE and virtiofs cannot flush a folder; a folder may be one that we write to and cannot read."""


class Lock(Enum):
    """What came of taking a lock."""

    HELD = "held"
    """This opening has it until it is closed."""
    BUSY = "busy"
    """Another opening has it."""
    MISSING = "missing"
    """The file system has no locks: whether another opening uses the file cannot be known."""


def take_lock(fd: int, *, wait: bool) -> Lock:
    """Locks an open file or folder against other processes and other openings (flock(2)).

    Without locks the work goes on: outputs are published by a rename, and so are always whole. Only the removal of
    unused files must be left out.

    Raises:
        OSError: the system failed in another way.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return Lock.BUSY
        if error.errno in _NO_LOCKS:
            return Lock.MISSING
        raise
    return Lock.HELD


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Has processes that write to a folder come one after the other.

    The lock is on the folder itself, so that no file of ours stays in somebody's folder. Where there are no locks, of
    two that come at one moment the last one wins.

    Raises:
        OSError: the folder cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_lock(fd, wait=True)
        yield
    finally:
        os.close(fd)


def flush(fd: int) -> None:
    """Brings a file's bytes to the disk, where that can be asked for.

    Raises:
        OSError: the disk is full, or fails.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def flush_folder(folder: Path) -> None:
    """Makes renames in a folder last through a power failure, where that can be asked for.

    It comes after the rename, when all that was asked for is done: a failing disk is a warning.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            _log.warning("%s may not survive a power failure: %s", folder, error.strerror)
        return
    try:
        flush_renames(fd, folder)
    finally:
        os.close(fd)


def flush_renames(fd: int, folder: Path) -> None:
    """The same for an open folder, which warnings call by its path."""
    try:
        flush(fd)
    except OSError as error:
        _log.warning("%s may not survive a power failure: %s", folder, error.strerror)


def processors() -> int:
    """How many processors we may use; all that there are where that cannot be asked for."""
    try:
        return len(os.sched_getaffinity(0))
    except OSError:
        return os.cpu_count() or 1
