"""Bytes of open files: written to the last one, copied within the kernel, or shared where the file system can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

__all__ = ["can_share_blocks", "clone_file", "copy_bytes", "copy_part", "share_blocks", "write_all"]

_FICLONE = 0x40049409
"""ioctl_ficlone(2)"""
_FICLONERANGE = 0x4020940D
"""ioctl_ficlonerange(2)"""


def write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Writes all of `data`, at the file's position or at `offset`, which may be done from several threads."""
    view = memoryview(data)
    while view:
        if offset is None:
            count = os.write(fd, view)
        else:
            count = os.pwrite(fd, view, offset)
            offset += count
        view = view[count:]


def can_share_blocks(source: int, destination: int) -> bool:
    """Whether an open, empty file can be a copy of another without copying, tried with one block; False if unsure.

    To share all blocks takes until they are on the disk: who knows beforehand does something else meanwhile.
    """
    try:
        block = os.fstatvfs(destination).f_bsize
        fcntl.ioctl(destination, _FICLONERANGE, struct.pack("=qQQQ", source, 0, block, 0))
    except OSError:
        return False
    return True


def share_blocks(source: int, destination: int) -> bool:
    """Makes an open, empty file the copy of another without copying; False where the file system cannot do that."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError:
        return False
    return True


def clone_file(source: int, destination: int) -> None:
    """Makes an open, empty file the copy of another: blocks are shared where the file system can do that, holes kept.

    Raises:
        OSError: as the system says it.
    """
    if share_blocks(source, destination):
        return
    size = os.fstat(source).st_size
    os.ftruncate(destination, size)
    start = 0
    while start < size:
        start, end = _next_data(source, start, size)
        copy_bytes(source, destination, end - start, start, source_offset=start)
        start = end


def copy_part(source: int, begin: int, size: int, destination: int, offset: int) -> None:
    """Copies a part of an open file to an offset of another, which has a hole there; holes are kept.

    Raises:
        OSError: as the system says it.
    """
    start, end = begin, begin + size
    while start < end:
        data, stop = _next_data(source, start, end)
        stop = min(stop, end)
        if data < stop:
            copy_bytes(source, destination, stop - data, offset + data - begin, source_offset=data)
        start = stop


def _next_data(fd: int, start: int, size: int) -> tuple[int, int]:
    """Where data begin and end from `start` on; all of it where holes cannot be asked for."""
    try:
        begin = os.lseek(fd, start, os.SEEK_DATA)
        return begin, os.lseek(fd, begin, os.SEEK_HOLE)
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
