"""What names of images meant when a registry was asked last: for each reference and platform a digest and a time.

    references/HEX-HEX.json     HEX is the SHA-256 of the reference, then that of the platform

For each platform of its own, since an index may have moved on between two of them: who compiles one platform again
without a network gets the index of which that image was fetched.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.cache.folder import CacheFolder
from ocifast.cache.kept import open_regular
from ocifast.errors import OcifastError
from ocifast.file_data import write_all
from ocifast.models import readable
from ocifast.removal import remove_entry

__all__ = ["ReferenceStore", "Resolved"]

_LIMIT = 64 << 10
"""Bytes of an entry that are read."""


@readable
class Resolved(msgspec.Struct, frozen=True):
    """What a name meant.

    Attributes:
        reference: the name in full.
        platform: the platform that was asked for, "all" where an index was taken whole.
        digest: of the manifest or index.
        at: when, in seconds since 1970.
    """

    reference: str
    platform: str
    digest: str
    at: float

    @property
    def when(self) -> str:
        """The time for people, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.at))


class ReferenceStore:
    """The resolved references of a cache.

    Args:
        folder: the cache's folder.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder

    def put(self, reference: str, platform: str, digest: str) -> None:
        """Notes what a name means now. What cannot be noted is a warning."""
        if not self._folder.is_writable():
            return
        resolved = Resolved(reference, platform, digest, time.time())
        place = self._place(reference, platform)
        try:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with NewFile(place.parent, mode=0o600) as file:
                write_all(file.fd, msgspec.json.encode(resolved))
                # Not flushed: after a power failure the name is asked for again.
                file.path.rename(place)
        except (OcifastError, OSError) as error:
            self._folder.failed(f"what {reference} means", error)

    def get(self, reference: str, platform: str) -> Resolved | None:
        """What a name meant last, for this platform, or else for the one that was asked for last; None if never."""
        if not self._folder.is_readable():
            return None
        paths = (self._folder.path / "references").glob(f"{_hex(reference)}-*.json")
        found = [resolved for path in paths if (resolved := _read(path)) is not None]
        found = [each for each in found if each.reference == reference]
        chosen = max(found, key=lambda each: (each.platform == platform, each.at), default=None)
        if chosen is not None:
            with contextlib.suppress(OSError):
                os.utime(self._place(chosen.reference, chosen.platform))
        return chosen

    def items(self) -> Iterator[tuple[str, int, float, Resolved | None]]:
        """Of each entry its name, the bytes on disk, when it was used last, and what it says, unless it is damaged."""
        for path in self._folder.path.glob("references/*.json"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                yield path.stem, status.st_blocks * 512, status.st_mtime, _read(path)

    def path(self, name: str) -> Path:
        """Where the entry of a name of `items` is."""
        return self._folder.path / "references" / f"{name}.json"

    def remove(self, name: str) -> None:
        """Removes an entry by its name. Raises OSError."""
        remove_entry(self.path(name))

    def _place(self, reference: str, platform: str) -> Path:
        return self.path(f"{_hex(reference)}-{_hex(platform)}")


def _hex(text: str) -> str:
    return _core.digest(text.encode()).partition(":")[2]


def _read(path: Path) -> Resolved | None:
    """An entry; None when it is gone or damaged, which is a name that is asked for again."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            found = msgspec.json.decode(file.read(_LIMIT), type=Resolved)
        _core.check_digest(found.digest)
    except (OSError, ValueError, RecursionError, OcifastError):
        return None
    return found
