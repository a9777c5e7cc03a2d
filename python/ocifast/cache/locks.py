"""Locks by key: among threads and processes, one at a time makes what has the key.

locks/KEY.lock      locked while it is made; holds what is told of the work meanwhile (`ocifast.cache.flight`)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from ocifast.cache.folder import CacheFolder
from ocifast.cache.following import never
from ocifast.errors import CancelledError
from ocifast.refusals import Lock, take_lock

__all__ = ["KeyLocks"]

_LONGEST_PAUSE = 0.1
"""Seconds between two tries to get a lock."""


class KeyLocks:
    """The locks of a cache.

    Args:
        folder: the cache's folder.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self._folder.locks() / f"{key}.lock"

    def take(self, key: str) -> int | None:
        """The open lock file of a key, ours until it is closed; None when somebody else has it.

        Where there are no locks it is ours and everybody's: what is made then is made twice, and is whole.

        Raises:
            OSError: it cannot be opened.
        """
        path = self.path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            try:
                if take_lock(fd, wait=False) is Lock.BUSY:
                    return None
                # It may have been removed between our opening and locking it.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), path.lstat()):
                        kept, fd = fd, -1
                        return kept
            finally:
                if fd >= 0:
                    os.close(fd)

    def wait(
        self,
        key: str,
        *,
        stopped: Callable[[], bool] = never,
        waiting: Callable[[], None] = lambda: None,
        patience: float | None = None,
    ) -> int | None:
        """The same, when whoever has it is done, or dead.

        Args:
            key: the key.
            stopped: whether it is not wanted any more.
            waiting: called each time that somebody else still has it.
            patience: seconds after which None is returned; None waits as long as it takes.

        Raises:
            CancelledError: `stopped` said so.
            OSError: it cannot be opened.
        """
        until = None if patience is None else time.monotonic() + patience
        pause = 0.002
        while (fd := self.take(key)) is None:
            if stopped():
                raise CancelledError("the work was stopped while another run did the same")
            if until is not None and time.monotonic() >= until:
                return None
            waiting()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return fd

    def forget(self, key: str) -> None:
        """Removes the lock file of a key that this run holds; runs that wait for it make another. Raises OSError."""
        self.path(key).unlink(missing_ok=True)
