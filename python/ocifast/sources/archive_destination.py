"""OCI archives, written: a tar of an image layout, every byte once.

The length of a blob is known before it comes, so its place in the tar is too: several blobs are written side by side,
each where it belongs. The order is the announced one; the same image gives the same file, byte for byte.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.errors import FileError, UsageError
from ocifast.file_data import copy_bytes, write_all
from ocifast.sources import Source
from ocifast.sources.archive_place import ArchivePlace, archive_place
from ocifast.sources.layout import blob_parts
from ocifast.sources.layout_destination import LAYOUT_FILE, check_ref_name, new_entry, new_index
from ocifast.sources.verify import verified
from ocifast.spec import Descriptor, Document

__all__ = ["ArchiveDestination", "TarWriter"]

_BLOCK = 512
_LARGEST = (1 << 33) - 1
"""Bytes of the largest member whose size fits into the one block of a ustar header."""


class TarWriter:
    """A tar in a new file, whose members may be filled in any order. Safe to use from several threads.

    Members are regular files 0644 of root, of 1970: nothing of this machine is in it.

    Args:
        place: where the archive goes.
    """

    def __init__(self, place: ArchivePlace) -> None:
        self._place = place
        place.sweep()
        self._file = place.new_file(mode=0o666)
        self._end = 0
        self._folders: set[str] = set()
        self._is_open = False
        self._lock = threading.Lock()

    def folder(self, name: str) -> None:
        """Adds a folder, 0755, unless it is there."""
        if name in self._folders:
            return
        self._folders.add(name)
        self._add(name, None)

    def reserve(self, name: str, size: int) -> int:
        """Adds a member and returns the offset that its `size` bytes are to be written at."""
        return self._add(name, size)

    def write(self, data: bytes, offset: int) -> None:
        """Writes bytes of a member."""
        with self._place.writing():
            write_all(self._file.fd, data, offset)

    def copy(self, source: int, size: int, offset: int) -> None:
        """Fills a member with the first `size` bytes of an open file."""
        with self._place.writing():
            copy_bytes(source, self._file.fd, size, offset)

    def add(self, name: str, data: bytes) -> None:
        """Adds a small member."""
        self.write(data, self.reserve(name, len(data)))

    def open_member(self) -> tuple[int, int]:
        """Leaves room for the header of a member whose name and size are not known yet.

        Returns:
            A file descriptor and the offset of the data; nothing else may be added until `close_member`.
        """
        with self._lock:
            assert not self._is_open, "one member is open already"
            self._is_open = True
            return self._file.fd, self._end + _BLOCK

    def close_member(self, name: str | None, size: int) -> None:
        """Writes the header of the open member, or with no name takes back what was written of it."""
        with self._lock, self._place.writing():
            self._is_open = False
            if name is None:
                os.ftruncate(self._file.fd, self._end)
                return
            header = _core.tar_header(name.encode(), size) if size <= _LARGEST else _gnu_header(name, size)
            assert len(header) == _BLOCK, "the name of a blob is short"
            write_all(self._file.fd, header, self._end)
            self._end += _BLOCK + -(-size // _BLOCK) * _BLOCK

    def publish(self) -> None:
        """Ends the tar and gives it its name, or to standard output."""
        with self._place.writing():
            os.ftruncate(self._file.fd, self._end + 2 * _BLOCK)
        self._place.publish(self._file)

    def discard(self) -> None:
        """Removes it."""
        self._file.discard()

    def _add(self, name: str, size: int | None) -> int:
        header = _core.tar_header(name.encode(), size)
        blocks = -(-(size or 0) // _BLOCK)
        with self._lock:
            assert not self._is_open, "another member is open"
            start = self._end
            data = start + len(header)
            self._end = data + blocks * _BLOCK
        self.write(header, start)
        return data


def _gnu_header(name: str, size: int) -> bytes:
    """One block whatever the size, which pax headers of 8 GiB and more are not; all readers know the form."""
    # Not imported before it is needed: it brings all that compresses along.
    import tarfile

    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


class ArchiveDestination:
    """A new OCI archive; a file that has its name is replaced when all is written.

    Args:
        path: the archive; `-` is standard output, which gets nothing before all is written.
        name: how the user wrote the place.
        tag: the image's name in `index.json`, or None.
        sync: whether the archive is brought to the disk before it has its name.

    Raises:
        ImageReferenceError: a name that image-spec, annotations.md, does not allow.
        UsageError: the path is not that of a file.
    """

    is_remote = False
    holds_indexes = True

    def __init__(self, path: Path, *, name: str, tag: str | None = None, sync: bool = True) -> None:
        if tag is not None:
            check_ref_name(tag)
        self.name = name
        self._goes_to = archive_place(path, sync=sync)
        self._tag = tag
        self._lock = threading.Lock()
        self._tar: TarWriter | None = None
        self._places: dict[str, int] = {}
        self._complete: set[str] = set()
        self._root: Document | None = None

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        """Gives the blobs their places, in this order."""
        for descriptor in descriptors:
            self._place(descriptor)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was written to this archive already."""
        return descriptor.digest in self._complete

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """False: all bytes must come into the file."""
        return False

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Writes a blob at its place, verified; may be called from several threads, and again after a failure."""
        tar, offset = self._place(descriptor)
        for chunk in verified(descriptor, chunks, name=self.name):
            tar.write(chunk, offset)
            offset += len(chunk)
        with self._lock:
            self._complete.add(descriptor.digest)

    def open_slot(self) -> _ArchiveSlot:
        """Room for a blob (see `DirectDestination.open_slot`)."""
        with self._lock:
            return _ArchiveSlot(self, self._opened())

    def put_document(self, document: Document, *, root: bool) -> None:
        """Writes a manifest or index as a blob; `root` is what `index.json` will name."""
        descriptor = document.descriptor()
        if not self.has_blob(descriptor):
            self.put_blob(descriptor, [document.raw])
        if root:
            self._root = document

    def commit(self) -> None:
        """Writes `index.json` and the end, and gives the file its name."""
        if self._root is None or self._tar is None:
            raise UsageError(f"{self.name}: no manifest was written")
        missing = self._places.keys() - self._complete
        if missing:
            raise FileError(f"{self.name}: {len(missing)} blobs were announced and never written: {min(missing)}, …")
        listing = new_index()
        listing["manifests"].append(new_entry(self._root.descriptor(), self._tag))
        self._tar.add("index.json", msgspec.json.encode(listing))
        self._tar.publish()

    def abort(self) -> None:
        """Removes the unfinished file."""
        if self._tar is not None:
            self._tar.discard()

    def adopt(self, descriptor: Descriptor, offset: int) -> None:
        """Takes bytes of the archive for a blob; they are not read again."""
        with self._lock:
            self._places[descriptor.digest] = offset
            self._complete.add(descriptor.digest)

    def _place(self, descriptor: Descriptor) -> tuple[TarWriter, int]:
        with self._lock:
            tar = self._opened()
            if descriptor.digest not in self._places:
                parts = blob_parts(descriptor.digest)
                tar.folder("/".join(parts[:1]))
                tar.folder("/".join(parts[:2]))
                self._places[descriptor.digest] = tar.reserve("/".join(parts), descriptor.size)
            return tar, self._places[descriptor.digest]

    def _opened(self) -> TarWriter:
        if self._tar is None:
            self._tar = TarWriter(self._goes_to)
            self._tar.add("oci-layout", LAYOUT_FILE)
        return self._tar


class _ArchiveSlot:
    """A blob on its way into an archive, straight to its place: only the header before it is written last."""

    def __init__(self, destination: ArchiveDestination, tar: TarWriter) -> None:
        tar.folder("blobs")
        tar.folder("blobs/sha256")
        self.fd, self.offset = tar.open_member()
        self._destination = destination
        self._tar = tar
        self._open = True

    def complete(self, descriptor: Descriptor) -> None:
        """Names the blob; one that is there already stays."""
        if self._destination.has_blob(descriptor):
            self.discard()
            return
        self._tar.close_member("/".join(blob_parts(descriptor.digest)), descriptor.size)
        self._open = False
        self._destination.adopt(descriptor, self.offset)

    def discard(self) -> None:
        """Takes back what was written, unless it has its name."""
        if self._open:
            self._open = False
            self._tar.close_member(None, 0)
