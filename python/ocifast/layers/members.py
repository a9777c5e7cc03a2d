"""Files of this machine on the way into a layer, with nothing of this machine but their bytes."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ocifast.errors import FileError, UsageError
from ocifast.records import dataclass

__all__ = ["Describe", "Member", "Row", "destination", "file_member", "link_member", "members_of", "tree_members"]

Row = tuple[bytes, int, str, bytes, int, int, int, int, int]
"""A member as `_core.write_layer` takes it."""


@dataclass(frozen=True)
class Member:
    """One path of a layer.

    Attributes:
        path: without leading or trailing slash.
        mode: permission bits; 0777 for a symbolic link.
        kind: "file" (bytes from `source`), "bytes", "directory" or "symlink".
        source: the file on this machine.
        size: of the file.
        data: the bytes, or the link's target.
        uid: numeric owner.
        gid: numeric group.
        mtime: seconds and nanoseconds since 1970.
    """

    path: str
    mode: int
    kind: str
    source: Path | None = None
    size: int = 0
    data: bytes = b""
    uid: int = 0
    gid: int = 0
    mtime: tuple[int, int] = (0, 0)

    def row(self) -> Row:
        """For the core."""
        data = os.fsencode(self.source) if self.source is not None else self.data
        return (os.fsencode(self.path), self.mode, self.kind, data, self.size, self.uid, self.gid, *self.mtime)

    def content(self) -> tuple[Any, ...]:
        """What tells two members of one path apart."""
        return (self.kind, self.source, self.data)


Describe = Callable[[str, os.stat_result], dict[str, Any]]
"""Gives what a member has beside path, kind and bytes: takes its kind and the state of its file."""


def destination(source: str | os.PathLike[str], target: str) -> str:
    """Where a file or folder goes in an image.

    Args:
        source: on this machine. A folder with a slash at its end stands for what is in it.
        target: an absolute path; with a slash at its end the source goes inside, under its own name.

    Returns:
        The path without slashes at its ends; "" for a folder whose entries go into the root.

    Raises:
        UsageError: the target is not absolute, or not plain, or something would take the root's place.
    """
    path = Path(source)
    if not target.startswith("/"):
        raise UsageError(f"{target!r} is no absolute path in the image; write SOURCE:/PATH")
    entries_alone = os.fspath(source).endswith(("/", "/.")) and path.is_dir()
    inside = target.strip("/")
    if target.endswith("/") and not entries_alone:
        inside = posixpath.join(inside, path.name)
    parts = inside.split("/") if inside else []
    if any(part in ("", ".", "..") or part.startswith(".wh.") or "\0" in part for part in parts):
        raise UsageError(f"{target!r} is no plain path for a file in an image")
    return inside


def file_member(path: Path, target: str, describe: Describe) -> Member:
    """A regular file of this machine.

    Raises:
        FileError: no such file.
        UsageError: something else is there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", path=str(path)) from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is neither a regular file nor a folder, so it cannot be added")
    return Member(target, kind="file", source=path, size=status.st_size, **describe("file", status))


def link_member(path: Path, target: str, describe: Describe) -> Member:
    """A symbolic link, as it is. Raises FileError."""
    try:
        status, leads = path.lstat(), os.readlink(path)  # noqa: PTH115 - bytes that are no text survive as text
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", path=str(path)) from None
    return Member(target, kind="symlink", data=os.fsencode(leads), **describe("symlink", status))


def tree_members(folder: Path, target: str, describe: Describe) -> Iterator[Member]:
    """A folder and all that is in it, sorted, each folder before its entries; links are not followed.

    Raises:
        FileError: something cannot be read.
        UsageError: a device, a socket, a FIFO or a name that would delete files.
    """
    pending = [(folder, target)]
    while pending:
        here, inside = pending.pop()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise FileError(f"{here}: {error.strerror}", path=str(here)) from None
        if inside:
            yield Member(inside, kind="directory", **describe("directory", status))
        below = []
        for entry in entries:
            path = posixpath.join(inside, entry.name)
            if entry.name.startswith(".wh."):
                raise UsageError(f"{entry.path}: a name that starts with .wh. would delete files in an image")
            if entry.is_symlink():
                yield link_member(Path(entry.path), path, describe)
            elif entry.is_dir():
                below.append((Path(entry.path), path))
            else:
                yield file_member(Path(entry.path), path, describe)
        pending.extend(reversed(below))


def members_of(pairs: Iterable[tuple[str | os.PathLike[str], str]], describe: Describe) -> Iterator[Member]:
    """Files and folders that a user adds, each with where it goes; see `destination`."""
    for source, target in pairs:
        path, inside = Path(source), destination(source, target)
        if path.is_dir():
            yield from tree_members(path, inside, describe)
        else:
            yield file_member(path, inside, describe)
