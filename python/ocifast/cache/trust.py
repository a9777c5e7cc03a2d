"""When a kept file is believed without reading it.

At publication a file is made read-only, and what the file system says of it is recorded with its digest. While inode,
size, mtime and ctime are the same, nobody has written to it through the file system: only root can set a ctime back.
Otherwise it is hashed. Damage below the file system changes none of the four; hashing always finds that, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

__all__ = ["Recorded", "is_trusted"]


class Recorded(msgspec.Struct, frozen=True):
    """What was true of a file when it was published.

    Attributes:
        inode: its number.
        size: in bytes.
        mtime: in nanoseconds, as `ctime`.
        ctime: when its inode changed last.
        digest: of its bytes, by whatever rule its kind has.
    """

    inode: int
    size: int
    mtime: int
    ctime: int
    digest: str

    @classmethod
    def of(cls, status: os.stat_result, digest: str) -> Recorded:
        """What a file is now. Its name is its last one: a rename changes the ctime."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)


def is_trusted(
    recorded: Recorded, status: os.stat_result, digest: Callable[[], str], *, always_hash: bool = False
) -> bool:
    """Whether a file is still the one that was published.

    Args:
        recorded: at its publication.
        status: of the open file.
        digest: hashes it; called only where that is needed.
        always_hash: needs it always.
    """
    if status.st_size != recorded.size:
        return False
    if not always_hash and Recorded.of(status, recorded.digest) == recorded:
        return True
    return digest() == recorded.digest
