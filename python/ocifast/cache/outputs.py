"""Compiled outputs by key.

The key is made of everything that the bytes depend on. Outputs are files; a folder is not cached: a copy of it could
not have its owners without root, and takes as long as making it again from cached blobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile, PrivateFolder, reported
from ocifast.cache.flight import Listener
from ocifast.cache.folder import CacheFolder
from ocifast.cache.following import never
from ocifast.cache.kept import KeptFile, copy_with_digest, open_kept, open_regular, seal
from ocifast.cache.locks import KeyLocks
from ocifast.errors import FileError
from ocifast.file_data import clone_file, write_all
from ocifast.logs import logger
from ocifast.models import readable
from ocifast.progress import Progress
from ocifast.records import dataclass
from ocifast.refusals import flush, flush_folder
from ocifast.removal import remove_entry
from ocifast.spec import CONFIG_LIMIT, MANIFEST_LIMIT

__all__ = ["CachedOutput", "OutputStore", "output_key"]

_log = logger(__name__)

_FORM = 5
"""Version of how an entry is laid out; part of every key."""
_ENTRY_LIMIT = 64 << 20
"""Bytes of `entry.json` that are read: what we write has a sample of paths for each loss, and is far shorter."""


@readable
class _Entry(msgspec.Struct, frozen=True):
    """`entry.json`: what must be true of the other files of an entry, and what the caller wanted remembered."""

    output: KeptFile
    manifest: str
    config: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class CachedOutput:
    """An output in the cache. The file is the cache's own: copy it with `place`, never hand it out or change it.

    Attributes:
        path: the file.
        kept: what is true of it.
        manifest: bytes of the image's manifest.
        config: bytes of the image's config.
        facts: what the caller gave to `OutputStore.put`.
        copy: a file that was written at the same time, to be placed; None where there is none.
    """

    path: Path
    kept: KeptFile
    manifest: bytes
    config: bytes
    facts: Mapping[str, Any]
    copy: NewFile | None = None

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.kept.size

    def place(self, destination: Path, *, mode: int = 0o666, sync: bool = True) -> bool:
        """Makes a copy at `destination`, whole or not at all, in place of a file that is there.

        Args:
            destination: its folder must exist.
            mode: permissions before the umask.
            sync: whether it is on the disk when this returns.

        Returns:
            False, with a line in the log, when the cached file cannot be read any more or has changed: make it anew.

        Raises:
            FileError: it could not be written.
        """
        if self.copy is not None:
            if sync:
                with reported(destination):
                    flush(self.copy.fd)
            self.copy.publish(destination)
            if sync:
                flush_folder(destination.parent)
            return True
        try:
            fd, now = open_kept(self.path, self.kept)
        except (OSError, ValueError) as error:
            _log.warning("cached output %s is damaged: %s", self.path.parent, error)
            return False
        try:
            with reported(destination), NewFile(destination.parent, mode=mode, sync=sync) as file:
                clone_file(fd, file.fd)
                if not now.describes(fd):
                    _log.warning("cached output %s changed while it was copied, and is made again", self.path.parent)
                    return False
                file.publish(destination)
                if sync:
                    flush_folder(destination.parent)
        finally:
            os.close(fd)
        return True


def output_key(
    *,
    manifest: str,
    format: str,
    backend: str,
    packer: str,
    options: Mapping[str, object],
) -> str:
    """The key of an output: the same exactly when the bytes would be.

    Args:
        manifest: digest of the image's manifest.
        format: `erofs`, `squashfs`, ...
        backend: which packer makes it.
        packer: its name and version.
        options: all options that change the bytes; values as in JSON.

    Returns:
        64 hexadecimal digits.
    """
    facts = {
        "form": _FORM,
        "manifest": manifest,
        "format": format,
        "backend": backend,
        "packer": packer,
        "options": dict(options),
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return _core.digest(canonical.encode()).partition(":")[2]


class OutputStore:
    """The outputs of a cache.

    Args:
        folder: the cache's folder.
        always_hash: hashes what is read, whatever was recorded of it.
    """

    def __init__(self, folder: CacheFolder, *, always_hash: bool = False) -> None:
        self._folder = folder
        self._locks = KeyLocks(folder)
        self._always_hash = always_hash

    @contextlib.contextmanager
    def lock(
        self,
        key: str,
        *,
        stopped: Callable[[], bool] = never,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[int | None]:
        """Holds the key, among threads and processes: who waited finds what the other one has made.

        Where it cannot be had, with a warning, the block runs without: two runs may make the same output, each whole.

        Args:
            key: from `output_key`.
            stopped: whether the output is not wanted any more.
            waiting: called now and then while somebody else has it.

        Returns:
            The lock file, open; None where there is none.

        Raises:
            CancelledError: `stopped` said so.
        """
        held = None
        if self._folder.is_readable():
            try:
                held = self._locks.wait(key, stopped=stopped, waiting=waiting)
            except OSError as error:
                self._folder.failed(f"output {key}", error)
        try:
            yield held
        finally:
            if held is not None:
                os.close(held)

    def listener(self, key: str, layers: Collection[str], progress: Progress) -> Listener:
        """What `lock` calls while it waits, so that `progress` is told how far the other run is (see `Listener`)."""
        return Listener(self._locks.path(key), layers, progress)

    def get(self, key: str, *, always: bool = False) -> CachedOutput | None:
        """The output of a key, or None; one that is damaged is removed.

        Args:
            key: from `output_key`.
            always: hashes it even when nobody has written to it.
        """
        if not self._folder.is_readable():
            return None
        folder = self._place(key)
        try:
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise ValueError("it is no folder")
            entry = _entry(folder)
            manifest = _read(folder / "manifest.json", entry.manifest, MANIFEST_LIMIT)
            config = _read(folder / "config.json", entry.config, CONFIG_LIMIT)
            output = folder / "output"
            fd, kept = open_kept(output, entry.output, always=always or self._always_hash)
            os.close(fd)
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(folder):
                return None
            _log.warning("cached output %s is damaged: %s", folder, error)
            with contextlib.suppress(OSError):
                self._clear(key)
            return None
        if kept != entry.output:
            self._record(folder, msgspec.structs.replace(entry, output=kept))
        with contextlib.suppress(OSError):
            os.utime(folder)
        return CachedOutput(output, kept, manifest, config, entry.facts)

    def put(
        self,
        key: str,
        output: Path,
        *,
        manifest: bytes,
        config: bytes,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Keeps a copy of an output; blocks are shared with it where the file system can do that.

        What cannot be kept is a warning.

        Args:
            key: from `output_key`; the caller holds its lock.
            output: a finished file.
            manifest: bytes of the image's manifest.
            config: bytes of the image's config.
            facts: what `get` shall give back, as JSON can hold it.
        """
        if not self._folder.is_writable():
            return
        try:
            self._put(key, output, manifest, config, facts)
        except (OSError, FileError) as error:
            self._folder.failed(f"output {output.name}" if output.name != "output" else "the output", error)

    def take(
        self, key: str, output: NewFile, digest: str, *, manifest: bytes, config: bytes, facts: Mapping[str, Any]
    ) -> None:
        """Takes over a file that was made beside the cache's folders, and compared with `digest`: it is not copied.

        What cannot be kept is a warning, as of `put`, which has the other arguments.
        """
        if not self._folder.is_writable():
            return
        try:
            self._put(key, output.path, manifest, config, facts, taken=(output.fd, digest))
        except (OSError, FileError) as error:
            self._folder.failed("the output", error)

    def remove(self, key: str) -> bool:
        """Removes an entry, unless somebody holds its lock. Raises OSError."""
        held = self._locks.take(key)
        if held is None:
            return False
        try:
            self._clear(key)
            self._locks.forget(key)
        finally:
            os.close(held)
        return True

    def facts(self, key: str) -> Mapping[str, Any]:
        """What was said of an output when it was kept; nothing of one that is damaged."""
        try:
            return _entry(self._place(key)).facts
        except (OSError, ValueError, RecursionError):
            return {}

    def _put(
        self,
        key: str,
        output: Path,
        manifest: bytes,
        config: bytes,
        facts: Mapping[str, Any] | None,
        *,
        taken: tuple[int, str] | None = None,
    ) -> None:
        place = self._place(key)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with PrivateFolder(self._folder.beside()) as private:
            beside = private.subfolder("entry")
            if taken is not None:
                output.rename(beside / "output")
                kept, size = _sealed(*taken)
            else:
                with output.open("rb", buffering=0) as source, (beside / "output").open("x+b") as copy:
                    digest = copy_with_digest(source.fileno(), copy.fileno())
                    kept, size = _sealed(copy.fileno(), digest)
            entry = _Entry(kept, _core.digest(manifest), _core.digest(config), dict(facts or {}))
            for name, data in (
                ("manifest.json", manifest),
                ("config.json", config),
                ("entry.json", msgspec.json.encode(entry)),
            ):
                (beside / name).write_bytes(data)
            self._clear(key)
            beside.rename(place)
        self._folder.grew(size)

    def _record(self, folder: Path, entry: _Entry) -> None:
        """Writes down what is true of an output that was copied or restored, and is the same."""
        with contextlib.suppress(OSError, FileError), NewFile(folder, mode=0o600, sync=False) as file:
            write_all(file.fd, msgspec.json.encode(entry))
            file.publish(folder / "entry.json")

    def _clear(self, key: str) -> None:
        """Removes the entry of a key, whatever kind of file it is. Raises OSError."""
        place = self._place(key)
        # Without this file an entry counts as missing: it is there as a whole or not at all.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (place / "entry.json").unlink()
        remove_entry(place)

    def _place(self, key: str) -> Path:
        return self._folder.path / "outputs" / key


def _sealed(fd: int, digest: str) -> tuple[KeptFile, int]:
    """What is true of an output from here on, and its bytes on the disk."""
    boot = seal(fd)
    return KeptFile.of(fd, digest, boot), os.fstat(fd).st_blocks * 512


def _entry(folder: Path) -> _Entry:
    with os.fdopen(open_regular(folder / "entry.json"), "rb") as file:
        return msgspec.json.decode(file.read(_ENTRY_LIMIT), type=_Entry)


def _read(path: Path, digest: str, limit: int) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if _core.digest(data) != digest:
        raise ValueError(f"{path.name} has another digest than {digest}")
    return data
