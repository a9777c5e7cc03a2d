"""OCI archives: a tar of an image layout, read where it stands."""

from __future__ import annotations

from pathlib import Path

from ocifast.errors import DocumentError, ImageNotFoundError, ImageReferenceError, VerificationError
from ocifast.reference import Reference
from ocifast.sources import FileSlice, Source
from ocifast.sources.docker_archive import DockerArchiveSource
from ocifast.sources.layout import INDEX_LIMIT, LayoutSource, blob_parts
from ocifast.sources.members import Members
from ocifast.spec import INDEXES, MANIFESTS, OCI_INDEX, Document, decode_index

__all__ = ["ArchiveFiles", "open_archive"]


class ArchiveFiles:
    """The files of a layout in a tar, for `LayoutSource`. `close` closes the tar."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def find(self, *parts: str) -> FileSlice | None:
        """As `LayoutFiles.find`."""
        return self._members.find("/".join(parts))

    def close(self) -> None:
        """Removes what was unpacked."""
        self._members.close()


def open_archive(path: Path, *, name: str, tag: str | None = None, digest: str | None = None) -> Source:
    """An image of an OCI archive.

    `docker save` writes a layout with a `manifest.json` beside. Where the layout's index leads to nothing (some writers
    leave it empty), what `manifest.json` says is taken, as Docker itself does.

    Args:
        path: as `Members` takes it.
        name: how the user wrote the place.
        tag: see `LayoutSource`.
        digest: see `LayoutSource`.

    Raises:
        ImageNotFoundError: a tar of something else.
        DocumentError, FileError: see `Members`.
    """
    members = Members(path, name=name)
    try:
        has_docker = members.find("manifest.json") is not None
        if members.find("oci-layout") is None and members.find("index.json") is None:
            hint = f"a Docker archive, write docker-archive:{path}" if has_docker else "no image archive"
            raise ImageNotFoundError(f"{name}: the file has no oci-layout; it is {hint}", reference=name)
        if has_docker and digest is None and not _leads_somewhere(members, name):
            return DockerArchiveSource(members, name=name, reference=_reference(tag))
        return LayoutSource(ArchiveFiles(members), name=name, tag=tag, digest=digest)
    except BaseException:
        members.close()
        raise


def _leads_somewhere(members: Members, name: str) -> bool:
    """Whether `index.json` can be read and names a manifest or index that is there."""
    try:
        raw = members.read("index.json", INDEX_LIMIT)
        entries = () if raw is None else decode_index(Document(OCI_INDEX, raw), name=name).manifests
    except (DocumentError, VerificationError):
        return False
    known = (entry for entry in entries if entry.media_type in MANIFESTS | INDEXES)
    return any(members.find("/".join(blob_parts(entry.digest))) is not None for entry in known)


def _reference(tag: str | None) -> Reference | None:
    try:
        return None if tag is None else Reference.parse(tag)
    except ImageReferenceError:
        return None
