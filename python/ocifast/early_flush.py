"""Bringing a file to the disk while it is written, so that little is left to wait for at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ocifast.refusals import flush

__all__ = ["EarlyFlush"]

PAUSE: Final = 0.1
"""Seconds between two looks at the file."""
LEAST: Final = 16 << 20
"""Bytes that must have come for another flush: each has the file system write its journal as well."""


class EarlyFlush:
    """Flushes a file from a thread, again and again as it grows.

    Args:
        paths: names that the file may have; it need not be there yet, and may be renamed once it was found.
    """

    def __init__(self, *paths: Path) -> None:
        self._over = threading.Event()
        self._failed: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(paths,), name="flush", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits for the flush that is under way; the file may have grown since it began.

        Raises:
            OSError: a flush failed. The system says that once, and would not say it again to who flushes now.
        """
        self.stop()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Has no other flush begin; waits for none."""
        self._over.set()

    def _run(self, paths: Sequence[Path]) -> None:
        fd = -1
        try:
            while fd < 0 and not self._over.wait(PAUSE):
                fd = _opened(paths)
            flushed = 0
            while not self._over.is_set():
                bytes_there = os.fstat(fd).st_blocks * 512
                if bytes_there >= flushed + LEAST:
                    flush(fd)
                    flushed = bytes_there
                self._over.wait(PAUSE)
        except OSError as error:
            self._failed = error
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
