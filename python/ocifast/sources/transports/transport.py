"""A transport: one kind of place where images are, and all that tells it from the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import ImageNotFoundError
from ocifast.records import dataclass
from ocifast.sources.stdin import STDIN

# The table of transports stands in `ocifast --help`: what a place needs is imported when it is opened.
if TYPE_CHECKING:
    from typing import Literal

    from ocifast.reference import Location
    from ocifast.sources import Destination, Source
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Access", "Transport", "existing_file", "existing_folder", "named_path", "path_of"]


@dataclass(frozen=True)
class Access:
    """How places are spoken to.

    Attributes:
        options: for registries; None for the defaults.
        seeds: folders with image layouts, looked at before a registry; other places have no use for them.
        follow_links: whether symbolic links out of a layout are followed; those within it are in any case.
        ask: what stands in the place of a registry; None for the registry itself.
        sync: whether what is written on this machine is brought to the disk before it has its name.
    """

    options: RegistryOptions | None = None
    seeds: tuple[Path, ...] = ()
    follow_links: bool = False
    ask: Callable[[], Source] | None = None
    sync: bool = True


@dataclass(frozen=True)
class Transport:
    """One prefix.

    Attributes:
        prefix: what stands before the colon.
        syntax: how a location is written; help texts and messages show it.
        about: what it is, in a few words.
        parse: takes the text as the user wrote it and what follows the colon; raises ImageReferenceError.
        source: opens a place for reading; of what is remote nothing is asked yet.
        destination: opens a place for writing, nothing is written yet; None where nothing can be written.
        is_remote: whether it is a registry: others can reach the image under the same name, and what is read is kept in
            the cache. Any other name means something on this machine alone and is never published.
        on_disk: what stands at the path that follows the colon; None where no path does.
        marker: a file that tells such a folder from any other.
        names_by_tag: whether a name within is any text (`Location.tag`) and not a reference.
        is_served: whether another program hands the image out, which is waited for as `RegistryOptions` has it.
        streams: whether `-` as the path is standard input, and standard output where images are written.
    """

    prefix: str
    syntax: str
    about: str
    parse: Callable[[str, str], Location]
    source: Callable[[Location, Access], Source]
    destination: Callable[[Location, Access], Destination] | None = None
    is_remote: bool = False
    on_disk: Literal["file", "folder"] | None = None
    marker: str | None = None
    names_by_tag: bool = False
    is_served: bool = False
    streams: bool = False

    @property
    def lead(self) -> str:
        """What a location of this kind begins with."""
        return f"{self.prefix}://" if self.is_remote else f"{self.prefix}:"


def named_path(text: str) -> Path:
    """The path that a user wrote. `-` alone means a stream where the place is a file; `./-` is a file of that name."""
    path = Path(text)
    return path.absolute() if path == STDIN and text != "-" else path


def path_of(location: Location) -> Path:
    """The path of a location that has one."""
    assert location.path is not None, "a location on disk has a path"
    return location.path


def existing_folder(path: Path, *, hint: str) -> Path:
    """The path, when a folder is there. Raises ImageNotFoundError; `hint` is added for a file."""
    if path.exists() and not path.is_dir():
        raise ImageNotFoundError(f"{path} is a file; {hint}", path=str(path))
    if not path.is_dir():
        raise ImageNotFoundError(f"there is no folder {path}", path=str(path))
    return path


def existing_file(location: Location, *, hint: str) -> Path:
    """The path of a location, when a file is there or it is standard input. Raises ImageNotFoundError.

    `hint` is added for a folder.
    """
    path = path_of(location)
    if path == STDIN:
        return path
    if path.is_dir():
        raise ImageNotFoundError(f"{path} is a folder; {hint}", path=str(path))
    if not path.exists():
        whole = location.text.partition(":")[2]
        colon = "; a path cannot hold a colon here, rename the file" if ":" in whole and Path(whole).exists() else ""
        raise ImageNotFoundError(f"there is no file {path}{colon}", path=str(path))
    return path
