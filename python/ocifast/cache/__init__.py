"""The cache: verified blobs by digest, compiled outputs by key, in one folder of one user (docs/caching.md).

    CACHEDIR.TAG              says to backup programs, and to us, what the folder is
    blobs/sha256/HEX          a blob whose digest was compared before it got this name
    blobs/sha256/HEX.part     the beginning of one, which the next run goes on from
    points/sha256/HEX         from where the blob of this digest can be inflated (`ocifast.cache.points`)
    outputs/KEY/              output, manifest.json, config.json, entry.json
    layers/sha256/XX/HEX.*    decoded layers by diff ID (`ocifast.cache.layers`)
    references/HEX-HEX.json   what names meant when a registry was asked last (`ocifast.cache.references`)
    locks/KEY.lock            held while an output is made, so that callers who want the same share one run
    locks/RANDOM.lease        what a running process uses (`ocifast.cache.leases`)
    tmp/                      what is being written, locked by who writes it
    use.json                  how much is there (`ocifast.cache.bound`)

Everything is written beside its place and renamed. What is damaged counts as missing, with a line in the log. A folder
of another user, or one that others may write to, is not used: who writes there could put files into our images.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ocifast.cache.blobs import BlobStore, BlobWriter, LentBlobs
from ocifast.cache.bound import Use, default_bound
from ocifast.cache.contents import CacheEntry, Contents
from ocifast.cache.folder import CacheFolder
from ocifast.cache.layers import LayerStore
from ocifast.cache.leases import Leases
from ocifast.cache.outputs import CachedOutput, OutputStore, output_key
from ocifast.cache.references import ReferenceStore
from ocifast.cache.source import CachedSource
from ocifast.errors import FileError
from ocifast.file_data import share_blocks
from ocifast.home import cache_folder
from ocifast.logs import logger
from ocifast.records import dataclass
from ocifast.refusals import Lock, take_lock

__all__ = [
    "BlobStore",
    "BlobWriter",
    "Cache",
    "CacheEntry",
    "CacheInfo",
    "CachedOutput",
    "CachedSource",
    "LentBlobs",
    "OutputStore",
    "output_key",
]

_log = logger(__name__)

_ROOM = 10
"""Per cent of its bound that are made free when it is passed, lest every run passes it again."""


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds; sizes in bytes on disk.

    Attributes:
        folder: where it is.
        blobs: number of complete blobs, and `blob_bytes`.
        partial: number of blobs that have begun to arrive, and `partial_bytes`.
        outputs: number of compiled outputs, and `output_bytes`.
        layers: number of decoded layers, and `layer_bytes`.
        references: number of names whose digest is known, and `reference_bytes`.
        max_bytes: how much it may take; None for all that there is.
        points: number of blobs whose restart points are noted; `point_bytes` are among `blob_bytes`.
        remotes: number of remote caches that something is kept of, and `remote_bytes`.
        shares_extents: whether files in it can share extents, so that a copy takes no room; None when it is not there.
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
    references: int = 0
    reference_bytes: int = 0
    max_bytes: int | None = None
    shares_extents: bool | None = None
    remotes: int = 0
    remote_bytes: int = 0
    points: int = 0
    point_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all of it."""
        own = self.blob_bytes + self.partial_bytes + self.output_bytes + self.layer_bytes + self.reference_bytes
        return own + self.remote_bytes


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

    What is kept is lent to work that can do without: its stores raise nothing when the folder fails, but warn once.

    Args:
        folder: None takes `OCIFAST_CACHE_DIR`, or else `ocifast` in the user's cache folder.
        max_bytes: how much it may take; None takes `OCIFAST_CACHE_SIZE`, or else 10 % of the file system, at most
            16 GiB.
        always_hash: hashes layers and outputs whenever they are used, whatever was recorded of them.

    Raises:
        FileError: none of these says where, because the user has no home.
        UsageError: `OCIFAST_CACHE_SIZE` is no size.

    Attributes:
        folder: where it is.
        max_bytes: how much it may take; None for all that there is.
        blobs: blobs by digest.
        layers: the same store without hashing, for callers that compare digests before `BlobWriter.commit`, as
            flattening does.
        outputs: compiled outputs by key.
        decoded: decoded layers by diff ID.
        references: what names of images meant.
        leases: what running processes use.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int | None = None,
        always_hash: bool = False,
    ) -> None:
        self.folder = Path(folder or os.environ.get("OCIFAST_CACHE_DIR") or _default_folder()).absolute()
        self.max_bytes = default_bound(self.folder) if max_bytes is None else max_bytes
        self._place = CacheFolder(self.folder)
        self.blobs = BlobStore(self._place)
        self.layers = BlobStore(self._place, hashes=False)
        self.outputs = OutputStore(self._place, always_hash=always_hash)
        self.decoded = LayerStore(self._place, always_hash=always_hash)
        self.references = ReferenceStore(self._place)
        self.leases = Leases(self._place)
        self._contents = Contents(self._place, self.blobs, self.decoded, self.outputs, self.references)

    @classmethod
    def usable(cls, folder: str | os.PathLike[str] | None = None, *, always_hash: bool = False) -> Cache | None:
        """The cache, made; None, with a warning that names it and says what to do, when it cannot be used.

        So it is when the folder is another user's, cannot be made, written or locked, or when there is no home.

        Args:
            folder: as of `Cache`.
            always_hash: as of `Cache`.

        Raises:
            UsageError: as `Cache`.
        """
        try:
            cache = cls(folder, always_hash=always_hash)
        except FileError as error:
            _log.warning("nothing is cached: %s", error)
            return None
        return cache if cache._place.try_out() else None

    def prepare(self) -> None:
        """Makes the folder, 0700, or checks the one that is there.

        Raises:
            FileError: it belongs to another user, others may write to it, it holds something else, or it cannot be
                made.
        """
        self._place.prepare()

    def beside(self) -> Path:
        """A folder on its file system for what is on its way in. Raises OSError."""
        return self._place.beside()

    def info(self) -> CacheInfo:
        """Counts what is there. Raises FileError as `prepare`."""
        entries = list(self.entries())
        kinds = ("blob", "partial", "output", "layer", "reference")
        numbers = {kind: sum(entry.kind == kind for entry in entries) for kind in kinds}
        sizes = {kind: sum(entry.size for entry in entries if entry.kind == kind) for kind in numbers}
        return CacheInfo(
            self.folder,
            numbers["blob"],
            sizes["blob"],
            numbers["partial"],
            sizes["partial"],
            numbers["output"],
            sizes["output"],
            numbers["layer"],
            sizes["layer"],
            numbers["reference"],
            sizes["reference"],
            self.max_bytes,
            self._shares_extents(),
            len(self._apart()),
            sum(entry.size for cache in self._apart() for entry in cache._contents.entries()),
            *self._contents.points.count(),
        )

    def entries(self) -> list[CacheEntry]:
        """All that is there, what was used last first. Raises FileError as `prepare`."""
        if not self._is_there():
            return []
        return sorted(self._contents.entries(described=True), key=lambda entry: entry.used, reverse=True)

    def prune(self, *, max_bytes: int | None = None, older_than: float | None = None) -> int:
        """Removes what was used longest ago, of remote caches as well; what a run writes, reads, awaits or uses stays.

        Args:
            max_bytes: how much may stay; None for the cache's own bound when `older_than` is not given either.
            older_than: seconds; what was used since stays, everything else goes.

        Returns:
            The number of bytes that were freed.

        Raises:
            FileError: as `prepare`.
        """
        if not self._is_there():
            return 0
        if max_bytes is None and older_than is None:
            max_bytes = self.max_bytes
        now = time.time()
        parts = (self, *self._apart())
        found = [(entry, part._contents) for part in parts for entry in part._contents.entries()]
        total = sum(entry.size for entry, _ in found)
        freed = 0
        try:
            with self.leases.settled() as used:
                for entry, contents in sorted(found, key=lambda pair: pair[0].used):
                    too_old = older_than is not None and entry.used < now - older_than
                    too_much = max_bytes is not None and total - freed > max_bytes
                    if (too_old or too_much) and entry.name not in used and contents.remove(entry):
                        freed += entry.size
        except OSError as error:
            raise FileError(f"cannot lock the cache folder {self.folder}: {error.strerror}") from error
        with contextlib.suppress(OSError):
            for part in parts:
                part._contents.sweep()
            Use(self.folder).set(total - freed)
        return freed

    def keep_to_bound(self) -> None:
        """Notes what this run has kept, and when the bound is passed, makes room below it.

        It costs a small file that is read and written; all is looked at only past the bound, and once a day.
        """
        growth = self._place.take_growth()
        if self.max_bytes is None or not self._place.is_readable():
            return
        try:
            size = Use(self.folder).add(growth)
            if size is None or size > self.max_bytes:
                self._make_room(self.max_bytes)
        except (FileError, OSError) as error:
            self._place.failed("how much is there", error)

    def clear(self) -> int:
        """Removes everything that `prune` may remove; returns the number of bytes that were freed."""
        return self.prune(max_bytes=0)

    def take_growth(self, part: Cache) -> None:
        """Counts what was put into what is kept of a remote cache: one bound is for all of it."""
        self._place.grew(part._place.take_growth())

    def verify(self) -> Iterator[tuple[CacheEntry, bool]]:
        """Hashes all that is there, and says of each thing whether it is whole; what is damaged is removed.

        Beginnings of blobs have no digest yet, and are left out. Raises FileError as `prepare`.
        """
        for entry in self.entries():
            if entry.kind != "partial":
                yield entry, self._contents.is_whole(entry)

    def _make_room(self, most: int) -> None:
        """Prunes, unless another process does."""
        locks = self.folder / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(locks / "prune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if take_lock(fd, wait=False) is not Lock.HELD:
                return
            total = sum(entry.size for part in (self, *self._apart()) for entry in part._contents.entries())
            if total > most:
                self.prune(max_bytes=most * (100 - _ROOM) // 100)
            else:
                Use(self.folder).set(total)
        finally:
            os.close(fd)

    def _apart(self) -> list[Cache]:
        """What is kept of remote caches, each a cache of its own (`ocifast.remote`)."""
        folders = sorted((self.folder / "remote").glob("*"))
        return [Cache(folder, max_bytes=0) for folder in folders if (folder / "CACHEDIR.TAG").is_file()]

    def _is_there(self) -> bool:
        try:
            return self._place.check()
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"cannot read the cache folder {self.folder}: {error.strerror}") from error

    def _shares_extents(self) -> bool | None:
        if not self._is_there():
            return None
        import tempfile

        try:
            with (
                tempfile.TemporaryFile(dir=self.folder) as one,
                tempfile.TemporaryFile(dir=self.folder) as other,
            ):
                one.write(bytes(4096))
                one.flush()
                return share_blocks(one.fileno(), other.fileno())
        except OSError:
            return None
