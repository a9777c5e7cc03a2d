"""Restart points of blobs that are kept: from where a blob of gzip can be inflated, noted when it was inflated first.

    points/ALGORITHM/HEX            of the blob with this digest
    points/ALGORITHM/HEX.entries    what its layer holds, so that a file of it is found without inflating all of it

A file says whose it is and has a checksum, and nothing that is read from it is believed: see `_core.check_points`.
What is damaged is removed, and noted again. Therefore files are not brought to the disk before they get their names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.cache.folder import CacheFolder
from ocifast.cache.kept import open_regular
from ocifast.errors import FileError, OcifastError
from ocifast.logs import logger

__all__ = ["BlobPoints", "NewPoints", "PointStore"]

_log = logger(__name__)

_ENTRIES = ".entries"


def _entries(place: Path) -> Path:
    return place.with_name(place.name + _ENTRIES)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


class NewPoints:
    """Two files on their way into the cache.

    Attributes:
        points: gets the restart points.
        entries: gets the entries of the layer.
    """

    def __init__(self, folder: Path) -> None:
        """Raises FileError: they cannot be made in `folder`."""
        self.points = NewFile(folder, mode=0o600, sync=False)
        try:
            self.entries = NewFile(folder, mode=0o600, sync=False)
        except BaseException:
            self.points.discard()
            raise

    def discard(self) -> None:
        """Removes what was not published."""
        self.points.discard()
        self.entries.discard()


class BlobPoints:
    """The restart points of one blob.

    Args:
        folder: the cache's folder.
        place: where they are, or will be.
        blob: where the blob is, or will be.
    """

    def __init__(self, folder: CacheFolder, place: Path, blob: Path) -> None:
        self._folder = folder
        self._place = place
        self._blob = blob

    def open(self) -> int | None:
        """An open file, which the caller closes; None when there is none."""
        try:
            return open_regular(self._place)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.drop(error)
            return None

    def layer(self) -> _core.LayerTable | None:
        """The entries of the blob's layer; None when they are not known."""
        try:
            fd = open_regular(_entries(self._place))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.drop(error)
            return None
        try:
            return _core.LayerTable(fd)
        except OcifastError as error:
            self.drop(error)
            return None
        finally:
            os.close(fd)

    def begin(self) -> NewPoints | None:
        """New files to note them in; None, with a line in the log, where nothing can be written."""
        if not self._folder.is_writable():
            return None
        try:
            return NewPoints(self._folder.beside())
        except (FileError, OSError) as error:
            self._folder.failed(f"what is noted of {self._blob.name}", error)
            return None

    def publish(self, made: NewPoints, *, entries: bool) -> None:
        """Gives complete files their names, if the blob was kept. A failure is a line in the log: nobody waits for it.

        Args:
            made: the files.
            entries: whether the entries are complete as well.
        """
        try:
            if os.path.lexists(self._blob):
                for folder in (self._place.parent.parent, self._place.parent):
                    folder.mkdir(mode=0o700, exist_ok=True)
                _entries(self._place).unlink(missing_ok=True)
                if entries:
                    made.entries.publish(_entries(self._place))
                made.points.publish(self._place)
                self._folder.grew(_size(self._place) + _size(_entries(self._place)))
        except (FileError, OSError) as error:
            self._folder.failed(f"what was noted of {self._blob.name}", error)
        finally:
            made.discard()

    def drop(self, why: str | Exception) -> None:
        """Removes what is damaged, with a line in the log."""
        _log.warning("restart points %s are not used, and noted again: %s", self._place, why)
        for path in (self._place, _entries(self._place)):
            with contextlib.suppress(OSError):
                path.unlink()


class PointStore:
    """The restart points of all blobs of a cache.

    Args:
        folder: the cache's folder.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder

    def of(self, digest: str) -> BlobPoints:
        """Those of a blob."""
        return BlobPoints(self._folder, self._path("points", digest), self._path("blobs", digest))

    def size(self, digest: str) -> int:
        """Bytes on disk that those of a blob take."""
        place = self._path("points", digest)
        return _size(place) + _size(_entries(place))

    def remove(self, digest: str) -> None:
        """Removes those of a blob that has gone. Raises OSError."""
        place = self._path("points", digest)
        place.unlink(missing_ok=True)
        _entries(place).unlink(missing_ok=True)

    def check(self, digest: str, size: int) -> bool:
        """Whether those of a blob of so many bytes are whole, or there are none; what is damaged is removed."""
        points = self.of(digest)
        fd = points.open()
        if fd is None:
            return True
        try:
            _core.check_points(fd, digest, size)
        except OcifastError as error:
            points.drop(error)
            return False
        finally:
            os.close(fd)
        return points.layer() is not None or not os.path.lexists(_entries(self._path("points", digest)))

    def sweep(self) -> None:
        """Removes those of blobs that are not there any more."""
        for path in self.paths():
            digest = f"{path.parent.name}:{path.name}"
            if not os.path.lexists(self._path("blobs", digest)):
                with contextlib.suppress(OSError):
                    self.remove(digest)

    def count(self) -> tuple[int, int]:
        """How many blobs have some, and the bytes on disk that they take."""
        sizes = [self.size(f"{path.parent.name}:{path.name}") for path in self.paths()]
        return len(sizes), sum(sizes)

    def paths(self) -> Iterator[Path]:
        """The places of all that are there."""
        found = self._folder.path.glob("points/*/*")
        return iter({path.with_name(path.name.removesuffix(_ENTRIES)) for path in found})

    def _path(self, kind: str, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self._folder.path / kind / algorithm / encoded
