"""`tar:FILE`: a root filesystem in one tar, as `docker export`, debootstrap and buildroot write it."""

from __future__ import annotations

from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.transports.plain import parse_path
from ocifast.sources.transports.transport import Access, Transport, existing_file

__all__ = ["TRANSPORT"]


def _source(location: Location, access: Access) -> Source:
    from ocifast.sources.single import open_tar

    path = existing_file(location, hint=f"a root filesystem in a folder is written dir:{location.path}")
    return open_tar(path, name=location.text)


TRANSPORT = Transport(
    "tar",
    "tar:FILE",
    "a root filesystem in one tar, as docker export writes it",
    parse_path,
    _source,
    on_disk="file",
    streams=True,
)
