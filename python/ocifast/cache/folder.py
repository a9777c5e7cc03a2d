"""The folder of a cache: whether it may be used, what was put into it, and the one warning when it fails.

Work goes on without a cache. What concerns the whole folder (it is another user's, read-only, full, or has no locks) is
told once, by its name and with what to do; after that it is let alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

from ocifast.atomic import sweep_folder
from ocifast.errors import FileError
from ocifast.logs import logger
from ocifast.refusals import Lock, take_lock

__all__ = ["CacheFolder"]

_log = logger(__name__)

_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is ocifast's cache; it may be removed at any time.\n"
)
_ADVICE = "name another one in OCIFAST_CACHE_DIR, or do without (--no-cache)"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ALL_FAIL = _FULL | {errno.EROFS, errno.EIO, errno.ENODEV, errno.ESTALE}
"""What one file is answered with, and the next one will be, too."""


class CacheFolder:
    """The folder of a cache. Nothing is made or looked at before it is needed. Safe to use from several threads.

    Args:
        path: where it is, absolute.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._growth = 0
        self._readable = self._writable = True

    def prepare(self) -> None:
        """Makes the folder, 0700, or checks the one that is there.

        Raises:
            FileError: it belongs to another user, others may write to it, it holds something else, or it cannot be
                made.
        """
        try:
            if self.check():
                return
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), (self.path / "CACHEDIR.TAG").open("xb") as tag:
                tag.write(_TAG)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"cannot make the cache folder {self.path}: {error.strerror}; {_ADVICE}") from error

    def check(self) -> bool:
        """Whether the folder is there and ours. Raises FileError as `prepare`, OSError when it cannot be read."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise FileError(f"the cache folder {self.path} is not a folder; {_ADVICE}")
        if found.st_uid != os.geteuid():
            raise FileError(f"the cache folder {self.path} belongs to another user; {_ADVICE}")
        if found.st_mode & 0o022:
            raise FileError(f"others may write to the cache folder {self.path}; chmod 700 it, or {_ADVICE}")
        names = os.listdir(self.path)  # noqa: PTH208 - names alone, seen at one moment
        if "CACHEDIR.TAG" in names:
            return True
        if names:
            raise FileError(f"the cache folder {self.path} holds something else; {_ADVICE}")
        return False

    def try_out(self) -> bool:
        """Makes or checks the folder, and whether it can be written and locked; False, with the warning, if not."""
        try:
            self.prepare()
            with (self.path / "CACHEDIR.TAG").open("r+b") as tag:
                if take_lock(tag.fileno(), wait=False) is Lock.MISSING:
                    raise FileError(f"files in the cache folder {self.path} cannot be locked; {_ADVICE}")
        except (FileError, OSError) as error:
            self._give_up(error)
        return self._readable

    def is_readable(self) -> bool:
        """Whether what is in it may be used; False, with the warning, when that has changed since it was tried out."""
        if self._readable:
            try:
                self.prepare()
            except FileError as error:
                self._give_up(error)
        return self._readable

    def is_writable(self) -> bool:
        """Whether more may be put into it; False, once the warning was given, where it is full or fails."""
        return self._writable and self.is_readable()

    def failed(self, what: str, error: Exception) -> None:
        """Takes note that something could not be kept: a warning about it, or about the folder when no file can be."""
        number = _number(error)
        if number not in _ALL_FAIL:
            _log.warning("%s is not cached: %s", what, error)
            return
        with self._guard:
            told, self._writable = not self._writable, False
        if not told:
            room = "free some room, make it smaller (ocifast cache prune), or " if number in _FULL else ""
            _log.warning(
                "nothing more is cached: the cache folder %s cannot be written: %s; %s%s",
                self.path,
                os.strerror(number or 0),
                room,
                _ADVICE,
            )

    def beside(self) -> Path:
        """A folder on the cache's file system where things are made; what dead runs have left there is removed first.

        Raises:
            OSError: it cannot be made.
        """
        beside = self.path / "tmp"
        beside.mkdir(mode=0o700, exist_ok=True)
        sweep_folder(beside)
        return beside

    def locks(self) -> Path:
        """The folder of locks, which may be missing."""
        return self.path / "locks"

    def grew(self, size: int) -> None:
        """Counts bytes on disk that were put into it."""
        with self._guard:
            self._growth += size

    def take_growth(self) -> int:
        """What was counted since it was asked for last."""
        with self._guard:
            growth, self._growth = self._growth, 0
        return growth

    def _give_up(self, error: OSError) -> None:
        with self._guard:
            told, self._readable, self._writable = not self._readable, False, False
        if not told:
            text = str(error)
            if not isinstance(error, FileError):
                text = f"the cache folder {self.path} cannot be used: {error.strerror}; {_ADVICE}"
            _log.warning("nothing is cached: %s", text)


def _number(error: BaseException | None) -> int | None:
    """What the system answered, whoever has told of it since."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None
