"""The root filesystem of an image: the flattened tree, and what can be read of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ocifast import _core
from ocifast.atomic import NewFile, sweep_folder
from ocifast.clock import source_date_epoch
from ocifast.errors import PathNotFoundError, UsageError
from ocifast.packers import (
    CompressedOptions,
    FileTarget,
    FormatOptions,
    PackOptions,
    WriteRequest,
    Written,
    check_suffix,
    choose_backend,
    format_of,
    load_format,
    options_of,
)
from ocifast.packers.places import as_named
from ocifast.packers.rows import Row
from ocifast.records import dataclass
from ocifast.refusals import flush_folder, processors
from ocifast.seals import SealRequest, apply_seals, load_seals
from ocifast.streams import fd_of
from ocifast.workspace import Workspace

__all__ = ["Rootfs", "RootfsEntry", "entry_of", "path_of"]

_BATCH = 4096
_PIECE = 1 << 18
"""Bytes that an open file reads ahead."""


@dataclass(frozen=True)
class RootfsEntry:
    """One name of the tree.

    Attributes:
        path: absolute path; bytes that are no UTF-8 as surrogate escapes (`os.fsencode` gives them back).
        type: "file", "directory", "symlink", "char", "block" or "fifo".
        mode: permission bits with setuid, setgid, sticky.
        uid: numeric owner.
        gid: numeric group.
        mtime_ns: modification time in nanoseconds since 1970.
        target: where a symbolic link points, else "".
        size: bytes of a file's content, or of a link's target.
        inode: equal for all names of one file.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str
    size: int
    inode: int


def path_of(path: bytes) -> str:
    """A path of the core as entries have it: absolute, bytes that are no UTF-8 as surrogate escapes."""
    return "/" + os.fsdecode(path)


def entry_of(row: tuple[bytes, str, int, int, int, int, int, bytes, int, int]) -> RootfsEntry:
    """The entry of a row of the core."""
    path, kind, mode, uid, gid, seconds, nanoseconds, target, size, inode = Row._make(row)
    mtime = seconds * 1_000_000_000 + nanoseconds
    return RootfsEntry(path_of(path), kind, mode, uid, gid, mtime, os.fsdecode(target), size, inode)


def _key(path: str | bytes) -> bytes:
    return os.fsencode(path).strip(b"/")


