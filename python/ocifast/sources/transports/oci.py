"""`oci:DIR[:TAG][@DIGEST]`: an image in an image layout."""

from __future__ import annotations

from ocifast import _core
from ocifast.errors import DigestInvalidError
from ocifast.reference import Location, invalid
from ocifast.sources import Destination, Source
from ocifast.sources.transports.transport import Access, Transport, existing_folder, named_path, path_of

__all__ = ["TRANSPORT", "parse_tagged"]


def parse_tagged(text: str, rest: str) -> Location:
    """`PATH[:TAG][@DIGEST]`, as layouts and archives of layouts have it."""
    transport = text.partition(":")[0]
    before, at, digest = rest.rpartition("@")
    if at and digest.startswith(("sha256:", "sha512:")):
        try:
            _core.check_digest(digest)
        except DigestInvalidError as error:
            raise invalid(text, error.message) from None
        rest = before
    else:
        digest = ""
    path, _, tag = rest.partition(":")
    if not path:
        raise invalid(text, f"the path is missing; write {transport}:PATH[:TAG]")
    return Location(text, transport, path=named_path(path), tag=tag or None, digest=digest or None)


def _source(location: Location, access: Access) -> Source:
    from ocifast.sources.layout import FolderFiles, LayoutSource

    path = path_of(location)
    folder = existing_folder(path, hint=f"a layout is a folder (an archive is written oci-archive:{path})")
    files = FolderFiles(folder, name=location.text, follow_links=access.follow_links)
    return LayoutSource(files, name=location.text, tag=location.tag, digest=location.digest)


def _destination(location: Location, access: Access) -> Destination:
    from ocifast.sources.layout_destination import LayoutDestination

    return LayoutDestination(path_of(location), name=location.text, tag=location.tag, sync=access.sync)


TRANSPORT = Transport(
    "oci",
    "oci:DIR[:TAG][@DIGEST]",
    "an image in an OCI image layout, a folder",
    parse_tagged,
    _source,
    _destination,
    on_disk="folder",
    marker="oci-layout",
    names_by_tag=True,
)
