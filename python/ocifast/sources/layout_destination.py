"""OCI image layouts (image-spec, image-layout.md), written.

Blobs are written beside their place, flushed and renamed; `index.json` is replaced last, under a lock on the folder, so
that readers see the layout of before or of after and two writers lose nothing of each other.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ocifast.atomic import NewFile, reported, sweep_folder
from ocifast.digests import OpenFile
from ocifast.errors import (
    DocumentError,
    FileError,
    ImageReferenceError,
    OcifastError,
    UsageError,
    VerificationError,
    reason,
)
from ocifast.file_data import clone_file, copy_bytes, write_all
from ocifast.leftovers import is_private
from ocifast.logs import logger
from ocifast.patterns import pattern
from ocifast.refusals import flush_folder, locked_folder
from ocifast.sources import FileSlice, Source
from ocifast.sources.blobs import open_beneath, read_all
from ocifast.sources.layout import INDEX_LIMIT, REF_NAME, blob_parts, check_layout_version
from ocifast.sources.verify import verified
from ocifast.spec import MANIFEST_LIMIT, OCI_INDEX, Descriptor, Document, decode_manifest

__all__ = ["LAYOUT_FILE", "LayoutDestination", "check_ref_name", "new_entry", "new_index"]

_log = logger(__name__)


LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'

_REF_COMPONENT = r"[A-Za-z0-9]+(?:(?:--|[-._:@+])[A-Za-z0-9]+)*"
_REF_NAME = pattern(rf"{_REF_COMPONENT}(?:/{_REF_COMPONENT})*")


class LayoutDestination:
    """A layout that an image is added to; the folder is made when it is missing.

    Args:
        folder: the layout's folder: missing, empty, or a layout.
        name: how the user wrote the place.
        tag: the name that the image gets in `index.json`, instead of the entry that had it; None adds it unnamed.
        sync: whether files are brought to the disk before they have their names, and their folders after.

    Raises:
        ImageReferenceError: a name that image-spec, annotations.md, does not allow.
        UsageError: the folder holds something else.
    """

    is_remote = False
    holds_indexes = True

    def __init__(self, folder: Path, *, name: str, tag: str | None = None, sync: bool = True) -> None:
        if tag is not None:
            check_ref_name(tag)
        self.name = name
        self._folder = folder
        self._tag = tag
        self._sync = sync
        self._lock = threading.Lock()
        self._made: list[Path] = []
        self._written: set[str] = set()
        self._relied_on: dict[str, Descriptor] = {}
        self._root: Document | None = None
        self._swept = False
        with reported(folder):
            if not folder.exists():
                return
            names = [inner.name for inner in folder.iterdir()] if folder.is_dir() else ["a file"]
        if "oci-layout" in names:
            self._listing()
        elif not all(map(is_private, names)):
            raise UsageError(f"{folder} is no image layout; name an empty or a new folder")

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        """Does nothing: the order of a layout's blobs shows nowhere."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is in the layout: of its size, and hashed once. One that is damaged will be replaced."""
        with self._lock:
            known = self._relied_on.get(descriptor.digest)
            if known is not None and known.size == descriptor.size:
                return True
        try:
            opened = open_beneath(self._folder, *blob_parts(descriptor.digest), name=self.name)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(opened).st_size != descriptor.size:
                return False
            try:
                _check(opened, descriptor, self.name)
            except VerificationError as error:
                _log.warning("%s: blob %s is damaged, and replaced: %s", self.name, descriptor.digest, error.message)
                return False
        finally:
            os.close(opened)
        with self._lock:
            self._relied_on[descriptor.digest] = descriptor
        return True

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """False: a layout shares no blobs with other places."""
        return False

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Writes a blob, verified (see `Destination.put_blob`); may be called from several threads."""
        self._write(descriptor, chunks)

    def put_file(self, descriptor: Descriptor, file: FileSlice) -> None:
        """Writes a blob from a file (see `FileDestination.put_file`); extents are shared where that is possible."""
        with self._new_blob(descriptor) as new:
            with file.path.open("rb", buffering=0) as source:
                if file.offset == 0 and os.fstat(source.fileno()).st_size == file.length:
                    clone_file(source.fileno(), new.fd)
                else:
                    copy_bytes(source.fileno(), new.fd, file.length, 0, source_offset=file.offset)
            # What is there is hashed, not what was meant to be copied.
            _check(new.fd, descriptor, self.name)

    def open_slot(self) -> _LayoutSlot:
        """Room for a blob (see `DirectDestination.open_slot`)."""
        self._prepare("blobs", "sha256")
        return _LayoutSlot(self, self._new_file())

    def adopt(self, descriptor: Descriptor, file: NewFile) -> None:
        """Takes a file of the layout's folder for a blob, whose bytes are not read again."""
        with reported(self._folder):
            file.publish(self._folder.joinpath(*blob_parts(descriptor.digest)))
        with self._lock:
            self._written.add(descriptor.digest)

    def put_document(self, document: Document, *, root: bool) -> None:
        """Writes a manifest or index as a blob; `root` is what `commit` enters in `index.json`."""
        descriptor = document.descriptor()
        if not self.has_blob(descriptor):
            self._write(descriptor, [document.raw])
        if root:
            self._root = document

    def commit(self) -> None:
        """Enters the image in `index.json`."""
        if self._root is None:
            raise UsageError(f"{self.name}: no manifest was written")
        self._prepare()
        with reported(self._folder), locked_folder(self._folder):
            for descriptor in list(self._relied_on.values()):
                if not self._is_there(descriptor):
                    raise FileError(f"{self.name}: blob {descriptor.digest} was removed meanwhile; run this again")
            listing = self._listing()
            _enter(listing, _described(self._root), self._tag)
            if self._sync:
                for folder in {self._folder / "blobs" / digest.partition(":")[0] for digest in self._written}:
                    flush_folder(folder)
            self._replace("index.json", msgspec.json.encode(listing))
            if self._sync:
                flush_folder(self._folder)
        self._written.clear()
        self._made.clear()

    def abort(self) -> None:
        """Removes the blobs and folders that this object has made, but not what another image has relied on since."""
        if not self._folder.is_dir():
            return
        with contextlib.suppress(OSError), locked_folder(self._folder):
            # A signal may have come after the image was entered, and before `commit` took note of that.
            for digest in set() if self._is_entered() else self._written - self._named():
                self._folder.joinpath(*blob_parts(digest)).unlink(missing_ok=True)
            if self._made and not (self._folder / "index.json").exists():
                (self._folder / "oci-layout").unlink(missing_ok=True)
        self._written.clear()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made.clear()

    def _is_entered(self) -> bool:
        try:
            entries = self._listing()["manifests"]
        except OcifastError:
            return False
        return self._root is not None and any(entry.get("digest") == self._root.digest for entry in entries)

    def _named(self) -> set[str]:
        """Digests of all that the images in `index.json` are made of, as far as they can be read."""
        try:
            waiting = self._listing()["manifests"]
        except OcifastError:
            return set()
        found: set[str] = set()
        while waiting:
            entry = waiting.pop()
            digest = entry.get("digest") if isinstance(entry, dict) else None
            if not isinstance(digest, str) or digest in found:
                continue
            found.add(digest)
            with contextlib.suppress(OSError, OcifastError, ValueError, RecursionError):
                opened = open_beneath(self._folder, *blob_parts(digest), name=self.name)
                if os.fstat(opened).st_size > MANIFEST_LIMIT:
                    # A layer, which names nothing.
                    os.close(opened)
                    continue
                raw = read_all(opened, MANIFEST_LIMIT, name=self.name, what=digest)
                if not raw.lstrip().startswith(b"{"):
                    continue
                read = msgspec.json.decode(raw, type=dict[str, Any])
                waiting += [read.get("config"), *(read.get("layers") or ()), *(read.get("manifests") or ())]
        return found

    def _write(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        with self._new_blob(descriptor) as file:
            for chunk in verified(descriptor, chunks, name=self.name):
                write_all(file.fd, chunk)

    @contextlib.contextmanager
    def _new_blob(self, descriptor: Descriptor) -> Iterator[NewFile]:
        """A file that is the blob when the block ends without an error."""
        parts = blob_parts(descriptor.digest)
        self._prepare(*parts[:2])
        with reported(self._folder), self._new_file() as file:
            yield file
            file.publish(self._folder.joinpath(*parts))
            with self._lock:
                self._written.add(descriptor.digest)

    def _is_there(self, descriptor: Descriptor) -> bool:
        try:
            opened = open_beneath(self._folder, *blob_parts(descriptor.digest), name=self.name)
        except FileNotFoundError:
            return False
        try:
            return os.fstat(opened).st_size == descriptor.size
        finally:
            os.close(opened)

    def _prepare(self, *parts: str) -> None:
        """Makes the folder and the folders in it; none of the latter may be a link."""
        with reported(self._folder), self._lock:
            missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
            for path in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    self._made.append(path)
            if not self._swept:
                self._swept = True
                sweep_folder(self._folder)
            # First of all, so that another writer who comes meanwhile finds a layout.
            if not (self._folder / "oci-layout").exists():
                self._replace("oci-layout", LAYOUT_FILE)
            inner = self._folder
            for part in parts:
                inner = inner / part
                with contextlib.suppress(FileExistsError):
                    inner.mkdir()
                    self._made.append(inner)
                if inner.is_symlink() or not inner.is_dir():
                    raise DocumentError(f"{self.name}: {inner} is not a folder; links in a layout are not followed")

    def _listing(self) -> dict[str, Any]:
        """The `index.json` as it stands, unknown fields included, or a new one."""
        try:
            version = open_beneath(self._folder, "oci-layout", name=self.name)
        except FileNotFoundError:
            return new_index()
        raw = read_all(version, INDEX_LIMIT, name=self.name, what="oci-layout")
        check_layout_version(raw, name=self.name)
        try:
            opened = open_beneath(self._folder, "index.json", name=self.name)
        except FileNotFoundError:
            return new_index()
        raw = read_all(opened, INDEX_LIMIT, name=self.name, what="index.json")
        try:
            listing = msgspec.json.decode(raw, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"{self.name}: index.json is not JSON: {reason(error)}", reference=self.name) from None
        entries = listing.get("manifests")
        if entries is not None and not (
            isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        ):
            raise DocumentError(f"{self.name}: index.json has no list of manifests", reference=self.name)
        return {**listing, "manifests": entries or []}

    def _new_file(self) -> NewFile:
        return NewFile(self._folder, sync=self._sync)

    def _replace(self, part: str, data: bytes) -> None:
        with self._new_file() as file:
            write_all(file.fd, data)
            file.publish(self._folder / part)


class _LayoutSlot:
    """A blob on its way into a layout: a file that gets its name when its digest is known."""

    offset = 0

    def __init__(self, destination: LayoutDestination, file: NewFile) -> None:
        self.fd = file.fd
        self._destination = destination
        self._file = file

    def complete(self, descriptor: Descriptor) -> None:
        """Gives the file the blob's name; a blob that is there already stays."""
        if self._destination.has_blob(descriptor):
            self.discard()
        else:
            self._destination.adopt(descriptor, self._file)

    def discard(self) -> None:
        """Removes the file, unless it has its name."""
        self._file.discard()


def _check(fd: int, descriptor: Descriptor, name: str) -> None:
    """Hashes an open file. Raises SizeMismatchError or DigestMismatchError."""
    for _ in verified(descriptor, OpenFile(fd), name=name):
        pass


def check_ref_name(tag: str) -> None:
    """Raises ImageReferenceError unless `tag` is a name as image-spec, annotations.md, allows it."""
    if not _REF_NAME.fullmatch(tag):
        raise ImageReferenceError(
            f"{tag[:150]!r} is no name for an image in a layout: letters and digits, joined by one of '-._:@+/'"
        )


def new_index() -> dict[str, Any]:
    """An `index.json` without entries."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def new_entry(descriptor: Descriptor, tag: str | None) -> dict[str, Any]:
    """The entry of `index.json` for an image."""
    made: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.artifact_type is not None:
        made["artifactType"] = descriptor.artifact_type
    if tag is not None:
        made["annotations"] = {REF_NAME: tag}
    return made


def _described(document: Document) -> Descriptor:
    """The descriptor of a manifest; what refers to another one says in the list what it is (image-layout.md)."""
    descriptor = document.descriptor()
    if document.is_index:
        return descriptor
    try:
        manifest = decode_manifest(document, name=document.digest)
    except DocumentError:
        # It is kept as it is, whatever it is.
        return descriptor
    if manifest.subject is None or manifest.artifact_type is None:
        return descriptor
    return msgspec.structs.replace(descriptor, artifact_type=manifest.artifact_type)


def _enter(listing: dict[str, Any], descriptor: Descriptor, tag: str | None) -> None:
    """Puts an entry in the place of the one of the same name, or at the end."""
    entries: list[dict[str, Any]] = listing["manifests"]
    names = [(old.get("annotations") or {}).get(REF_NAME) for old in entries]
    if tag is None:
        if all(old.get("digest") != descriptor.digest for old in entries):
            entries.append(new_entry(descriptor, None))
        return
    first = names.index(tag) if tag in names else len(entries)
    kept = [old for position, old in enumerate(entries) if names[position] != tag]
    kept.insert(min(first, len(kept)), new_entry(descriptor, tag))
    listing["manifests"] = kept
