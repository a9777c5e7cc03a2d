"""Where a new archive goes: a file, or standard output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ocifast.atomic import NewFile, reported, sweep_folder
from ocifast.errors import FileError, UsageError
from ocifast.file_data import write_all
from ocifast.refusals import flush_folder
from ocifast.sources.stdin import STDIN
from ocifast.streams import binary_stdout, fd_of

__all__ = ["ArchivePlace", "FilePlace", "StdoutPlace", "archive_place"]

_CHUNK = 1 << 20
_WAITS = "the archive waits there until it is complete, and TMPDIR names another folder"


class ArchivePlace(Protocol):
    """What an archive's bytes wait for. Nothing is there before `publish`."""

    def sweep(self) -> None:
        """Removes what killed runs have left where the archive is made."""
        ...

    def new_file(self, *, mode: int = 0o600) -> NewFile:
        """A file to make the archive in, or a part of it. Raises FileError."""
        ...

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns an OSError in the block, which writes to such a file, into a FileError that names the place."""
        ...

    def publish(self, file: NewFile) -> None:
        """Gives the place all bytes of a file that is complete. Raises FileError."""
        ...


class FilePlace:
    """A file, made beside under a private name; one that is there is replaced."""

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        """Args: `path` as `output_file` gives it; `sync` as of `NewFile`."""
        self._path = path
        self._sync = sync

    def sweep(self) -> None:
        """See `ArchivePlace.sweep`."""
        sweep_folder(self._path.parent)

    def new_file(self, *, mode: int = 0o600) -> NewFile:
        """See `ArchivePlace.new_file`."""
        return NewFile(self._path.parent, mode=mode, sync=self._sync)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """See `ArchivePlace.writing`."""
        return reported(self._path)

    def publish(self, file: NewFile) -> None:
        """Renames the file."""
        with self.writing():
            file.publish(self._path)
            if self._sync:
                flush_folder(self._path.parent)


class StdoutPlace:
    """Standard output, which gets the archive when it is complete; until then it waits in the temporary folder.

    Members come in any order, and an archive that fails must not have gone out in part.
    """

    def sweep(self) -> None:
        """See `ArchivePlace.sweep`."""
        import tempfile

        with self.writing():
            sweep_folder(Path(tempfile.gettempdir()))

    def new_file(self, *, mode: int = 0o600) -> NewFile:
        """A file that only its owner can read: the folder is everybody's."""
        import tempfile

        with self.writing():
            folder = Path(tempfile.gettempdir())
        try:
            return NewFile(folder, mode=0o600)
        except FileError as error:
            raise FileError(f"standard output: {error.message}; {_WAITS}", **error.context) from error.__cause__

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """See `ArchivePlace.writing`."""
        try:
            yield
        except FileError:
            raise
        except OSError as error:
            import tempfile

            folder = tempfile.tempdir or "a temporary folder"
            raise FileError(
                f"standard output: cannot write to {folder}: {error.strerror or error}; {_WAITS}", errno=error.errno
            ) from error

    def publish(self, file: NewFile) -> None:
        """Writes the file to standard output, and removes it."""
        with fd_of(binary_stdout()) as fd:
            size, done = os.fstat(file.fd).st_size, 0
            while done < size:
                with self.writing():
                    chunk = os.pread(file.fd, _CHUNK, done)
                try:
                    write_all(fd, chunk)
                except OSError as error:
                    raise FileError(f"standard output: {error.strerror}", errno=error.errno) from error
                done += len(chunk)
        file.discard()


def archive_place(path: Path, *, sync: bool = True) -> ArchivePlace:
    """The place that a path means: the file that is to be made or replaced, links followed, or standard output.

    Raises:
        UsageError: it is a folder or a device, or its folder is missing.
    """
    if path == STDIN:
        return StdoutPlace()
    with reported(path):
        real = path.resolve()
        if real.exists() and not real.is_file():
            raise UsageError(f"{path} is not a file, so no archive can be written there")
        if not real.parent.is_dir():
            raise UsageError(f"there is no folder {real.parent} to write {real.name} in; make it first")
    return FilePlace(real, sync=sync)
