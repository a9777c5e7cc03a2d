"""`docker-archive:FILE[:NAME[:TAG]]`, `docker-archive:FILE:@N`: an image in what `docker save` writes."""

from __future__ import annotations

import re

from ocifast.errors import UsageError
from ocifast.reference import Location, Reference, invalid, shown
from ocifast.sources import Destination, Source
from ocifast.sources.transports.transport import Access, Transport, existing_file, named_path, path_of

__all__ = ["TRANSPORT"]


def _parse(text: str, rest: str) -> Location:
    path, _, named = rest.partition(":")
    if not path:
        raise invalid(text, "the path is missing; write docker-archive:FILE[:NAME[:TAG]]")
    if named.startswith("@"):
        if not re.fullmatch(r"[0-9]{1,6}", named[1:], re.ASCII):
            raise invalid(text, f"{shown(named)} is not the number of an image; write @0 for the first one")
        return Location(text, "docker-archive", path=named_path(path), position=int(named[1:]))
    reference = Reference.parse(named) if named else None
    if reference is not None and reference.digest:
        raise invalid(text, "a Docker archive has no digests; write docker-archive:FILE:NAME:TAG")
    return Location(text, "docker-archive", path=named_path(path), reference=reference)


def _source(location: Location, access: Access) -> Source:
    from ocifast.sources.docker_archive import open_docker_archive

    path = existing_file(location, hint=f"an archive is a file (a layout is written oci:{location.path})")
    return open_docker_archive(path, name=location.text, reference=location.reference, position=location.position)


def _destination(location: Location, access: Access) -> Destination:
    from ocifast.sources.docker_archive_destination import DockerArchiveDestination

    if location.position is not None:
        raise UsageError(f"{location}: an archive is written with one image; leave the number out")
    path = path_of(location)
    return DockerArchiveDestination(path, name=location.text, reference=location.reference, sync=access.sync)


TRANSPORT = Transport(
    "docker-archive",
    "docker-archive:FILE[:NAME[:TAG]]",
    "an image in what docker save writes; docker-archive:FILE:@N for the one with number N",
    _parse,
    _source,
    _destination,
    on_disk="file",
    streams=True,
)
