"""What the processes of one machine may ask of one host together: slots that are locked files, and a pause for all.

The folder belongs to the user: `$XDG_RUNTIME_DIR/ocifast`, or else `ocifast-UID` in the temporary folder. Where it
cannot be had, or has no locks, each process has its own limit, as always.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from ocifast.refusals import Lock, take_lock

__all__ = ["SharedLimit"]

_LONGEST_PAUSE = 600.0
"""Seconds: a clock that was set back must not stop everybody."""


class SharedLimit:
    """The limit of one host.

    Args:
        host: `HOST[:PORT]`.
    """

    def __init__(self, host: str) -> None:
        self._folder = _folder(hashlib.sha256(host.encode()).hexdigest()[:32])

    def try_slot(self, kind: str, most: int) -> int | None:
        """A slot that no other process has; None while all are taken.

        Args:
            kind: of slots.
            most: how many there are.

        Returns:
            An open file, whose closing gives the slot back; -1 where nothing can be shared.
        """
        if self._folder is None:
            return -1
        # Processes begin at different places, lest all try the slots of the first ones.
        first = os.getpid()
        for number in range(most):
            path = self._folder / f"{kind}-{(first + number) % most}.lock"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                return -1
            taken = Lock.MISSING
            try:
                taken = take_lock(fd, wait=False)
            finally:
                if taken is not Lock.HELD:
                    os.close(fd)
            if taken is Lock.HELD:
                return fd
            if taken is Lock.MISSING:
                return -1
        return None

    def pause(self, seconds: float) -> None:
        """Has every process wait so long, unless they wait longer already."""
        if self._folder is None:
            return
        until = time.time() + seconds
        with contextlib.suppress(OSError):
            path = self._folder / "pause"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if self.pause_left() < seconds:
                    os.utime(fd, (until, until))
            finally:
                os.close(fd)

    def pause_left(self) -> float:
        """Seconds until anybody may ask again; 0 or less for now."""
        if self._folder is None:
            return 0.0
        try:
            until = (self._folder / "pause").stat().st_mtime
        except OSError:
            return 0.0
        return min(until - time.time(), _LONGEST_PAUSE)


def _folder(name: str) -> Path | None:
    """A folder that is ours alone; None where there is none."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime, "ocifast") if runtime else Path(tempfile.gettempdir(), f"ocifast-{os.geteuid()}")
    place = base / "limits" / name
    try:
        for folder in (base, base / "limits", place):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None
    except OSError:
        return None
    return place
