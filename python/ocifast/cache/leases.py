"""What running processes use of the cache: it is never pruned.

locks/RANDOM.lease  the digests that one run uses, one a line; locked while it runs

A run that has a manifest writes all digests of that manifest to its lease, whether their blobs are there yet or not.
Pruning reads the leases of all living runs, and no lease begins before it is done. So whatever a run finds in the cache
after its lease was written stays there until the run ends. The next run removes the lease of a dead one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from ocifast.cache.folder import CacheFolder
from ocifast.cache.locks import KeyLocks
from ocifast.refusals import Lock, take_lock

__all__ = ["Lease", "Leases"]

_KEY = "leases"
_PATIENCE = 10.0
"""Seconds that a run waits for another one that prunes, which may have been stopped in the middle."""
_LIMIT = 16 << 20
"""Bytes of a lease that are read: an index of a thousand images has a tenth of it."""
_FORGOTTEN = 86400.0
"""Seconds that a lease counts on a file system without locks, where it cannot be known whether its run lives."""


class Lease:
    """What one run uses, until it is closed. Whatever fails is done without: what is pruned is fetched again."""

    def __init__(self, leases: Leases, path: Path, fd: int) -> None:
        self._leases = leases
        self._path = path
        self._fd = fd
        self._known: set[str] = set()

    def use(self, digests: Iterable[str]) -> None:
        """Adds some digests: of manifests, configs, layers, or diff IDs of decoded layers."""
        new = sorted(set(digests) - self._known)
        if not new or self._fd < 0:
            return
        with contextlib.suppress(OSError), self._leases.change():
            os.write(self._fd, "".join(f"{digest}\n" for digest in new).encode())
            self._known.update(new)

    def close(self) -> None:
        """Lets go of all of it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()


class Leases:
    """The leases of a cache.

    Args:
        folder: the cache's folder.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._locks = KeyLocks(folder)

    def take(self, digests: Iterable[str] = ()) -> Lease:
        """Begins one, of some digests; where nothing can be written it is one of nothing."""
        path, fd = self._folder.locks() / f"{os.urandom(8).hex()}.lease", -1
        if self._folder.is_writable():
            with contextlib.suppress(OSError), self.change():
                _ = list(self._living())
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                take_lock(fd, wait=False)
        lease = Lease(self, path, fd)
        lease.use(digests)
        return lease

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Keeps others from changing a lease, and from pruning. Raises OSError."""
        fd = self._locks.wait(_KEY, patience=_PATIENCE)
        try:
            yield
        finally:
            if fd is not None:
                with contextlib.suppress(OSError):
                    self._locks.forget(_KEY)
                os.close(fd)

    @contextlib.contextmanager
    def settled(self) -> Iterator[frozenset[str]]:
        """What is in use; nobody begins to use something else until the block ends. Raises OSError."""
        try:
            self._folder.locks().mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            # Others have put something else there: nobody can have a lease.
            yield frozenset()
            return
        with self.change():
            yield frozenset(digest for told in self._living() for digest in told.split())

    def _living(self) -> Iterator[str]:
        """What the leases of living runs say; those of dead ones are removed."""
        for path in self._folder.locks().glob("*.lease"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(fd, "rb") as file:
                    found = take_lock(fd, wait=False)
                    old = time.time() - os.fstat(fd).st_mtime > _FORGOTTEN
                    if found is Lock.HELD or (found is Lock.MISSING and old):
                        path.unlink()
                    else:
                        yield file.read(_LIMIT).decode("ascii")
