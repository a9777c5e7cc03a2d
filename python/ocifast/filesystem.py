"""Images as a filesystem of fsspec: `ocifast://IMAGE//PATH`, read-only.

    fsspec.open("ocifast://ghcr.io/org/app:1.2//etc/os-release")

A path is the image as users write it (docs/references.md), two slashes, and the path within its root filesystem. One
filesystem serves any number of images; the last few stay open, merged in memory, with their contents on disk.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import field
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractFileSystem

from ocifast.cache import Cache
from ocifast.errors import PathNotFoundError
from ocifast.image import Image, open_image
from ocifast.records import dataclass
from ocifast.rootfs import Rootfs, RootfsEntry

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["OcifastFileSystem"]

_SEPARATOR = "//"
_OPEN = 4
"""Images that stay open."""


class OcifastFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The root filesystems of images.

    Args:
        platform: which image of an index, as `linux/arm64`; None takes this machine's.
        options: how registries are spoken to.
        follow_links: whether symbolic links that lead out of an image layout are followed.
        storage_options: of fsspec.
    """

    protocol = "ocifast"
    root_marker = ""

    def __init__(
        self,
        *,
        platform: str | None = None,
        options: RegistryOptions | None = None,
        follow_links: bool = False,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self._images = _OpenImages(partial(open_image, platform=platform, options=options, follow_links=follow_links))
        weakref.finalize(self, _let_go, self._images)
        # `fsspec` keeps file systems until the end, where folders of open images would be cleared away with a warning.
        atexit.register(self._images.close)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """The path without the scheme, each with exactly two slashes between image and path."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path).removeprefix("ocifast://").removeprefix("docker://")
        image, separator, inside = text.partition(_SEPARATOR)
        return f"{image}{_SEPARATOR}{inside.strip('/')}".rstrip("/") if separator else image.rstrip("/")

    @classmethod
    def _parent(cls, path: str) -> str:
        image, _, inside = cls._strip_protocol(path).partition(_SEPARATOR)
        above = inside.rpartition("/")[0]
        return f"{image}{_SEPARATOR}{above}" if above else str(image)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What one name is; links are followed.

        Raises:
            FileNotFoundError: nothing is there.
            ocifast.OcifastError: the image cannot be read.
        """
        image, inside = self._split(path)
        tree = self._tree(image)
        try:
            entry = tree.stat(inside, follow=False)
            return _described(self._named(image, inside), entry, tree)
        except PathNotFoundError:
            raise FileNotFoundError(path) from None

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory; of a file the file itself.

        Raises:
            FileNotFoundError: nothing is there.
            ocifast.OcifastError: the image cannot be read.
        """
        found = self.info(path)
        entries = [found]
        if found["type"] == "directory":
            image, inside = self._split(path)
            tree = self._tree(image)
            entries = [
                _described(self._named(image, f"{inside}/{entry.path.rpartition('/')[2]}"), entry, tree)
                for entry in tree.scandir(inside)
            ]
        return entries if detail else [entry["name"] for entry in entries]

    def created(self, path: str) -> datetime:
        """The modification time: an image has no other."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        """The modification time, in UTC."""
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=timezone.utc)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Raises OSError: an image is read-only."""
        raise _read_only(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Raises OSError: an image is read-only."""
        raise _read_only(path)

    def rmdir(self, path: str) -> None:
        """Raises OSError: an image is read-only."""
        raise _read_only(path)

    def _rm(self, path: str) -> None:
        raise _read_only(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Raises OSError: an image is read-only."""
        raise _read_only(path2)

    def close(self) -> None:
        """Closes all images; those that are used again are opened anew."""
        self._images.close()

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise _read_only(path)
        image, inside = self._split(path)
        try:
            return self._images.file(image, inside)
        except PathNotFoundError:
            if self.info(path)["type"] == "directory":
                raise IsADirectoryError(path) from None
            raise FileNotFoundError(path) from None

    def _split(self, path: str) -> tuple[str, str]:
        image, _, inside = self._strip_protocol(path).partition(_SEPARATOR)
        return image, "/" + inside

    def _named(self, image: str, inside: str) -> str:
        return str(self._strip_protocol(f"{image}{_SEPARATOR}{inside}"))

    def _tree(self, image: str) -> Rootfs:
        return self._images.tree(image)


def _read_only(path: str) -> OSError:
    return OSError(errno.EROFS, "an image is read-only", path)


class _File(io.BufferedReader):
    """A file that knows its size in bytes, as those of fsspec do."""

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw, 1 << 18)
        self.size = size


@dataclass
class _Opened:
    """An image that is open, what closes it, and the files of it that somebody reads."""

    tree: Rootfs
    resources: ExitStack
    files: weakref.WeakSet[io.BufferedReader] = field(default_factory=weakref.WeakSet)


class _OpenImages:
    """The trees that were used last. Safe to use from several threads."""

    def __init__(self, open_one: Callable[..., Image]) -> None:
        self._open_one = open_one
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._put_away: list[_Opened] = []
        self._lock = threading.RLock()

    def tree(self, image: str) -> Rootfs:
        """The tree of an image, opened when it is not open."""
        return self._get(image).tree

    def file(self, image: str, path: str) -> io.BufferedReader:
        """A file of an image, which stays open as long as somebody has the file."""
        with self._lock:
            opened = self._get(image)
            file = _File(opened.tree.open(path).detach(), opened.tree.stat(path).size)
            opened.files.add(file)
            return file

    def _get(self, image: str) -> _Opened:
        with self._lock:
            if image not in self._open:
                with ExitStack() as stack:
                    found = stack.enter_context(self._open_one(image, cache=Cache.usable()))
                    self._open[image] = _Opened(stack.enter_context(found.flatten()), stack.pop_all())
                while len(self._open) > _OPEN:
                    self._put_away.append(self._open.popitem(last=False)[1])
            self._open.move_to_end(image)
            for idle in [each for each in self._put_away if not each.files]:
                self._put_away.remove(idle)
                idle.resources.close()
            return self._open[image]

    def close(self) -> None:
        with self._lock:
            for opened in (*self._put_away, *self._open.values()):
                opened.resources.close()
            self._put_away.clear()
            self._open.clear()


def _let_go(images: _OpenImages) -> None:
    """Closes what nobody has a hold of any more."""
    atexit.unregister(images.close)
    images.close()


def _described(name: str, entry: RootfsEntry, tree: Rootfs) -> dict[str, Any]:
    """An entry as fsspec has it; a link is what it leads to, and says so."""
    meant = entry
    if entry.type == "symlink":
        try:
            meant = tree.stat(entry.path)
        except PathNotFoundError:
            meant = entry
    kinds = {"file": "file", "directory": "directory", "symlink": "link"}
    return {
        "name": name,
        "size": meant.size,
        "type": kinds.get(meant.type, "other"),
        "mode": meant.mode,
        "uid": meant.uid,
        "gid": meant.gid,
        "mtime": meant.mtime_ns / 1e9,
        "ino": meant.inode,
        "islink": entry.type == "symlink",
        "destination": entry.target,
    }
