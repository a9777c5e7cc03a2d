"""Blobs that another run is writing into the cache: read while they grow, and gone on with when that run dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from ocifast.errors import CancelledError
from ocifast.refusals import Lock, take_lock
from ocifast.sources import CHUNK

__all__ = ["End", "Followed", "never"]

_LONGEST_PAUSE = 0.1
"""Seconds between two looks at a file that does not grow."""


class End(Enum):
    """Why a blob does not grow any more."""

    OURS = "ours"
    """The other run died or stopped. This one has locked its file, which may hold more bytes than were read."""
    GONE = "gone"
    """The other run gave it up, or wrote nothing for too long."""


class Followed:
    """The file that another run writes a blob to.

    Args:
        fd: of the file, open for reading and writing; closed by `close`, unless it became ours.
        part: the name that it has while it is written.
        patience: seconds without a new byte until it is done without: whoever writes it may be stopped, or wait for
            something that waits for us.
        stopped: whether nobody wants the bytes any more.
    """

    def __init__(self, fd: int, part: Path, patience: float, stopped: Callable[[], bool]) -> None:
        self.fd = fd
        self._part = part
        self._patience = patience
        self._stopped = stopped

    def read(self, at: int) -> bytes | End:
        """The bytes from `at` on, as soon as there are some; or why there will be none.

        Raises:
            CancelledError: nobody wants them any more.
            OSError: the disk fails.
        """
        for _ in self._looks():
            if os.fstat(self.fd).st_nlink == 0:
                # Given up: what is in it may be wrong.
                return End.GONE
            if chunk := os.pread(self.fd, CHUNK, at):
                return chunk
            match take_lock(self.fd, wait=False):
                case Lock.MISSING:
                    return End.GONE
                case Lock.HELD if self._is_named():
                    return End.OURS
                case Lock.HELD:
                    # It has its last name, or none any more.
                    fcntl.flock(self.fd, fcntl.LOCK_UN)
                    return os.pread(self.fd, CHUNK, at) or End.GONE
        return End.GONE

    def settle(self) -> None:
        """Waits until the other run has published the file or released its lock. Raises CancelledError."""
        for _ in self._looks():
            if take_lock(self.fd, wait=False) is not Lock.BUSY:
                return

    def close(self) -> None:
        """Lets go of the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _looks(self) -> Iterator[None]:
        """Time and again, until patience ends."""
        until = time.monotonic() + self._patience
        pause = 0.002
        while True:
            yield
            if self._stopped():
                raise CancelledError("the work was stopped while another run fetched a blob for it")
            if time.monotonic() >= until:
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_named(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.fd), self._part.lstat())
        return False


def never() -> bool:
    """False: the work is wanted to its end."""
    return False
