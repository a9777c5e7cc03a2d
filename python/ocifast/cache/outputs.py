"""Compiled outputs by key.

The key is made of everything that the bytes depend on. Outputs are files; a folder is not cached: a copy of it could
not have its owners without root, and takes as long as making it again from cached blobs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile, reported
from ocifast.cache.kept import KeptFile, open_kept, seal
from ocifast.errors import FileError
from ocifast.file_data import clone_file, write_all
from ocifast.refusals import Lock, flush, flush_folder, take_lock
from ocifast.spec import CONFIG_LIMIT, MANIFEST_LIMIT

__all__ = ["CachedOutput", "OutputStore", "output_key"]

_log = logging.getLogger(__name__)

_FORM = 2
"""Version of how an entry is laid out; part of every key."""


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
    """

    path: Path
    kept: KeptFile
    manifest: bytes
    config: bytes
    facts: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.kept.size

    def place(self, destination: Path, *, mode: int = 0o666) -> None:
        """Makes a copy at `destination`, whole or not at all, in place of a file that is there.

        Args:
            destination: its folder must exist.
            mode: permissions before the umask.

        Raises:
            FileError: it could not be written.
        """
        with reported(destination), NewFile(destination.parent, mode=mode) as file:
            try:
                fd, now = open_kept(self.path, self.kept)
            except ValueError as error:
                raise FileError(f"{self.path} changed meanwhile: {error}; run this again") from None
            try:
                clone_file(fd, file.descriptor)
                status = os.fstat(fd)
            finally:
                os.close(fd)
            if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (now.size, now.mtime, now.ctime):
                raise FileError(f"{self.path} changed while it was copied; run this again")
            file.publish(destination)
            flush_folder(destination.parent)


def output_key(
    *,
    manifest: str,
    format: str,  # noqa: A002 - it is the word of the command line
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
    return hashlib.sha256(canonical.encode()).hexdigest()


class OutputStore:
    """The outputs of a cache.

    Args:
        folder: the cache's folder.
        prepare: makes or checks it; called before anything is read or written.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None]) -> None:
        self._folder = folder
        self._prepare = prepare

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds the key, among threads and processes: who waited finds what the other one has made.

        Raises:
            FileError: the lock cannot be made.
        """
        self._prepare()
        with reported(self._folder):
            held = self._locked(key, wait=True)
        assert held is not None
        try:
            yield
        finally:
            os.close(held)

    def get(self, key: str, *, always: bool = False) -> CachedOutput | None:
        """The output of a key, or None; one that is damaged is removed.

        Args:
            key: from `output_key`.
            always: hashes it even when nobody has written to it.

        Raises:
            FileError: the cache is not to be trusted (see `Cache.prepare`).
        """
        self._prepare()
        folder = self._place(key)
        if not folder.is_dir():
            return None
        try:
            entry = msgspec.json.decode((folder / "entry.json").read_bytes(), type=_Entry)
            manifest = _read(folder / "manifest.json", entry.manifest, MANIFEST_LIMIT)
            config = _read(folder / "config.json", entry.config, CONFIG_LIMIT)
            output = folder / "output"
            fd, kept = open_kept(output, entry.output, always=always)
            os.close(fd)
            if kept != entry.output:
                # Copied or restored, and the same: what is true of it now is written down.
                with NewFile(folder, mode=0o600) as file:
                    write_all(file.descriptor, msgspec.json.encode(msgspec.structs.replace(entry, output=kept)))
                    file.publish(folder / "entry.json")
            os.utime(folder)
        except (OSError, ValueError, RecursionError, FileError) as error:
            _log.warning("cached output %s is damaged: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return CachedOutput(output, kept, manifest, config, entry.facts)

    def put(
        self, key: str, output: Path, *, manifest: bytes, config: bytes, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Keeps a copy of an output; blocks are shared with it where the file system can do that.

        Args:
            key: from `output_key`; the caller holds its lock.
            output: a finished file.
            manifest: bytes of the image's manifest.
            config: bytes of the image's config.
            facts: what `get` shall give back, as JSON can hold it.

        Raises:
            FileError: there is no room, or it cannot be written.
        """
        self._prepare()
        place = self._place(key)
        beside = self._folder / "tmp" / f"{key}.{os.urandom(8).hex()}"
        with reported(self._folder):
            place.parent.mkdir(mode=0o700, exist_ok=True)
            beside.mkdir(mode=0o700, parents=True)
            try:
                with output.open("rb", buffering=0) as source, (beside / "output").open("x+b") as copy:
                    clone_file(source.fileno(), copy.fileno())
                    kept = seal(copy.fileno())
                entry = _Entry(kept, _core.digest(manifest), _core.digest(config), dict(facts or {}))
                for name, data in (
                    ("manifest.json", manifest),
                    ("config.json", config),
                    ("entry.json", msgspec.json.encode(entry)),
                ):
                    with (beside / name).open("xb") as file:
                        file.write(data)
                        file.flush()
                        flush(file.fileno())
                flush_folder(beside)
                if place.exists():
                    shutil.rmtree(place)
                beside.rename(place)
                flush_folder(place.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def remove(self, key: str) -> bool:
        """Removes an entry, unless somebody holds its lock."""
        held = self._locked(key, wait=False)
        if held is None:
            return False
        try:
            self._clear(key)
            # Who waits for the lock finds that the file has lost its name, and makes another.
            self._lock_file(key).unlink(missing_ok=True)
        finally:
            os.close(held)
        return True

    def _clear(self, key: str) -> None:
        place = self._place(key)
        gone = self._folder / "tmp" / f"{key}.{os.urandom(8).hex()}"
        gone.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            # Renamed first: an entry is there as a whole or not at all.
            place.rename(gone)
        except OSError as error:
            # A folder of a lower layer of overlayfs cannot be renamed. Without this file it counts as missing.
            if error.errno != errno.EXDEV:
                raise
            (place / "entry.json").unlink(missing_ok=True)
            gone = place
        shutil.rmtree(gone)

    def _locked(self, key: str, *, wait: bool) -> int | None:
        """The open lock file of a key, locked until it is closed; None when somebody else has it.

        Where there are no locks, two runs may make the same output: each is whole, and the last one stays.
        """
        path = self._lock_file(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                taken = take_lock(descriptor, wait=wait)
                # It may have been removed between our opening and locking it.
                with contextlib.suppress(FileNotFoundError):
                    if taken is not Lock.BUSY and os.path.samestat(os.fstat(descriptor), path.lstat()):
                        kept, descriptor = descriptor, -1
                        return kept
                if taken is Lock.BUSY:
                    return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _place(self, key: str) -> Path:
        return self._folder / "outputs" / key

    def _lock_file(self, key: str) -> Path:
        return self._folder / "locks" / f"{key}.lock"


def _read(path: Path, digest: str, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if _core.digest(data) != digest:
        raise ValueError(f"{path.name} has another digest than {digest}")
    return data
