"""The cache: verified blobs by digest, compiled outputs by key, in one folder of one user.

    CACHEDIR.TAG              says to backup programs, and to us, what the folder is
    blobs/sha256/HEX          a blob whose digest was compared before it got this name
    blobs/sha256/HEX.part     the beginning of one, which the next run goes on from
    outputs/KEY/              output, manifest.json, config.json, entry.json
    layers/sha256/XX/HEX.*    decoded layers by diff ID (`ocifast.cache.layers`)
    locks/KEY.lock            held while an output is made, so that callers who want the same share one run
    tmp/                      what is being written

Everything is written beside its place and renamed. What is damaged counts as missing, with a line in the log. A folder
of another user, or one that others may write to, is refused: who writes there could put files into our images.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ocifast.cache.blobs import BlobStore, BlobWriter
from ocifast.cache.layers import LayerStore
from ocifast.cache.outputs import CachedOutput, OutputStore, output_key
from ocifast.cache.source import CachedSource
from ocifast.errors import FileError
from ocifast.home import cache_folder

__all__ = ["BlobStore", "BlobWriter", "Cache", "CacheInfo", "CachedOutput", "CachedSource", "OutputStore", "output_key"]

_log = logging.getLogger(__name__)

_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is ocifast's cache; it may be removed at any time.\n"
)
_ABANDONED = 24 * 3600
"""Seconds after which what stands in `tmp` belongs to a run that is gone."""


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds; sizes in bytes on disk.

    Attributes:
        folder: where it is.
        blobs: number of complete blobs, and `blob_bytes`.
        partial: number of blobs that have begun to arrive, and `partial_bytes`.
        outputs: number of compiled outputs, and `output_bytes`.
        layers: number of decoded layers, and `layer_bytes`.
    """

    folder: Path
    blobs: int
    blob_bytes: int
    partial: int
    partial_bytes: int
    outputs: int
    output_bytes: int
    layers: int = 0
    layer_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all of it."""
        return self.blob_bytes + self.partial_bytes + self.output_bytes + self.layer_bytes


def _default_folder() -> Path:
    caches = cache_folder()
    if caches is None:
        raise FileError(
            "there is no folder for the cache: neither HOME nor the user database names one; name it in "
            "OCIFAST_CACHE_DIR, or do without (--no-cache)"
        )
    return caches / "ocifast"


class Cache:
    """The cache in a folder. Nothing is made or looked at before it is needed. Safe to use from several threads.

    Args:
        folder: None takes `OCIFAST_CACHE_DIR`, or else `ocifast` in the user's cache folder.

    Raises:
        FileError: none of these says where, because the user has no home.

    Attributes:
        folder: where it is.
        blobs: blobs by digest.
        layers: the same blobs, for who compares their digests before `BlobWriter.commit` (flattening does): they are
            not hashed a second time.
        outputs: compiled outputs by key.
        decoded: decoded layers by diff ID.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder or os.environ.get("OCIFAST_CACHE_DIR") or _default_folder()).absolute()
        self.blobs = BlobStore(self.folder, self.prepare)
        self.layers = BlobStore(self.folder, self.prepare, hashes=False)
        self.outputs = OutputStore(self.folder, self.prepare)
        self.decoded = LayerStore(self.folder, self.prepare)

    @classmethod
    def usable(cls, folder: str | os.PathLike[str] | None = None) -> Cache | None:
        """The cache, made; None, with a line in the log, when it cannot be made where it is by default.

        Work can do without a cache that nobody asked for: there is no home, or one to read only.

        Args:
            folder: as of `Cache`.

        Raises:
            FileError: one that was named cannot be made.
        """
        try:
            cache = cls(folder)
            if folder is None and not os.environ.get("OCIFAST_CACHE_DIR") and not cache.folder.exists():
                cache.prepare()
        except (FileError, OSError) as error:
            _log.warning("nothing is cached: %s", error)
            return None
        return cache

    def prepare(self) -> None:
        """Makes the folder, 0700, or checks the one that is there.

        Raises:
            FileError: it belongs to another user, others may write to it, it holds something else, or it cannot be
                made.
        """
        try:
            if self._check():
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), (self.folder / "CACHEDIR.TAG").open("xb") as tag:
                tag.write(_TAG)
        except OSError as error:
            raise FileError(f"cannot make the cache folder {self.folder}: {error.strerror}") from error

    def info(self) -> CacheInfo:
        """Counts what is there. Raises FileError as `prepare`."""
        blobs = [item for item in self._items() if item.kind == "blob"]
        partial = [item for item in self._items() if item.kind == "partial"]
        outputs = [item for item in self._items() if item.kind == "output"]
        layers = [item for item in self._items() if item.kind == "layer"]
        return CacheInfo(
            self.folder,
            len(blobs),
            sum(item.size for item in blobs),
            len(partial),
            sum(item.size for item in partial),
            len(outputs),
            sum(item.size for item in outputs),
            len(layers),
            sum(item.size for item in layers),
        )

    def prune(self, *, max_bytes: int | None = None, older_than: float | None = None) -> int:
        """Removes what was used longest ago; what is being written, or waited for, stays.

        Args:
            max_bytes: how much may stay.
            older_than: seconds; what was used since stays, everything else goes.

        Returns:
            The number of bytes that were freed.
        """
        now = time.time()
        items = sorted(self._items(), key=lambda item: item.used)
        total = sum(item.size for item in items)
        freed = 0
        for item in items:
            too_old = older_than is not None and item.used < now - older_than
            too_much = max_bytes is not None and total - freed > max_bytes
            if (too_old or too_much) and self._remove(item):
                freed += item.size
        self._sweep(now)
        return freed

    def clear(self) -> int:
        """Removes everything that is not being written or waited for; returns the number of bytes that were freed."""
        return self.prune(max_bytes=0)

    def _check(self) -> bool:
        """Whether the folder is there and ours."""
        try:
            found = self.folder.stat()
        except FileNotFoundError:
            return False
        advice = "name another one in OCIFAST_CACHE_DIR, or do without (--no-cache)"
        if not stat.S_ISDIR(found.st_mode):
            raise FileError(f"the cache folder {self.folder} is not a folder; {advice}")
        if found.st_uid != os.geteuid():
            raise FileError(f"the cache folder {self.folder} belongs to another user; {advice}")
        if found.st_mode & 0o022:
            raise FileError(f"others may write to the cache folder {self.folder}; chmod 700 it, or {advice}")
        names = os.listdir(self.folder)  # noqa: PTH208 - names alone, seen at one moment
        if "CACHEDIR.TAG" in names:
            return True
        if names:
            raise FileError(f"the cache folder {self.folder} holds something else; {advice}")
        return False

    def _items(self) -> Iterator[_Item]:
        if not self._check():
            return
        for path in (self.folder / "blobs").glob("*/*"):
            if path.suffix == ".tmp":
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                kind = "partial" if path.suffix == ".part" else "blob"
                yield _Item(kind, path, status.st_blocks * 512, status.st_mtime)
        for path in (self.folder / "outputs").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                size = sum(inner.lstat().st_blocks * 512 for inner in path.iterdir())
                yield _Item("output", path, size, path.lstat().st_mtime)

        for path, size, used in self.decoded.items():
            yield _Item("layer", path, size, used)

    def _remove(self, item: _Item) -> bool:
        try:
            if item.kind == "partial":
                return self.blobs.remove_partial(item.path)
            if item.kind == "layer":
                return self.decoded.remove(item.path)
            if item.kind == "output":
                return self.outputs.remove(item.path.name)
            item.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FileError(f"cannot remove {item.path} from the cache: {error.strerror}") from error
        return True

    def _sweep(self, now: float) -> None:
        self.decoded.sweep(now - _ABANDONED)
        for path in (*(self.folder / "tmp").glob("*"), *(self.folder / "blobs").glob("*/.*.tmp")):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < now - _ABANDONED:
                    _log.info("removing %s, which an interrupted run has left", path)
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()


@dataclass(frozen=True)
class _Item:
    kind: str
    path: Path
    size: int
    used: float
