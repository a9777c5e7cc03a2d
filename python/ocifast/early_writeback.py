"""Bringing a file to the disk while it is written, so that little is left to wait for at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ocifast import _core

__all__ = ["EarlyWriteback"]

PAUSE: Final = 0.1
"""Seconds between two looks at the file."""
LEAST: Final = 16 << 20
"""Bytes that must have come before more of it is written."""


class EarlyWriteback:
    """Has the system write a file to the disk from a thread, again and again as it grows.

    It waits for no disk, and asks for no error: what fails is told to who flushes the file in the end. Where no thread
    can be had, or the system has no such call, nothing comes early.

    Args:
        paths: names that the file may have; it need not be there yet, and may be renamed once it was found.
    """

    def __init__(self, *paths: Path) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, args=(paths,), name="writeback", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def stop(self) -> None:
        """Lets go of the file."""
        self._over.set()
        if self._thread is not None:
            # A disk that is very busy may hold a call up, but nobody who has given up.
            self._thread.join(1)

    def _run(self, paths: Sequence[Path]) -> None:
        fd = -1
        try:
            while fd < 0 and not self._over.wait(PAUSE):
                fd = _opened(paths)
            written = 0
            while not self._over.is_set():
                there = os.fstat(fd).st_blocks * 512
                if there >= written + LEAST:
                    _core.start_writeback(fd)
                    written = there
                self._over.wait(PAUSE)
        except OSError:
            return
        finally:
            if fd >= 0:
                os.close(fd)


def _opened(paths: Sequence[Path]) -> int:
    """The first of these files that can be opened; -1 for none."""
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
    return -1
