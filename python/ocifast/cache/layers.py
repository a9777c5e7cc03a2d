"""Decoded layers by diff ID (docs/decisions/2026-11-27-decoded-layers.md).

    layers/ALGORITHM/XX/HEX.erofs       the layer's data, an erofs image of it alone
    layers/ALGORITHM/XX/HEX.entries     the table of its entries, with what is recorded of the other file

The table is published last: without one there is no layer. Its file is locked, shared, by those who read the layer, and
its mtime says when that was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.cache.folder import CacheFolder
from ocifast.cache.following import never
from ocifast.cache.kept import KeptFile, open_kept, open_regular, seal
from ocifast.cache.locks import KeyLocks
from ocifast.errors import FileError, OcifastError, UsageError
from ocifast.file_data import clone_file
from ocifast.logs import logger
from ocifast.records import dataclass
from ocifast.refusals import Lock, take_lock

__all__ = ["DecodedLayer", "LayerStore", "LayerWriter", "keep_layers"]

_log = logger(__name__)

_PATIENCE = 900.0
"""Seconds after which a layer that another run decodes is decoded here as well."""


@dataclass(frozen=True)
class DecodedLayer:
    """A decoded layer that is being read: it is not removed until `close`.

    Attributes:
        table: its entries.
        data: an open file with its data.
        entries: the open file of the table.
    """

    table: _core.LayerTable
    data: int
    entries: int
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
        always_hash: hashes what is read, whatever was recorded of it.
    """

    def __init__(self, folder: CacheFolder, *, always_hash: bool = False) -> None:
        self._folder = folder
        self._locks = KeyLocks(folder)
        self._always_hash = always_hash

    def get(self, diff_id: str, *, always: bool = False) -> DecodedLayer | None:
        """The decoded layer, or None; one that is damaged, or of another version, is removed, with a line in the log.

        Args:
            diff_id: whose it is.
            always: hashes it even when nobody has written to it.
        """
        if not self._folder.is_readable():
            return None
        entries, image = self._places(diff_id)
        with contextlib.ExitStack() as held:
            try:
                table_fd = _opened(entries, held)
                # A run that removes it has locked it already, or waits until this lock is released.
                _share(table_fd, held)
                table = _core.LayerTable(table_fd)
                if table.diff_id != diff_id:
                    raise ValueError(f"it is {table.diff_id}")
                kept = msgspec.json.decode(table.note, type=KeptFile)
                data, now = open_kept(image, kept, always=always or self._always_hash, digest=_core.layer_digest)
                held.callback(os.close, data)
                if now != kept:
                    self._record(table, table_fd, entries, now)
                with contextlib.suppress(OSError):
                    os.utime(table_fd)
            except (FileNotFoundError, BlockingIOError):
                return None
            except (OcifastError, OSError, ValueError) as error:
                _log.warning("kept layer %s is of no use, and decoded again: %s", entries, error)
            else:
                return DecodedLayer(table, data, table_fd, held.pop_all())
        # Where layers are not kept nothing would replace it, and each run would say so again.
        with contextlib.suppress(OSError):
            self.remove(entries)
        return None

    def has_all(self, diff_ids: Iterable[str]) -> bool:
        """Whether all of these seem to be kept; nothing is read."""
        try:
            return self._folder.is_readable() and all(self._places(each)[0].exists() for each in diff_ids)
        except OSError:
            return False

    def mend(self, diff_ids: Iterable[str]) -> bool:
        """Whether one of these layers, which a run has read, is damaged by now, or gone; what is damaged is removed."""
        damaged = False
        for diff_id in diff_ids:
            layer = self.get(diff_id, always=True)
            if layer is not None:
                layer.close()
                continue
            damaged = True
            with contextlib.suppress(OSError):
                self.remove(self._places(diff_id)[0])
        return damaged

    @contextlib.contextmanager
    def claimed(self, diff_ids: Iterable[str], *, stopped: Callable[[], bool] = never) -> Iterator[None]:
        """Claims those of some layers that are missing, so that no other run decodes them meanwhile.

        Layers that another run decodes right now are waited for first, each once; they may be there then. A run that
        has claimed a layer waits for no other one, so that no two runs wait for each other.

        Args:
            diff_ids: of the layers.
            stopped: whether they are not wanted any more.

        Raises:
            CancelledError: `stopped` said so.
        """
        held: dict[str, int] = {}
        try:
            if self._folder.is_writable():
                try:
                    held = self._claim(sorted(set(diff_ids)), stopped)
                except OSError as error:
                    self._folder.failed("decoded layers", error)
            yield
        finally:
            for key, fd in held.items():
                with contextlib.suppress(OSError):
                    self._locks.forget(key)
                os.close(fd)

    def _claim(self, diff_ids: Sequence[str], stopped: Callable[[], bool]) -> dict[str, int]:
        waited: set[str] = set()
        while True:
            held: dict[str, int] = {}
            busy = None
            try:
                for diff_id in diff_ids:
                    key = f"layer-{diff_id.replace(':', '-')}"
                    if self._places(diff_id)[0].exists():
                        continue
                    fd = self._locks.take(key)
                    if fd is not None:
                        held[key] = fd
                    elif key not in waited:
                        busy = key
                        break
                if busy is None:
                    taken, held = held, {}
                    return taken
            finally:
                for fd in held.values():
                    os.close(fd)
            waited.add(busy)
            fd = self._locks.wait(busy, stopped=stopped, patience=_PATIENCE)
            if fd is not None:
                self._locks.forget(busy)
                os.close(fd)

    def writer(self, diff_id: str) -> LayerWriter | None:
        """Begins to keep a layer; None, with a line in the log, where nothing can be written."""
        if not self._folder.is_writable():
            return None
        try:
            return LayerWriter(self, self._folder, diff_id)
        except (FileError, OSError) as error:
            self._folder.failed(f"layer {diff_id}", error)
            return None

    def take_over(self, other: LayerStore, diff_id: str) -> bool:
        """Takes a layer over from another store; blocks are shared where the file system can do that.

        Returns:
            Whether it was there. What cannot be kept is a line in the log, as of `LayerWriter.publish`.
        """
        found = other.get(diff_id)
        if found is None:
            return False
        with found, contextlib.ExitStack() as held:
            writer = self.writer(diff_id)
            if writer is None:
                return False
            held.callback(writer.close)
            writer.copy(found)
        return True

    def items(self) -> Iterator[tuple[Path, int, float]]:
        """The table of every layer, the bytes on disk of both files, and when it was used last."""
        for path in self._folder.path.glob("layers/*/*/*.entries"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                size = status.st_blocks * 512
                with contextlib.suppress(FileNotFoundError):
                    size += path.with_suffix(".erofs").lstat().st_blocks * 512
                yield path, size, status.st_mtime

    def remove(self, entries: Path) -> bool:
        """Removes a layer by its table, unless somebody reads it."""
        with self.lock():
            fd = os.open(entries, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if take_lock(fd, wait=False) is not Lock.HELD:
                    return False
                entries.unlink()
                entries.with_suffix(".erofs").unlink(missing_ok=True)
            finally:
                os.close(fd)
        return True

    def sweep(self) -> None:
        """Removes data whose table never came, or was removed: both change under the lock of all names."""
        if not any(self._folder.path.glob("layers/*/*/*.erofs")):
            return
        with self.lock() as taken:
            if taken is not Lock.HELD:
                return
            for path in self._folder.path.glob("layers/*/*/*.erofs"):
                if not path.with_suffix(".entries").exists():
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[Lock]:
        """Holds all names of layers for the moment of a change. Without locks, renames alone keep each layer whole."""
        folder = self._folder.locks()
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / "layers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield take_lock(fd, wait=True)
        finally:
            os.close(fd)

    def _places(self, diff_id: str) -> tuple[Path, Path]:
        algorithm, _, encoded = diff_id.partition(":")
        place = self._folder.path / "layers" / algorithm / encoded[:2]
        return place / f"{encoded}.entries", place / f"{encoded}.erofs"

    def publish(
        self, diff_id: str, table: NewFile, data: NewFile, size: int, digest: str, complete: Callable[[bytes], None]
    ) -> None:
        """Gives the two files of a layer their names.

        Args:
            diff_id: whose they are.
            table: all but complete.
            data: complete.
            size: of the data, in bytes.
            digest: of the data; see `_core.layer_digest`.
            complete: completes the table with a note.

        Raises:
            OSError, FileError: they could not be published.
        """
        boot = seal(data.fd)
        entries, image = self._places(diff_id)
        for folder in (entries.parent.parent.parent, entries.parent.parent, entries.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        with self.lock():
            # A reader that opens the old table with the new data sees that the file is not the recorded one, and
            # decodes.
            data.path.rename(image)
            recorded = KeptFile.of(data.fd, digest, boot)
            if recorded.size != size:
                raise FileError(f"{image} has {recorded.size} bytes of {size}")
            complete(msgspec.json.encode(recorded))
            # Not flushed: a table that a power failure has damaged has another checksum.
            table.path.rename(entries)
            # It was locked as a file on its way; whoever wants the layer need not wait until the core closes it, too.
            with contextlib.suppress(OSError):
                fcntl.flock(table.fd, fcntl.LOCK_UN)
        self._folder.grew((os.fstat(table.fd).st_blocks + os.fstat(data.fd).st_blocks) * 512)

    def _record(self, table: _core.LayerTable, fd: int, entries: Path, now: KeptFile) -> None:
        """Writes down what is true of data that was copied or restored, or is of before a start, and is the same."""
        with contextlib.suppress(OcifastError, OSError), NewFile(self._folder.beside(), mode=0o600, sync=False) as file:
            table.copy(file.fd, msgspec.json.encode(now))
            with self.lock():
                if os.path.samestat(os.fstat(fd), entries.lstat()):
                    file.publish(entries)


class LayerWriter:
    """A layer on its way into the cache: two files that nobody else sees until `publish`.

    Attributes:
        table: an open empty file for the table.
        data: one for the data.
    """

    def __init__(self, store: LayerStore, folder: CacheFolder, diff_id: str) -> None:
        self._store = store
        self._folder = folder
        self._diff_id = diff_id
        beside = folder.beside()
        self._table = NewFile(beside, mode=0o600)
        try:
            self._data = NewFile(beside, mode=0o600)
        except BaseException:
            self._table.discard()
            raise
        self.table, self.data = self._table.fd, self._data.fd

    def publish(self, kept: _core.KeptLayer) -> None:
        """Completes the files and gives them their names. A failure is a line in the log: nobody waits for them."""
        try:
            size, digest, _ = kept.complete()
            self._store.publish(self._diff_id, self._table, self._data, size, digest, kept.seal)
        except (OcifastError, OSError) as error:
            self._folder.failed(f"layer {self._diff_id}", error)

    def copy(self, layer: DecodedLayer) -> None:
        """Completes the files with those of another store, and gives them their names. Fails as `publish`."""
        try:
            clone_file(layer.data, self.data)
            kept = msgspec.json.decode(layer.table.note, type=KeptFile)
            complete = partial(layer.table.copy, self.table)
            self._store.publish(self._diff_id, self._table, self._data, kept.size, kept.digest, complete)
        except (OcifastError, OSError) as error:
            self._folder.failed(f"layer {self._diff_id}", error)

    def close(self) -> None:
        """Removes what was not published."""
        self.table = self.data = -1
        self._table.discard()
        self._data.discard()


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
    fd = open_regular(path)
    held.callback(os.close, fd)
    return fd


def _share(fd: int, held: contextlib.ExitStack) -> None:
    """Locks a file for reading. Raises BlockingIOError when it is being removed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Without locks nothing is removed while it may be read: see `remove`.
        return
    # The core has the file open as well: closing ours alone would not let go of it.
    held.callback(fcntl.flock, fd, fcntl.LOCK_UN)
