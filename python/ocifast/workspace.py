"""A folder beside an output, where it is made, and from where it is published whole or not at all.

The folder is on the file system of the output, so that a rename publishes. It is locked while its run lives: what a run
that was killed has left is told from that of a living one, and removed by the next run beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast.atomic import PrivateFolder
from ocifast.early_writeback import EarlyWriteback
from ocifast.errors import FileError, UsageError
from ocifast.refusals import flush

__all__ = ["Workspace", "check_room", "data_bytes"]


class Workspace:
    """A private folder (mode 0700) in the folder of an output; removed with all that is in it when the block ends.

    Attributes:
        destination: where the output goes; a symbolic link is followed.
        path: leads into the private folder (see `PrivateFolder`).
    """

    def __init__(self, destination: str | os.PathLike[str], *, is_directory: bool, sync: bool = True) -> None:
        """Looks at the destination and makes the folder.

        Args:
            destination: a file that may exist, or a directory that may not (an empty one may).
            is_directory: which of the two.
            sync: whether what is published is brought to the disk before it has its name, and the name after it.

        Raises:
            UsageError: something is at the destination that must not be replaced.
            FileError: the destination's folder is not there, or cannot be written.
        """
        self.destination = Path(os.path.realpath(destination))
        self._shown = os.fspath(destination)
        self._is_directory = is_directory
        self._sync = sync
        self._early: EarlyWriteback | None = None
        self._check_destination()
        parent = self.destination.parent
        with self._reported(f"cannot write to {parent}"):
            self._private = PrivateFolder(parent)
        self.path = self._private.path

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._early is not None:
            self._early.stop()
        self._private.close()

    def begin_writeback(self, *paths: Path) -> None:
        """Begins to bring a file to the disk that is about to be written, if `publish` will want it there.

        Args:
            paths: names that it may have until it is published.
        """
        if self._sync and not self._is_directory:
            self._early = EarlyWriteback(*paths)

    def subfolder(self, name: str) -> Path:
        """A new empty folder, mode 0700, inside."""
        with self._reported(f"cannot make a folder in {self.destination.parent}"):
            return self._private.subfolder(name)

    def publish(self, made: Path) -> None:
        """Gives what was made in the private folder its place; a file that was there is replaced in one step.

        A file is on the disk when this returns, whatever happens to the machine; of a directory only its name is: its
        files reach the disk when the kernel writes them.

        Raises:
            UsageError: a directory is not empty any more.
            FileError: the disk is full, or fails; nothing is at the destination then, or what was there before.
        """
        with self._reported(f"cannot write {self._shown}"):
            if self._early is not None:
                self._early.stop()
            if self._sync and not self._is_directory:
                _flush(made.name, self._private.fd)
            try:
                self._private.publish(made.name, self.destination.name, sync=self._sync)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise UsageError(f"{self._shown} is there and not empty") from None
                raise

    def rescue(self, made: Path) -> Path | None:
        """Gives what was finished, and could not be published, another name beside its place.

        Returns:
            The name; None when that cannot be done either, or when nothing was made.
        """
        name = f"{self.destination.name[:200]}.{os.urandom(4).hex()}.unpublished"
        try:
            if self._sync and not self._is_directory:
                _flush(made.name, self._private.fd)
            self._private.publish(made.name, name, sync=self._sync)
        except OSError:
            return None
        return self.destination.with_name(name)

    def _check_destination(self) -> None:
        try:
            mode = self.destination.stat().st_mode
        except FileNotFoundError:
            if not self.destination.parent.is_dir():
                raise FileError(f"{self._shown}: there is no folder {self.destination.parent}; make it first") from None
            return
        except OSError as error:
            raise FileError(f"{self._shown}: {error.strerror}") from error
        if self._is_directory:
            if not stat.S_ISDIR(mode):
                raise UsageError(f"{self._shown} is there and is no directory")
            with self._reported(f"cannot read {self._shown}"):
                if any(self.destination.iterdir()):
                    raise UsageError(f"{self._shown} is there and not empty; name another directory, or empty it")
        elif stat.S_ISDIR(mode):
            raise UsageError(f"{self._shown} is a directory; name a file")
        elif not stat.S_ISREG(mode):
            raise UsageError(f"{self._shown} is no regular file, and is not replaced")

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"{what}: {error.strerror}", path=self._shown) from error


def data_bytes(path: Path) -> int:
    """Bytes of data in a file, its holes left out, as far as its file system tells (lseek(2), SEEK_DATA)."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        end = status.st_size
        # A file that has all its blocks is not gone through: on a tmpfs that takes 60 ms a GB.
        if status.st_blocks * 512 >= end:
            return end
        found = at = 0
        try:
            while at < end:
                begin = file.seek(at, os.SEEK_DATA)
                at = file.seek(begin, os.SEEK_HOLE)
                found += at - begin
        except OSError as error:
            # ENXIO: nothing but a hole follows.
            return found if error.errno == errno.ENXIO else end
    return found


def check_room(folder: Path, needed: int, *, what: str) -> None:
    """Refuses early when a file system cannot hold what is certain to be written.

    Args:
        folder: on the file system.
        needed: bytes, as a lower bound.
        what: for the message.

    Raises:
        FileError: there is less room; the message says how much of both.
    """
    import shutil

    try:
        total, _, free = shutil.disk_usage(folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise FileError(f"{folder}: {error.strerror}") from error
        # Not every file system, and not every filter of system calls, tells how much is free.
        return
    # FUSE answers so for those that do not know (libfuse, "statfs").
    if total == 0:
        return
    if free < needed:
        raise FileError(
            f"no room for {what}: at least {_megabytes(needed)} are needed in {folder}, and {_megabytes(free)} are "
            "free; free some, write elsewhere, or keep the waiting data on another disk (--tmp-dir)",
            path=str(folder),
            needed=needed,
            free=free,
        )


def _flush(name: str, folder: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        flush(fd)
    finally:
        os.close(fd)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
