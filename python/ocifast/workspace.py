"""A folder beside an output, where it is made, and from where it is published whole or not at all.

The folder is on the file system of the output, so that a rename publishes. It is locked while its run lives: what a run
that was killed has left is told from that of a living one, and removed by the next run beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast.errors import FileError, UsageError
from ocifast.refusals import Lock, flush, flush_folder, take_lock

__all__ = ["Workspace", "check_room", "data_bytes"]

_PREFIX = ".ocifast-"


class Workspace:
    """A private folder (mode 0700) in the folder of an output; removed with all that is in it when the block ends.

    Attributes:
        destination: where the output goes; a symbolic link is followed.
        path: the private folder.
    """

    def __init__(self, destination: str | os.PathLike[str], *, is_directory: bool) -> None:
        """Looks at the destination and makes the folder.

        Args:
            destination: a file that may exist, or a directory that may not (an empty one may).
            is_directory: which of the two.

        Raises:
            UsageError: something is at the destination that must not be replaced.
            FileError: the destination's folder is not there, or cannot be written.
        """
        self.destination = Path(os.path.realpath(destination))
        self._shown = os.fspath(destination)
        self._is_directory = is_directory
        self._check_destination()
        parent = self.destination.parent
        with self._reported(f"cannot write to {parent}"):
            remove_abandoned(parent)
            self.path, self._lock = _make_locked(parent)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        try:
            remove_tree(self.path)
        except BaseException:
            # A signal came in between: what was begun is done, then it is obeyed.
            remove_tree(self.path)
            raise
        finally:
            os.close(self._lock)

    def subfolder(self, name: str) -> Path:
        """A new empty folder, mode 0700, inside."""
        path = self.path / name
        with self._reported(f"cannot make {path}"):
            path.mkdir(mode=0o700)
        return path

    def publish(self, made: Path) -> None:
        """Gives what was made its place; a file that was there is replaced in one step.

        A file is on the disk when this returns, whatever happens to the machine; of a directory only its name is: its
        files reach the disk when the kernel writes them.

        Raises:
            UsageError: a directory is not empty any more.
            FileError: the disk is full, or fails; nothing is at the destination then, or what was there before.
        """
        with self._reported(f"cannot write {self._shown}"):
            if not self._is_directory:
                _flush(made)
            try:
                self._rename(made)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise UsageError(f"{self._shown} is there and not empty; nothing was written") from None
                raise
            flush_folder(self.destination.parent)

    def _rename(self, made: Path) -> None:
        try:
            made.rename(self.destination)
        except PermissionError:
            if not self._is_directory:
                raise
        else:
            return
        # To move a folder elsewhere is to write to it, which the mode of the image's root may forbid to its owner.
        mode = stat.S_IMODE(made.lstat().st_mode)
        made.chmod(mode | stat.S_IRWXU)
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            made.rename(self.destination)
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def _check_destination(self) -> None:
        try:
            mode = self.destination.stat().st_mode
        except FileNotFoundError:
            if not self.destination.parent.is_dir():
                raise FileError(f"{self._shown}: there is no folder {self.destination.parent}") from None
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
        end = file.seek(0, os.SEEK_END)
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
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from error
    if free < needed:
        raise FileError(
            f"no room for {what}: at least {_megabytes(needed)} are needed in {folder}, and {_megabytes(free)} are "
            "free; free some, write elsewhere, or keep the waiting data on another disk (--tmp-dir)",
            path=str(folder),
            needed=needed,
            free=free,
        )


def remove_abandoned(parent: Path) -> None:
    """Removes the folders that dead runs of this user have left in a folder."""
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # Where there are no locks a dead run cannot be told from a living one.
            if take_lock(descriptor, wait=False) is Lock.HELD:
                remove_tree(path)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Removes a folder with what is in it, also directories that their modes close to us; errors are let be."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    # A plain user may have made directories without permissions, as an image asks for: open them, and try again.
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)  # noqa: PTH118 - what os.walk gives is text
            if not os.path.islink(inner):  # noqa: PTH114
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Until it is locked, another run may take it for abandoned.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        take_lock(descriptor, wait=True)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
