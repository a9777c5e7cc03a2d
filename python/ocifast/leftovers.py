"""What killed runs leave: recognised by a private name, and by a lock that no process holds any more.

A private name is `.ocifast-` with 16 random hexadecimal digits and 16 that are computed from them, so that no other
program's name is taken for one. A run that makes a file or folder of such a name holds a lock on it while it uses it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ocifast import _core
from ocifast.patterns import pattern
from ocifast.refusals import Lock, take_lock
from ocifast.removal import remove_folder

__all__ = ["hold", "is_private", "open_folder", "private_name", "sweep"]

_NAME = pattern(r"\.ocifast-([0-9a-f]{16})([0-9a-f]{16})(?:\.tmp)?")


def private_name(suffix: str = "") -> str:
    """A new private name for a file or folder.

    Args:
        suffix: `.tmp` for a file that waits for its name, nothing for a folder.
    """
    digits = os.urandom(8).hex()
    return f".ocifast-{digits}{_check_digits(digits)}{suffix}"


def is_private(name: str) -> bool:
    """Whether `private_name` has made this name."""
    match = _NAME.fullmatch(name)
    return match is not None and _check_digits(match[1]) == match[2]


def hold(fd: int, name: str | os.PathLike[str], folder: int | None = None) -> bool:
    """Locks a new file or folder of a private name until it is closed.

    On a file system without locks nothing is swept: it cannot be known what is in use.

    Args:
        fd: the file or folder, open.
        name: its path, or its name in `folder`.
        folder: an open folder.

    Returns:
        False when another run has taken it for a leftover before it was locked: a new one is to be made.
    """
    take_lock(fd, wait=True)
    return _is_still(fd, name, folder)


def open_folder(path: str | os.PathLike[str]) -> int:
    """Opens a folder by its path, also one that may be written to and not read; the caller closes it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def sweep(folder: int) -> None:
    """Removes what dead runs of this user have left in an open folder; what cannot be removed is let be."""
    for name in _private_names(folder):
        # O_NONBLOCK: a FIFO of that name must not hold us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open(name, flags, dir_fd=folder)
            try:
                _remove_leftover(name, folder, fd)
            finally:
                os.close(fd)


def _remove_leftover(name: str, folder: int, fd: int) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder == name.endswith(".tmp") or not (is_folder or stat.S_ISREG(status.st_mode)):
        return
    # Where there are no locks a dead run cannot be told from a living one.
    if take_lock(fd, wait=False) is not Lock.HELD:
        return
    if is_folder:
        remove_folder(name, folder, fd)
    elif _is_still(fd, name, folder):
        os.unlink(name, dir_fd=folder)


def _private_names(folder: int) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from [entry.name for entry in entries if is_private(entry.name)]


def _is_still(fd: int, name: str | os.PathLike[str], folder: int | None) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _check_digits(digits: str) -> str:
    return _core.digest(b"a private name of ocifast: " + digits.encode()).partition(":")[2][:16]
