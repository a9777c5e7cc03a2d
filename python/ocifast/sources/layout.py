"""OCI image layouts (image-spec, image-layout.md), read.

A layout is a folder with `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`. An OCI archive is the same names in a
tar, so the reading is written once, over `LayoutFiles`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ocifast.errors import DocumentError, ImageNotFoundError, ImageReferenceError, reason
from ocifast.reference import Reference
from ocifast.sources import FileSlice
from ocifast.sources.blobs import FileBlob, open_beneath, open_linked, read_all
from ocifast.sources.names import listed, means, same_image
from ocifast.sources.verify import check_bytes, read_small
from ocifast.spec import (
    INDEXES,
    MANIFEST_LIMIT,
    MANIFESTS,
    OCI_INDEX,
    Descriptor,
    Document,
    ImageIndex,
    decode_index,
    decode_manifest,
    fallback_tag,
    parse_document,
)

__all__ = ["CONTAINERD_NAME", "REF_NAME", "FolderFiles", "LayoutFiles", "LayoutSource", "blob_parts", "entry_names"]

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation of an entry of `index.json`: its tag, or whatever name the writer gave it (image-spec, annotations.md)."""
CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation of containerd and BuildKit: the full reference, beside the tag."""

INDEX_LIMIT = 16 << 20
"""Most bytes of an `index.json` that are read."""


class LayoutFiles(Protocol):
    """The files of a layout, wherever they are."""

    def find(self, *parts: str) -> FileSlice | None:
        """Where the bytes of a regular file stand, or None when there is none. Raises DocumentError, FileError."""
        ...

    def close(self) -> None:
        """Gives back what is open."""
        ...


class FolderFiles:
    """A layout in a folder.

    Args:
        folder: the layout's.
        name: how messages call the image.
        follow_links: whether links out of the folder are followed; those within it are in any case.
    """

    def __init__(self, folder: Path, *, name: str, follow_links: bool = False) -> None:
        self._folder = folder
        self._name = name
        self._follow_links = follow_links

    def find(self, *parts: str) -> FileSlice | None:
        """As `LayoutFiles.find`; links are followed as `open_linked` does."""
        try:
            fd, place = self._open(*parts)
        except FileNotFoundError:
            return None
        try:
            return FileSlice(place, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def read(self, *parts: str, limit: int) -> bytes | None:
        """A small file's bytes, or None when there is none."""
        try:
            fd, _ = self._open(*parts)
        except FileNotFoundError:
            return None
        return read_all(fd, limit, name=self._name, what="/".join(parts))

    def close(self) -> None:
        """Nothing is kept open."""

    def _open(self, *parts: str) -> tuple[int, Path]:
        places = [self._folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
        if any(place.is_symlink() for place in places):
            return open_linked(self._folder, *parts, name=self._name, anywhere=self._follow_links)
        return open_beneath(self._folder, *parts, name=self._name), places[-1]


class LayoutSource:
    """One image or index of a layout.

    Args:
        files: the layout's files.
        name: how the user wrote the place.
        tag: the name of an entry of `index.json`; None takes the only one.
        digest: of a manifest or index in the layout, whether `index.json` names it or not; wins over `tag`.

    Raises:
        ImageNotFoundError: there is no layout at all.
        DocumentError: a layout of a version that is not known.
    """

    def __init__(self, files: LayoutFiles, *, name: str, tag: str | None = None, digest: str | None = None) -> None:
        self.name = name
        self._files = files
        self._tag = tag
        self._digest = digest
        # Some writers (ocipkg 0.4) leave the version out, and all other readers do without.
        version = _read(files, "oci-layout", name=name)
        if version is not None or files.find("index.json") is None:
            check_layout_version(version, name=name)

    def root(self) -> Document:
        """The named manifest or index, verified against the digest that names it (see `Source.root`)."""
        if self._digest is not None:
            return self._by_digest(self._digest)
        raw = _read(self._files, "index.json", name=self.name)
        if raw is None:
            raise ImageNotFoundError(f"{self.name}: the layout has no index.json", reference=self.name)
        listing = decode_index(Document(OCI_INDEX, raw), name=f"{self.name}: index.json")
        entry = _pick(listing, self._tag, name=self.name)
        if entry is None:
            return parse_document(raw, OCI_INDEX, name=f"{self.name}: index.json")
        return self.document(entry)

    def document(self, descriptor: Descriptor) -> Document:
        """A manifest or index by its descriptor, verified (see `Source.document`)."""
        raw = read_small(self.blob(descriptor), descriptor, MANIFEST_LIMIT, name=self.name)
        return parse_document(raw, descriptor.media_type, name=f"{self.name}: manifest {descriptor.digest}")

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether there is a file of this digest (see `Source.holds`); a damaged one is there."""
        return self.size_of(descriptor.digest) is not None

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> FileBlob:
        """A blob as a slice of a local file (see `Source.blob`)."""
        found = self._files.find(*blob_parts(descriptor.digest))
        return FileBlob.of(found, descriptor, offset, name=self.name)

    def tagged(self, tag: str) -> Document | None:
        """What an entry of `index.json` with exactly this name leads to (see `AttachedSource`)."""
        entry = next((entry for entry in self._listing() if tag in entry_names(entry)), None)
        return None if entry is None or entry.media_type not in MANIFESTS | INDEXES else self.document(entry)

    def names(self) -> tuple[str, ...]:
        """The names of all entries of `index.json`, the tag of each where it has one, in their order."""
        return tuple(dict.fromkeys(name for entry in self._listing() for name in entry_names(entry)[:1]))

    def referring(self, digest: str) -> Iterator[Descriptor]:
        """What refers to a manifest: entries of `index.json` that are artifacts, and the list under the fallback tag.

        See `AttachedSource`, and image-spec, image-layout.md, for entries that are referrers.
        """
        found = self.tagged(fallback_tag(digest))
        if found is not None and found.is_index:
            yield from decode_index(found, name=f"{self.name}: referrers of {digest}").manifests
        for entry in self._listing():
            if entry.artifact_type is not None and entry.media_type in MANIFESTS and self.holds(entry):
                subject = decode_manifest(self.document(entry), name=self.name).subject
                if subject is not None and subject.digest == digest:
                    yield entry

    def close(self) -> None:
        """Gives the files back."""
        self._files.close()

    def size_of(self, digest: str) -> int | None:
        """Length in bytes of the blob of this digest, or None when there is none."""
        found = self._files.find(*blob_parts(digest))
        return None if found is None else found.length

    def look_up(self, reference: Reference) -> Document | None:
        """The manifest or index that a registry's reference means, or None.

        With a digest that is the manifest of this digest, without one the entry of this full name.
        """
        if reference.digest is not None:
            return None if self.size_of(reference.digest) is None else self._by_digest(reference.digest)
        raw = _read(self._files, "index.json", name=self.name)
        if raw is None:
            return None
        listing = decode_index(Document(OCI_INDEX, raw), name=f"{self.name}: index.json")
        wanted = str(reference)
        named = [entry for entry in listing.manifests if any(same_image(wanted, known) for known in entry_names(entry))]
        return self.document(named[0]) if named else None

    def _listing(self) -> tuple[Descriptor, ...]:
        raw = _read(self._files, "index.json", name=self.name)
        return () if raw is None else decode_index(Document(OCI_INDEX, raw), name=f"{self.name}: index.json").manifests

    def _by_digest(self, digest: str) -> Document:
        found = self._files.find(*blob_parts(digest))
        if found is None:
            raise ImageNotFoundError(f"{self.name}: there is no manifest {digest}", reference=self.name)
        if found.length > MANIFEST_LIMIT:
            raise DocumentError(f"{self.name}: {digest} is {found.length} bytes long, too many for a manifest")
        raw = b"".join(FileBlob(found.path, found.offset, found.length, name=self.name))
        check_bytes(Descriptor("", digest, found.length), raw, name=self.name)
        return parse_document(raw, None, name=f"{self.name}: {digest}")


def blob_parts(digest: str) -> tuple[str, str, str]:
    """Where a blob stands in a layout. The digest comes from a `Descriptor`, which has checked it."""
    algorithm, _, encoded = digest.partition(":")
    return ("blobs", algorithm, encoded)


def entry_names(entry: Descriptor) -> tuple[str, ...]:
    """The names that an entry of `index.json` goes by, the tag first."""
    annotations = entry.annotations or {}
    return tuple(annotations[key] for key in (REF_NAME, CONTAINERD_NAME) if annotations.get(key))


def check_layout_version(raw: bytes | None, *, name: str) -> None:
    """Looks at the bytes of `oci-layout`. Raises ImageNotFoundError or DocumentError."""
    if raw is None:
        raise ImageNotFoundError(f"{name}: this is not an OCI image layout, it has no file oci-layout", reference=name)
    try:
        version: Any = msgspec.json.decode(raw, type=dict[str, Any]).get("imageLayoutVersion")
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name}: oci-layout is not JSON: {reason(error)}", reference=name) from None
    if not isinstance(version, str) or not version.startswith("1."):
        raise DocumentError(f"{name}: the layout's version is {version!r}; only 1.x is known", reference=name)


def _read(files: LayoutFiles, part: str, *, name: str) -> bytes | None:
    found = files.find(part)
    if found is None:
        return None
    if found.length > INDEX_LIMIT:
        raise DocumentError(f"{name}: {part} is longer than {INDEX_LIMIT >> 20} MiB", reference=name)
    return b"".join(FileBlob(found.path, found.offset, found.length, name=name))


def _pick(listing: ImageIndex, tag: str | None, *, name: str) -> Descriptor | None:
    """The entry that a tag names, or the only one; None when `index.json` is one index of platforms itself."""
    entries = [entry for entry in listing.manifests if entry.media_type in MANIFESTS | INDEXES]
    named = {known for entry in entries for known in entry_names(entry)[:1]}
    names = [*sorted(named), *sorted({f"@{entry.digest}" for entry in entries if not entry_names(entry)})]
    if tag is None:
        if not entries:
            raise ImageNotFoundError(f"{name}: the layout holds no image", reference=name)
        if len({entry.digest for entry in entries}) == 1:
            return entries[0]
        if len(named) <= 1 and all(entry.platform is not None for entry in entries):
            return None
        raise ImageReferenceError(f"{name}: the layout holds several images; name one of {listed(names)}")
    found = [entries[position] for position in means(tag, [entry_names(entry) for entry in entries])]
    if not found:
        raise ImageNotFoundError(f"{name}: there is no {tag!r}; the layout has {listed(names)}", reference=name)
    if len({entry.digest for entry in found}) > 1:
        if not any(tag in entry_names(entry) for entry in found):
            full = sorted({known for entry in found for known in entry_names(entry) if "/" in known})
            raise ImageReferenceError(f"{name}: {tag!r} is the tag of several images; name one of {listed(full)}")
        raise DocumentError(f"{name}: {tag!r} names {len(found)} different images; use @DIGEST", reference=name)
    return found[0]
