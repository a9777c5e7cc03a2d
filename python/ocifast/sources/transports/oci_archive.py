"""`oci-archive:FILE[:TAG][@DIGEST]`: an image in a tar of an image layout."""

from __future__ import annotations

from ocifast.reference import Location
from ocifast.sources import Destination, Source
from ocifast.sources.transports.oci import parse_tagged
from ocifast.sources.transports.transport import Access, Transport, existing_file, path_of

__all__ = ["TRANSPORT"]


def _source(location: Location, access: Access) -> Source:
    from ocifast.sources.archive import open_archive

    path = existing_file(location, hint=f"an archive is a file (a layout is written oci:{location.path})")
    return open_archive(path, name=location.text, tag=location.tag, digest=location.digest)


def _destination(location: Location, access: Access) -> Destination:
    from ocifast.sources.archive_destination import ArchiveDestination

    return ArchiveDestination(path_of(location), name=location.text, tag=location.tag, sync=access.sync)


TRANSPORT = Transport(
    "oci-archive",
    "oci-archive:FILE[:TAG][@DIGEST]",
    "an image in an OCI archive, a tar of a layout",
    parse_tagged,
    _source,
    _destination,
    on_disk="file",
    names_by_tag=True,
    streams=True,
)
