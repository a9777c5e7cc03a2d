"""OCI archives: a tar of an image layout, read where it stands."""

from __future__ import annotations

from pathlib import Path

from ocifast.errors import ImageNotFoundError
from ocifast.sources import FileSlice
from ocifast.sources.members import Members

__all__ = ["ArchiveFiles"]


class ArchiveFiles:
    """The files of a layout in a tar, for `LayoutSource`.

    Raises:
        ImageNotFoundError: a tar of something else.
        DocumentError, FileError: see `Members`.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._members = Members(path, name=name)
        if self._members.find("oci-layout") is None:
            docker = self._members.find("manifest.json") is not None
            self._members.close()
            hint = f"a Docker archive, write docker-archive:{path}" if docker else "no image archive"
            raise ImageNotFoundError(f"{name}: the file has no oci-layout; it is {hint}", reference=name)

    def find(self, *parts: str) -> FileSlice | None:
        """As `Files.find`."""
        return self._members.find("/".join(parts))

    def close(self) -> None:
        """Removes what was unpacked."""
        self._members.close()
