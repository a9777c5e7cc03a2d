"""Trust in a kept file: what was true of it when it was published, compared when it is used.

At publication a file is made read-only, and its inode, size, times and digest are recorded. While the first four are
the recorded ones nobody has written to it through the file system (only root can set a ctime back), and in a folder
that is ours alone it is trusted without being read. Otherwise it is hashed. Damage below the file system changes none
of them: only hashing finds it.

Nobody waits until a kept file is on the disk: that may take longer than all the rest. Until the system starts again
the page cache has it, whatever becomes of this process. So the record names the boot in which the file was written, and
in any other one it is hashed when it is used first: a power failure may have left anything.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from ocifast import _core
from ocifast.file_data import can_share_blocks, share_blocks
from ocifast.models import readable
from ocifast.refusals import flush, processors

__all__ = ["KeptFile", "copy_with_digest", "file_digest", "open_kept", "open_regular", "seal", "this_boot"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""random(4): made anew when the system starts."""


@readable
class KeptFile(msgspec.Struct, frozen=True):
    """What was true of a file when it was published.

    Attributes:
        inode: its number.
        size: in bytes.
        mtime: when it was written last, in nanoseconds since 1970.
        ctime: when its inode changed last, in the same way; a rename counts.
        digest: of its bytes, by whatever rule its kind has.
        boot: in which it was written, when nobody has waited for the disk; empty when it is on the disk.
    """

    inode: int
    size: int
    mtime: int
    ctime: int
    digest: str
    boot: str = ""

    @classmethod
    def of(cls, fd: int, digest: str, boot: str = "") -> KeptFile:
        """What an open file is now, which must have its last name."""
        status = os.fstat(fd)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest, boot)

    def describes(self, fd: int) -> bool:
        """Whether an open file is this one, and was not written to since."""
        return KeptFile.of(fd, self.digest, self.boot) == self

    @property
    def is_settled(self) -> bool:
        """Whether its bytes are those that were written: it is on the disk, or the system was not started since."""
        return self.boot in ("", this_boot())


@functools.cache
def this_boot() -> str:
    """What is different each time the system starts; empty where it does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except (OSError, ValueError):
        return ""


def file_digest(fd: int) -> str:
    """The digest of a file by its chunks, hashed side by side (`_core.file_digest`): holes cost nothing to read."""
    return _core.file_digest(fd, threads=processors())


def copy_with_digest(source: int, destination: int) -> str:
    """Makes an open, empty file the copy of another, with shared blocks where that can be; returns its `file_digest`.

    Raises:
        OSError, FileError: it cannot be read or written.
    """
    # Of the source, where blocks are shared: the same bytes, as nobody else writes to it meanwhile. Those that were
    # written just now are in memory; shared blocks would be read from the disk again.
    digest = None
    if can_share_blocks(source, destination):
        # What is shared must be on the disk: it goes there while it is hashed.
        _core.start_writeback(source)
        digest = file_digest(source)
    if share_blocks(source, destination):
        return digest or file_digest(source)
    return _core.copy_file(source, destination, threads=processors())


def seal(fd: int) -> str:
    """Makes a finished file read-only, and brings it to the disk where the system does not say when it started.

    Args:
        fd: the file; nothing may write to it, or link to it, after.

    Returns:
        The `KeptFile.boot` of its record.

    Raises:
        OSError: it could not be done.
    """
    os.fchmod(fd, stat.S_IRUSR)
    boot = this_boot()
    if not boot:
        flush(fd)
    return boot


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
        restored, or the system was started since, and it is the same.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is another one; the message says in what.
    """
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        if status.st_size != kept.size:
            raise ValueError(f"{path.name} has {status.st_size} bytes of {kept.size}")
        unchanged = kept.describes(fd)
        if always or not unchanged or not kept.is_settled:
            seen = digest(fd)
            if seen != kept.digest:
                raise ValueError(f"the digest of {path.name} should be {kept.digest}, but is {seen}")
        if not unchanged:
            # Whoever copied or restored it need not have waited for the disk.
            now = KeptFile.of(fd, kept.digest, this_boot())
        else:
            # What has been there since before this start of the system was read from the disk.
            now = kept if kept.is_settled else KeptFile.of(fd, kept.digest)
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
