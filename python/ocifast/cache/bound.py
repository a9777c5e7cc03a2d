"""How large a cache may become, and whether it is: what it takes is known without looking at all of it.

`use.json` says how much was there when it was counted last; each run adds what it has kept. Past the bound, and once a
day because of what killed runs did not add, it is counted anew.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import msgspec

from ocifast.errors import UsageError
from ocifast.models import readable
from ocifast.refusals import Lock, take_lock
from ocifast.sizes import parse_size

__all__ = ["Use", "default_bound"]

_SHARE = 10
"""Per cent of the file system that a cache may take by default."""
_MOST = 16 << 30
"""Bytes that it may take by default."""
_DAY = 24 * 3600


def default_bound(folder: Path) -> int | None:
    """Bytes that a cache in a folder may take: `OCIFAST_CACHE_SIZE`, or 10 % of its file system, at most 16 GiB.

    Returns:
        None when the variable is `none`.

    Raises:
        UsageError: the variable is no size.
    """
    text = os.environ.get("OCIFAST_CACHE_SIZE", "")
    if text == "none":
        return None
    if text:
        try:
            return parse_size(text)
        except ValueError as error:
            raise UsageError(f"OCIFAST_CACHE_SIZE: {error}, or none") from None
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
        size = found.f_blocks * found.f_frsize
        return min(size * _SHARE // 100, _MOST) if size else _MOST
    return _MOST


@readable
class _Counted(msgspec.Struct, frozen=True):
    size: int
    at: float


class Use:
    """What a cache takes, as it was written down.

    Args:
        folder: of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "use.json"

    def add(self, growth: int) -> int | None:
        """Adds bytes; returns how many there are by now, or None when they must be counted. Raises OSError."""
        fd = self._open()
        try:
            if take_lock(fd, wait=True) is not Lock.HELD:
                return None
            try:
                counted = msgspec.json.decode(os.pread(fd, 4096, 0), type=_Counted)
            except ValueError:
                return None
            if not 0 <= time.time() - counted.at < _DAY:
                return None
            if growth:
                counted = _Counted(counted.size + growth, counted.at)
                self._write(fd, counted)
            return counted.size
        finally:
            os.close(fd)

    def set(self, size: int) -> None:
        """Writes down what was counted. Raises OSError."""
        fd = self._open()
        try:
            take_lock(fd, wait=True)
            self._write(fd, _Counted(size, time.time()))
        finally:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            # Others may have put a FIFO there.
            os.close(fd)
            self._path.unlink()
            fd = os.open(self._path, flags | os.O_EXCL, 0o600)
        return fd

    def _write(self, fd: int, counted: _Counted) -> None:
        data = msgspec.json.encode(counted)
        # Cut in between, it is no JSON, and all is counted again.
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
