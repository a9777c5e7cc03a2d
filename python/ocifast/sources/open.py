"""From a location to what reads or writes it: one table for each direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import ImageNotFoundError, ImageReferenceError, UsageError
from ocifast.reference import Location, Reference
from ocifast.sources import Destination, Source
from ocifast.sources.layout import FolderFiles, LayoutSource
from ocifast.sources.seeded import SeededSource
from ocifast.sources.unpacked import STDIN

if TYPE_CHECKING:
    from os import PathLike

    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["DESTINATIONS", "SOURCES", "open_destination", "open_source"]


def open_source(
    location: Location, *, options: RegistryOptions | None = None, seeds: Sequence[str | PathLike[str]] = ()
) -> Source:
    """Opens a place to read an image from. Of a registry nothing is asked yet.

    Args:
        location: the place.
        options: how registries are spoken to; None for the defaults.
        seeds: folders with image layouts, looked at before a registry; other places have no use for them.

    Raises:
        ImageNotFoundError: there is no such folder or file.
        DocumentError: it is no layout or archive.
        FileError: it cannot be read.
    """
    return SOURCES[location.transport](location, options, tuple(Path(seed) for seed in seeds))


def open_destination(location: Location, *, options: RegistryOptions | None = None) -> Destination:
    """Opens a place to write an image to. Nothing is written yet.

    Raises:
        ImageReferenceError: the location names a digest, or a name that the place cannot hold.
        UsageError: something else is there.
    """
    if location.digest is not None:
        raise ImageReferenceError(f"{location}: an image is written under a tag, its digest follows from its bytes")
    return DESTINATIONS[location.transport](location, options)


def _registry_source(location: Location, options: RegistryOptions | None, seeds: tuple[Path, ...]) -> Source:
    reference = _reference(location)

    def ask() -> Source:
        # Not imported before it is needed: httpx is slow to import, and layouts do without.
        from ocifast.sources.registry import RegistrySource
        from ocifast.sources.registry.options import RegistryOptions

        return RegistrySource(reference, options or RegistryOptions())

    if not seeds:
        return ask()
    layouts = [LayoutSource(FolderFiles(_folder(seed), name=str(seed)), name=str(seed)) for seed in seeds]
    return SeededSource(reference, layouts, ask)


def _layout_source(location: Location, options: RegistryOptions | None, seeds: tuple[Path, ...]) -> Source:
    files = FolderFiles(_folder(_path(location)), name=location.text)
    return LayoutSource(files, name=location.text, tag=location.tag, digest=location.digest)


def _archive_source(location: Location, options: RegistryOptions | None, seeds: tuple[Path, ...]) -> Source:
    from ocifast.sources.archive import open_archive

    return open_archive(_file(location), name=location.text, tag=location.tag, digest=location.digest)


def _docker_archive_source(location: Location, options: RegistryOptions | None, seeds: tuple[Path, ...]) -> Source:
    from ocifast.sources.docker_archive import open_docker_archive

    return open_docker_archive(
        _file(location), name=location.text, reference=location.reference, position=location.position
    )


def _registry_destination(location: Location, options: RegistryOptions | None) -> Destination:
    from ocifast.sources.registry import RegistryDestination
    from ocifast.sources.registry.options import RegistryOptions

    return RegistryDestination(_reference(location), options or RegistryOptions())


def _layout_destination(location: Location, options: RegistryOptions | None) -> Destination:
    from ocifast.sources.layout_destination import LayoutDestination

    return LayoutDestination(_path(location), name=location.text, tag=location.tag)


def _archive_destination(location: Location, options: RegistryOptions | None) -> Destination:
    from ocifast.sources.archive_destination import ArchiveDestination

    return ArchiveDestination(_new_file(location), name=location.text, tag=location.tag)


def _docker_archive_destination(location: Location, options: RegistryOptions | None) -> Destination:
    from ocifast.sources.docker_archive_destination import DockerArchiveDestination

    if location.position is not None:
        raise UsageError(f"{location}: an archive is written with one image; leave the number out")
    return DockerArchiveDestination(_new_file(location), name=location.text, reference=location.reference)


SOURCES: dict[str, Callable[[Location, RegistryOptions | None, tuple[Path, ...]], Source]] = {
    "docker": _registry_source,
    "oci": _layout_source,
    "oci-archive": _archive_source,
    "docker-archive": _docker_archive_source,
}
DESTINATIONS: dict[str, Callable[[Location, RegistryOptions | None], Destination]] = {
    "docker": _registry_destination,
    "oci": _layout_destination,
    "oci-archive": _archive_destination,
    "docker-archive": _docker_archive_destination,
}


def _reference(location: Location) -> Reference:
    assert location.reference is not None, "a docker location has a reference"
    return location.reference


def _path(location: Location) -> Path:
    assert location.path is not None, "a location on disk has a path"
    return location.path


def _new_file(location: Location) -> Path:
    path = _path(location)
    if path == STDIN:
        raise UsageError(
            f"{location}: an archive is written to a file, not to standard output (./- is a file called -)"
        )
    return path


def _folder(path: Path) -> Path:
    if path.is_file():
        raise ImageNotFoundError(f"{path} is a file; a layout is a folder (an archive is written oci-archive:{path})")
    if not path.is_dir():
        raise ImageNotFoundError(f"there is no folder {path}", path=str(path))
    return path


def _file(location: Location) -> Path:
    path = _path(location)
    if path == STDIN:
        return path
    if path.is_dir():
        raise ImageNotFoundError(f"{path} is a folder; an archive is a file (a layout is written oci:{path})")
    if not path.exists():
        whole = location.text.partition(":")[2]
        hint = "; a path cannot hold a colon here, rename the file" if ":" in whole and Path(whole).exists() else ""
        raise ImageNotFoundError(f"there is no file {path}{hint}", path=str(path))
    return path
