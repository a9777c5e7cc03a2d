"""`dir:DIR`: a root filesystem in a folder, as `debootstrap` and buildroot leave it."""

from __future__ import annotations

from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.transports.plain import parse_path
from ocifast.sources.transports.transport import Access, Transport, existing_folder, path_of

__all__ = ["TRANSPORT"]


def _source(location: Location, access: Access) -> Source:
    from ocifast.sources.folder import open_folder

    path = existing_folder(path_of(location), hint=f"a root filesystem in a tar is written tar:{location.path}")
    return open_folder(path, name=location.text)


TRANSPORT = Transport("dir", "dir:DIR", "a root filesystem in a folder", parse_path, _source, on_disk="folder")