class _OpenFile(io.RawIOBase):
    """A regular file of a tree, without a buffer."""

    def __init__(self, rootfs: Rootfs, path: str | bytes) -> None:
        super().__init__()
        entry = rootfs.stat(path)
        if entry.type != "file":
            raise PathNotFoundError(f"not a regular file: {rootfs.resolve(path)}")
        self._rootfs, self._key, self._size, self._at = rootfs, _key(path), entry.size, 0

    @property
    def name(self) -> str:
        """The path in the tree."""
        return "/" + os.fsdecode(self._key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"no place in a file: {offset} from {whence}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        room = memoryview(buffer).cast("B")
        if self._at >= self._size:
            return 0
        data = self._rootfs.tree.read(self._key, self._at, len(room))
        room[: len(data)] = data
        self._at += len(data)
        return len(data)


class Rootfs:
    """The root filesystem of an image, merged, in memory; file contents wait in a folder until `close`.

    Iterating gives a `RootfsEntry` for every name, directories before what is in them, siblings by their bytes.
    Safe to use from several threads.
    """

    def __init__(
        self,
        tree: _core.Tree,
        *,
        name: str,
        resources: ExitStack | None = None,
        digest: str = "",
        created: int = 0,
    ) -> None:
        self.name = name
        self._digest = digest
        self._created = created
        self._tree: _core.Tree | None = tree
        self._resources = resources or ExitStack()

    @property
    def tree(self) -> _core.Tree:
        """The core's tree, for the writers. Raises UsageError after `close`, as all that reads the tree does."""
        if self._tree is None:
            raise UsageError(f"{self.name}: the root filesystem is closed", reference=self.name)
        return self._tree

    def __len__(self) -> int:
        return len(self.tree)

    def __contains__(self, item: object) -> bool:
        """Whether a path (text or bytes) is a name of the tree, or an entry one of it.

        Links on the way are followed inside the tree, one at its end is not: a link that leads nowhere is there.
        """
        path = item.path if isinstance(item, RootfsEntry) else item
        if not isinstance(path, (str, bytes)):
            return False
        try:
            found = self.stat(path, follow=False)
        except PathNotFoundError:
            return False
        return not isinstance(item, RootfsEntry) or found == item

    def __iter__(self) -> Iterator[RootfsEntry]:
        return self.walk("/")

    def walk(self, path: str | bytes = "/") -> Iterator[RootfsEntry]:
        """The entries at and below a path. Links on the way are followed inside the tree, one at its end is not.

        Raises:
            PathNotFoundError: nothing is there.
        """
        start = 0
        while rows := self.tree.entries(_key(path), start, _BATCH):
            yield from map(entry_of, rows)
            start += len(rows)

    def stat(self, path: str | bytes, *, follow: bool = True) -> RootfsEntry:
        """One entry; a link is followed inside the tree. Raises PathNotFoundError."""
        return entry_of(self.tree.stat(_key(path), follow=follow))

    def resolve(self, path: str | bytes, *, follow: bool = True) -> str:
        """The absolute path that leads to the same without a link on the way, as `os.path.realpath` has it.

        Args:
            path: links on its way are followed inside the tree, and never leave it.
            follow: a link at its end as well.

        Raises:
            PathNotFoundError: nothing is there.
        """
        return "/" + os.fsdecode(self.tree.resolve(_key(path), follow=follow))

    def scandir(self, path: str | bytes = "/") -> list[RootfsEntry]:
        """What is in a directory, by the bytes of the names, as `os.scandir`. Links to it are followed.

        Raises:
            PathNotFoundError: nothing is there, or no directory.
        """
        return list(map(entry_of, self.tree.children(_key(path))))

    def listdir(self, path: str | bytes = "/") -> list[str]:
        """The names in a directory, as `scandir` has them. Raises what it does."""
        return [entry.path.rpartition("/")[2] for entry in self.scandir(path)]

    def open(self, path: str | bytes) -> io.BufferedReader:
        """A regular file to read from and seek in; links are followed inside the tree.

        What is read comes from where contents wait, a piece at a time; holes are zeros. After `close` of the tree
        reading raises UsageError.

        Raises:
            PathNotFoundError: nothing is there, or no regular file.
        """
        return io.BufferedReader(_OpenFile(self, path), _PIECE)

    def xattrs(self, path: str | bytes) -> dict[bytes, bytes]:
        """Extended attributes of an entry. Raises PathNotFoundError."""
        return self.tree.xattrs(_key(path))

    def chunks(self, path: str | bytes) -> Iterator[bytes]:
        """The content of a regular file in pieces of at most 1 MiB; links are followed inside the tree.

        Raises:
            PathNotFoundError: nothing is there, or no regular file.
        """
        key, offset = _key(path), 0
        while chunk := self.tree.read(key, offset, 1 << 20):
            yield chunk
            offset += len(chunk)

    def read_bytes(self, path: str | bytes) -> bytes:
        """The whole content of a regular file, as `chunks` gives it."""
        return b"".join(self.chunks(path))

    def dump(self) -> bytes:
        """The canonical text of the tree, one line a name (docs/dump.md)."""
        return self.tree.dump()

    @property
    def digest(self) -> str:
        """The tree digest: SHA-256 of `dump`. Reads all contents each time."""
        return self.tree.digest()

    @property
    def notices(self) -> dict[str, int]:
        """What of the layers was dropped on the way in, by kind, with counts (docs/tar.md)."""
        return dict(self.tree.notices())

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns of `Edits.exclude` that match nothing in the image."""
        return tuple(self.tree.unmatched())

    def write(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        options: FormatOptions | PackOptions | None = None,
        *,
        clamp_mtime: int | None = None,
        threads: int | None = None,
        seals: Sequence[str] = (),
    ) -> Written:
        """Writes the tree in any format. The output appears whole or not at all, as that of `ocifast.compile`.

        Files that later layers replaced have left no gaps: an erofs image without compression can have its data in
        another order than the one that `ocifast.compile` makes.

        Args:
            path: a file, which is replaced, or a directory, which must be empty.
            format: a key of `ocifast.packers.FORMATS`; None goes by the suffix.
            options: of the format (`ErofsOptions`, ...), or of all (`PackOptions`), which can name a backend.
            clamp_mtime: seconds since 1970 that no time passes; None takes `SOURCE_DATE_EPOCH`, if that is set.
            threads: that pack; None for one per processor.
            seals: names of what runs over the finished file before it is published, in this order.

        Raises:
            UsageError: what was asked for makes no sense.
            OutputError: it could not be made; nothing is left at the path.
        """
        shown = os.fspath(path)
        chosen = load_format(format or format_of(shown)[0])
        options = options or PackOptions()
        if isinstance(options, FormatOptions) and not isinstance(options, chosen.options):
            raise UsageError(f"{shown}: options of {options.format} are none of {chosen.name}")
        compression = check_suffix(shown, chosen.name, getattr(options, "compression", None))
        if compression is not None and isinstance(options, (PackOptions, CompressedOptions)):
            options = replace(options, compression=compression)
        backend, _ = choose_backend(chosen, options)
        own = options_of(chosen.options, options) if isinstance(options, PackOptions) else options
        clamp = source_date_epoch() if clamp_mtime is None else clamp_mtime
        sealing = load_seals(seals, chosen.name)
        with Workspace(path, is_directory=chosen.is_directory) as space, as_named([(shown, space)]):
            made = space.path / "output"
            space.begin_writeback(made)
            request = WriteRequest(
                tree=self.tree,
                target=FileTarget(made),
                folder=space.subfolder("packer"),
                digest=self._digest,
                options=own,
                clamp_mtime=clamp,
                created=self._created if clamp is None else min(self._created, clamp),
                threads=threads or processors(),
            )
            written = backend.write(request)
            found = apply_seals(sealing, SealRequest(made, chosen.name, self._digest, threads or processors()))
            written = replace(written, properties={**written.properties, **found})
            if sealing:
                written = replace(written, bytes=made.stat().st_size)
            space.publish(made)
        return written

    def write_tar(self, out: str | os.PathLike[str] | BinaryIO, *, clamp_mtime: int | None = None) -> int:
        """Writes the tree as a pax tar.

        Args:
            out: a path, which is written beside and renamed when complete, or anything that bytes can be written to.
            clamp_mtime: seconds since 1970; later times become this.

        Returns:
            Number of bytes.

        Raises:
            FileError: writing failed; nothing is left at the path. An object's own errors are raised as they are.
        """
        if not isinstance(out, (str, os.PathLike)):
            with fd_of(out) as fd:
                return self.tree.write_tar(fd, clamp_mtime=clamp_mtime)
        path = Path(out)
        sweep_folder(path.parent)
        with NewFile(path.parent, mode=0o600) as file:
            written = self.tree.write_tar(file.fd, clamp_mtime=clamp_mtime)
            file.publish(path)
            flush_folder(path.parent)
        return written

    def close(self) -> None:
        """Frees the contents. Nothing can be read after."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Rootfs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        # Decoded layers are published now, unless what they were decoded for has failed.
        self._tree = None
        self._resources.__exit__(kind, value, traceback)
