"""A root filesystem in a folder as an image of one layer: what is in it, read without following anything out of it."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ocifast import _core
from ocifast.errors import FileError, SizeMismatchError, UsageError
from ocifast.file_types import FILE_TYPES
from ocifast.logs import logger
from ocifast.sources.single import SingleLayerSource
from ocifast.spec import OCI_LAYER, Descriptor

__all__ = ["open_folder"]

_log = logger(__name__)

_Row = tuple[bytes, int, str, bytes, int, int, int, int, int, list[tuple[bytes, bytes]], tuple[int, int]]
"""As `_core.write_folder` takes it."""
_KINDS = {bits: name for name, bits in FILE_TYPES.items()}
_NO_ATTRIBUTES = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA})


def open_folder(path: Path, *, name: str) -> SingleLayerSource:
    """A folder as an image.

    Modes, owners, times with nanoseconds, extended attributes, hard links, devices, FIFOs and holes are kept; sockets,
    which no image has, are left out with a warning. The tar of it waits in a temporary file.

    Args:
        path: of the folder.
        name: how the user wrote the place.

    Raises:
        FileError: something in it cannot be read, or there is no room for the tar.
        SizeMismatchError: it was changed while it was read.
        UsageError: it has names that stand for deletions in layers.
    """
    with ExitStack() as held:
        root = _open_directory(path, None, name=name, shown=path)
        held.callback(os.close, root)
        walk = _FolderWalk(path, name)
        rows = list(walk.rows(root))
        if walk.sockets:
            _log.warning("%s: sockets are left out (%d): an image has none", name, walk.sockets)
        with _reported(name, f"cannot write its tar in {tempfile.gettempdir()}", "; TMPDIR names another folder"):
            file = held.enter_context(tempfile.NamedTemporaryFile(prefix="ocifast-", suffix=".tar"))
        try:
            digest, size = _core.write_folder(root, rows, file.fileno())
        except (FileError, SizeMismatchError) as error:
            raise type(error)(f"{name}: {error.message}", **error.context) from error.__cause__
        layer = Descriptor(OCI_LAYER, digest, size)
        return SingleLayerSource(Path(file.name), layer, digest, name=name, held=held.pop_all())


class _FolderWalk:
    """One pass over a folder: each directory before what is in it, names by their bytes."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._first: dict[tuple[int, int], bytes] = {}
        self.sockets = 0

    def rows(self, root: int) -> Iterator[_Row]:
        """A row for each name; the open folders are those from `root` to where the walk is."""
        yield self._row(b"", os.fstat(root), os.fspath(self._path))
        pending = [(root, b"", iter(self._names(root, b"")))]
        try:
            while pending:
                folder, inside, names = pending[-1]
                name = next(names, None)
                if name is None:
                    pending.pop()
                    if folder != root:
                        os.close(folder)
                    continue
                path = inside + b"/" + name if inside else name
                shown = self._path / os.fsdecode(path)
                with _reported(self._name, f"cannot read {shown}"):
                    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISSOCK(state.st_mode):
                    self.sockets += 1
                    continue
                if name.startswith(b".wh."):
                    raise UsageError(f"{self._name}: {shown}: a name that starts with .wh. deletes files in an image")
                target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(state.st_mode) else b""
                yield self._row(path, state, os.fspath(shown), target)
                if stat.S_ISDIR(state.st_mode):
                    below = _open_directory(os.fsdecode(name), folder, name=self._name, shown=shown)
                    pending.append((below, path, iter(())))
                    pending[-1] = (below, path, iter(self._names(below, path)))
        finally:
            for folder, _, _ in pending:
                if folder != root:
                    os.close(folder)

    def _names(self, folder: int, inside: bytes) -> list[bytes]:
        with _reported(self._name, f"cannot list {self._path / os.fsdecode(inside)}"):
            return sorted(os.fsencode(name) for name in os.listdir(folder))

    def _row(self, path: bytes, state: os.stat_result, shown: str, target: bytes = b"") -> _Row:
        kind = _KINDS[stat.S_IFMT(state.st_mode)]
        if kind != "directory" and state.st_nlink > 1:
            first = self._first.setdefault((state.st_dev, state.st_ino), path)
            if first != path:
                kind, target = "hardlink", first
        seconds, nanoseconds = divmod(state.st_mtime_ns, 10**9)
        number = (os.major(state.st_rdev), os.minor(state.st_rdev)) if kind in ("char", "block") else (0, 0)
        return (
            path,
            stat.S_IMODE(state.st_mode),
            kind,
            target,
            state.st_size if kind == "file" else 0,
            state.st_uid,
            state.st_gid,
            seconds,
            nanoseconds,
            [] if kind == "hardlink" else self._attributes(shown),
            number,
        )

    def _attributes(self, shown: str) -> list[tuple[bytes, bytes]]:
        try:
            names = os.listxattr(shown, follow_symlinks=False)
            return [(os.fsencode(name), os.getxattr(shown, name, follow_symlinks=False)) for name in names]
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                return []
            raise FileError(f"{self._name}: cannot read the attributes of {shown}: {error.strerror}") from error


def _open_directory(path: str | Path, folder: int | None, *, name: str, shown: Path) -> int:
    # The folder itself may be reached through a link; nothing in it is.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if folder is not None else 0)
    with _reported(name, f"cannot read {shown}"):
        return os.open(path, flags, dir_fd=folder)


@contextmanager
def _reported(name: str, what: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{name}: {what}: {error.strerror or error}{advice}", errno=error.errno) from error
