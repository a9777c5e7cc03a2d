"""`docker://REFERENCE`, or a bare reference: an image in a registry."""

from __future__ import annotations

from ocifast.reference import Location, Reference, invalid
from ocifast.sources import Destination, Source
from ocifast.sources.transports.transport import Access, Transport, existing_folder

__all__ = ["TRANSPORT", "parse_bare"]


def parse_bare(text: str, named: str) -> Location:
    """A location of a reference; `text` as the user wrote it."""
    if not named:
        raise invalid(text, "the repository's name is missing")
    return Location(text, "docker", reference=Reference.parse(named), is_remote=True)


def _parse(text: str, rest: str) -> Location:
    if not rest.startswith("//"):
        raise invalid(text, "write docker://HOST/NAME[:TAG]")
    return parse_bare(text, rest[2:])


def _source(location: Location, access: Access) -> Source:
    reference = _reference(location)

    def ask() -> Source:
        # Not imported before it is needed: httpx is slow to import, and layouts do without.
        from ocifast.sources.registry import RegistrySource
        from ocifast.sources.registry.options import RegistryOptions

        return RegistrySource(reference, access.options or RegistryOptions())

    asked = access.ask or ask
    if not access.seeds:
        return asked()
    from ocifast.sources.layout import FolderFiles, LayoutSource
    from ocifast.sources.seeded import SeededSource

    hint = "a layout is a folder"
    folders = [(existing_folder(seed, hint=hint), str(seed)) for seed in access.seeds]
    layouts = [
        LayoutSource(FolderFiles(folder, name=name, follow_links=access.follow_links), name=name)
        for folder, name in folders
    ]
    return SeededSource(reference, layouts, asked)


def _destination(location: Location, access: Access) -> Destination:
    from ocifast.sources.registry import RegistryDestination
    from ocifast.sources.registry.options import RegistryOptions

    return RegistryDestination(_reference(location), access.options or RegistryOptions())


def _reference(location: Location) -> Reference:
    assert location.reference is not None, "a docker location has a reference"
    return location.reference


TRANSPORT = Transport(
    "docker",
    "[docker://]HOST/NAME[:TAG][@DIGEST]",
    "an image in a registry",
    _parse,
    _source,
    _destination,
    is_remote=True,
    is_served=True,
)
