"""Decoded layers by diff ID (docs/decisions/2026-11-27-decoded-layers.md).

    layers/ALGORITHM/XX/HEX.erofs       the layer's data, an erofs image of it alone
    layers/ALGORITHM/XX/HEX.entries     the table of its entries, with what is recorded of the other file

The table is published last: without one there is no layer. Its file is locked, shared, by those who read the layer, and
its mtime says when that was.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from ocifast import _core
from ocifast.cache.trust import Recorded, is_trusted
from ocifast.errors import FileError, OcifastError, UsageError
from ocifast.refusals import Lock, flush, flush_folder, take_lock

__all__ = ["DecodedLayer", "LayerStore", "LayerWriter", "keep_layers"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodedLayer:
    """A decoded layer that is being read: it is not removed until `close`.

    Attributes:
        table: its entries.
        data: an open file with its data.
    """

    table: _core.LayerTable
    data: int
    _held: contextlib.ExitStack

    def close(self) -> None:
        """Lets go of it."""
        self._held.close()

    def __enter__(self) -> DecodedLayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()


class LayerStore:
    """The decoded layers of a cache.

    Args:
        folder: the cache's folder.
        prepare: makes or checks it; called before anything is read or written.
        always_hash: hashes what is read, whatever was recorded of it.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None], *, always_hash: bool = False) -> None:
        self._folder = folder
        self._prepare = prepare
        self._always_hash = always_hash

    def get(self, diff_id: str) -> DecodedLayer | None:
        """The decoded layer, or None; one that is damaged counts as missing, with a line in the log.

        Raises:
            FileError: the cache is not to be trusted (see `Cache.prepare`).
        """
        self._prepare()
        entries, image = self._places(diff_id)
        with contextlib.ExitStack() as held:
            try:
                table_fd = _opened(entries, held)
                # Who removes it has it already, or gets it when we are done.
                _share(table_fd, held)
                table = _core.LayerTable(table_fd)
                if table.diff_id != diff_id:
                    raise ValueError(f"it is {table.diff_id}")
                data = _opened(image, held)
                status = os.fstat(data)
                recorded = msgspec.json.decode(table.note, type=Recorded)
                whole = stat.S_ISREG(status.st_mode) and is_trusted(
                    recorded, status, lambda: _core.layer_digest(data), always_hash=self._always_hash
                )
                if not whole:
                    raise ValueError("its data have changed")
                with contextlib.suppress(OSError):
                    os.utime(table_fd)
            except (FileNotFoundError, BlockingIOError):
                return None
            except (OcifastError, OSError, ValueError) as error:
                _log.warning("kept layer %s is damaged, and decoded again: %s", entries, error)
                return None
            return DecodedLayer(table, data, held.pop_all())

    def writer(self, diff_id: str) -> LayerWriter | None:
        """Begins to keep a layer; None, with a line in the log, where nothing can be written."""
        try:
            self._prepare()
            return LayerWriter(self, diff_id)
        except (FileError, OSError) as error:
            _log.warning("layer %s is not kept: %s", diff_id, error)
            return None

    def items(self) -> Iterator[tuple[Path, int, float]]:
        """The table of every layer, the bytes on disk of both files, and when it was used last."""
        for path in self._folder.glob("layers/*/*/*.entries"):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                data = path.with_suffix(".erofs").lstat()
                yield path, (status.st_blocks + data.st_blocks) * 512, status.st_mtime

    def remove(self, entries: Path) -> bool:
        """Removes a layer by its table, unless somebody reads it."""
        with self.lock():
            descriptor = os.open(entries, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if take_lock(descriptor, wait=False) is not Lock.HELD:
                    return False
                entries.unlink()
                entries.with_suffix(".erofs").unlink(missing_ok=True)
            finally:
                os.close(descriptor)
        return True

    def sweep(self, before: float) -> None:
        """Removes data whose table never came, or was removed, and that nobody has touched since `before`."""
        for path in self._folder.glob("layers/*/*/*.erofs"):
            with self.lock(), contextlib.suppress(OSError):
                if not path.with_suffix(".entries").exists() and path.lstat().st_ctime < before:
                    path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds all names of layers for the moment of a change. Without locks, renames alone keep each layer whole."""
        folder = self._folder / "locks"
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / "layers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            take_lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def _places(self, diff_id: str) -> tuple[Path, Path]:
        algorithm, _, encoded = diff_id.partition(":")
        place = self._folder / "layers" / algorithm / encoded[:2]
        return place / f"{encoded}.entries", place / f"{encoded}.erofs"

    def _new_folder(self) -> Path:
        beside = self._folder / "tmp" / f"layer.{os.urandom(8).hex()}"
        beside.mkdir(mode=0o700, parents=True)
        return beside

    def _publish(self, diff_id: str, beside: Path, data: int, kept: _core.KeptLayer) -> None:
        size, digest, _ = kept.complete()
        os.fchmod(data, 0o400)
        flush(data)
        entries, image = self._places(diff_id)
        for folder in (entries.parent.parent.parent, entries.parent.parent, entries.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        with self.lock():
            # A reader who opens the old table and the new data finds another file than was recorded, and decodes.
            (beside / "erofs").rename(image)
            recorded = Recorded.of(os.fstat(data), digest)
            if recorded.size != size:
                raise FileError(f"{image} has {recorded.size} bytes of {size}")
            kept.seal(msgspec.json.encode(recorded))
            descriptor = os.open(beside / "entries", os.O_RDONLY | os.O_CLOEXEC)
            try:
                flush(descriptor)
            finally:
                os.close(descriptor)
            (beside / "entries").rename(entries)
        flush_folder(entries.parent)


class LayerWriter:
    """A layer on its way into the cache: two files that nobody else sees until `publish`.

    Attributes:
        table: an open empty file for the table.
        data: one for the data.
    """

    def __init__(self, store: LayerStore, diff_id: str) -> None:
        self._store = store
        self._diff_id = diff_id
        self._beside = store._new_folder()
        self.table = self.data = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self.table = os.open(self._beside / "entries", flags, 0o600)
            self.data = os.open(self._beside / "erofs", flags, 0o600)
        except BaseException:
            self.close()
            raise

    def publish(self, kept: _core.KeptLayer) -> None:
        """Completes the files and gives them their names. A failure is a line in the log: nobody waits for them."""
        try:
            self._store._publish(self._diff_id, self._beside, self.data, kept)
        except (OcifastError, OSError) as error:
            _log.warning("layer %s is not kept: %s", self._diff_id, error)

    def close(self) -> None:
        """Removes what was not published."""
        for descriptor in (self.table, self.data):
            if descriptor >= 0:
                os.close(descriptor)
        self.table = self.data = -1
        shutil.rmtree(self._beside, ignore_errors=True)


def keep_layers(wanted: bool | None) -> bool | None:
    """What was asked for, or else what `OCIFAST_KEEP_LAYERS` says; without it no layer is kept.

    Keeping a layer costs a cold compile more than a default may (docs/performance.md); who compiles images that share
    layers, or one image to several formats at different times, asks for it.

    Returns:
        Whether decoded layers are kept; None (`auto`) for those that whole blocks do not more than double.

    Raises:
        UsageError: the variable is none of 1, 0 and auto.
    """
    text = os.environ.get("OCIFAST_KEEP_LAYERS", "")
    if wanted is not None or not text:
        return wanted or False
    if text not in ("0", "1", "auto"):
        raise UsageError(f"OCIFAST_KEEP_LAYERS is {text!r}; it must be 1, 0 or auto")
    return None if text == "auto" else text == "1"


def _opened(path: Path, held: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    held.callback(os.close, descriptor)
    return descriptor


def _share(descriptor: int, held: contextlib.ExitStack) -> None:
    """Locks a file for reading. Raises BlockingIOError when it is being removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Without locks nothing is removed while it may be read: see `remove`.
        return
    # The core has the file open as well: closing ours alone would not let go of it.
    held.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
