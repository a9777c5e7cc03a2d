"""Publishing: files and folders appear whole or not at all, under a private name until they are renamed.

Private folders are held open, and all that is done by name is done in them: nobody who swaps one for a link can lead us
elsewhere.
"""

from __future__ import annotations

import contextlib
import copy
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ocifast.errors import FileError
from ocifast.leftovers import hold, open_folder, private_name, sweep
from ocifast.refusals import flush, flush_renames
from ocifast.removal import remove_folder

__all__ = ["NewFile", "PrivateFolder", "publish_file", "reported", "sweep_folder"]


class NewFile:
    """A file under a private name in the folder where it shall be; gone unless it is published.

    It is locked while it is open: what a killed run has left is removed by `sweep_folder`.

    Args:
        folder: where the file shall be, existing.
        mode: permissions before the umask.
        sync: whether it is brought to the disk before it gets its name.

    Attributes:
        path: the private name, in its folder.
        fd: open for reading and writing, until `publish` or `discard`.

    Raises:
        FileError: it could not be made.
    """

    def __init__(self, folder: Path, *, mode: int = 0o666, sync: bool = True) -> None:
        self._sync = sync
        with reported(folder):
            self.path, self.fd = self._make(folder, mode)

    def publish(self, place: Path) -> None:
        """Flushes the file to the disk, unless it was made without, and gives it its name, in place of one that had it.

        The folder is not flushed: see `ocifast.refusals.flush_folder`.
        """
        with reported(place):
            if self._sync:
                publish_file(self.fd, self.path, place)
            else:
                self.path.rename(place)
        self._close()

    def discard(self) -> None:
        """Removes the file, if it was not published."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._close()

    def keep(self) -> NewFile:
        """The same file in an object of its own, which this one no longer removes."""
        kept = copy.copy(self)
        self.fd = -1
        return kept

    def _make(self, folder: Path, mode: int) -> tuple[Path, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            path = folder / private_name(".tmp")
            fd = os.open(path, flags, mode)
            try:
                if hold(fd, path):
                    return path, fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.discard()


class PrivateFolder:
    """A folder (mode 0700) under a private name in another; removed with all that is in it when the block ends.

    It is locked while it lives: what a killed run has left is removed by `sweep_folder`, which this does first.

    Args:
        parent: an existing folder, on the file system where things shall be published.

    Attributes:
        name: the private name.
        path: leads into the folder, for this process and for those it starts, whatever is done to names above it.
        fd: the folder, open.
        parent_fd: the folder that it is in, open.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self.parent_fd = open_folder(parent)
        try:
            sweep(self.parent_fd)
            self.name, self.fd = self._make()
        except BaseException:
            os.close(self.parent_fd)
            raise
        self.path = self._way()

    def close(self) -> None:
        """Removes the folder."""
        try:
            self._remove()
        except BaseException:
            # A signal came in between: what was begun is done, then it is obeyed.
            self._remove()
            raise
        finally:
            os.close(self.fd)
            os.close(self.parent_fd)

    def subfolder(self, name: str) -> Path:
        """A new empty folder, mode 0700, inside. Raises OSError."""
        os.mkdir(name, 0o700, dir_fd=self.fd)
        return self.path / name

    def publish(self, name: str, place: str, *, sync: bool = True) -> None:
        """Gives what has a name in here a name beside this folder, in place of a file that had it.

        What is published must be flushed to the disk before; the new name is, when this returns, unless `sync` is
        False. Raises OSError.
        """
        try:
            self._rename(name, place)
        except PermissionError:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise
            self._rename_closed(name, place)
        if sync:
            flush_renames(self.parent_fd, self._parent)

    def _rename(self, name: str, place: str) -> None:
        os.rename(name, place, src_dir_fd=self.fd, dst_dir_fd=self.parent_fd)

    def _rename_closed(self, name: str, place: str) -> None:
        # To move a folder elsewhere is to write to it, which the mode of the image's root may forbid to its owner.
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            mode = stat.S_IMODE(os.fstat(held).st_mode)
            # What is open for its path alone takes no fchmod; the link in /proc leads to it and to nothing else.
            way = Path(f"/proc/self/fd/{held}")
            way.chmod(mode | stat.S_IRWXU)
            self._rename(name, place)
            with contextlib.suppress(OSError):
                way.chmod(mode)
        finally:
            os.close(held)

    def _make(self) -> tuple[str, int]:
        while True:
            name = private_name()
            os.mkdir(name, 0o700, dir_fd=self.parent_fd)
            # Until it is locked, another run may take it for a leftover.
            try:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.parent_fd)
            except FileNotFoundError:
                continue
            try:
                if hold(fd, name, self.parent_fd):
                    return name, fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _way(self) -> Path:
        # Tools open it too: not /proc/self, which means another process there. They may not where the kernel gives our
        # entry to root, as it does when a process has changed its user (proc(5), "dumpable").
        open_files = Path(f"/proc/{os.getpid()}/fd")
        way = open_files / str(self.fd)
        with contextlib.suppress(OSError):
            if open_files.stat().st_uid == os.geteuid() and os.path.samestat(way.stat(), os.fstat(self.fd)):
                return way
        return self._parent / self.name

    def _remove(self) -> None:
        remove_folder(self.name, self.parent_fd, self.fd)

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()


def publish_file(fd: int, path: Path, place: Path) -> None:
    """Flushes an open file to the disk and gives it another name, in place of a file that had it. Raises OSError."""
    flush(fd)
    path.rename(place)


def sweep_folder(folder: Path) -> None:
    """Removes what dead runs of this user have left in a folder, if it can be opened."""
    with contextlib.suppress(OSError):
        fd = open_folder(folder)
        try:
            sweep(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns an OSError into a FileError that names the place."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}", path=str(path)) from error
