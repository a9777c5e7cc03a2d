"""From what a user writes to a location, and from there to what reads or writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import ImageReferenceError, UsageError
from ocifast.reference import Location, invalid
from ocifast.sources import Destination, Source
from ocifast.sources.stdin import STDIN
from ocifast.sources.transports import TRANSPORTS, Access
from ocifast.sources.transports.docker import parse_bare

if TYPE_CHECKING:
    from os import PathLike

    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["is_location", "open_destination", "open_source", "parse_location", "syntax", "writes_stdout"]

_ELSEWHERE = ("ostree", "sif", "tarball", "http", "https")
"""Prefixes of other programs, which are no host names."""


def parse_location(text: str) -> Location:
    """Reads where an image is: a prefix of `TRANSPORTS`, or a bare reference to a registry.

    A path ends at its first colon where a name within may follow, as it does for skopeo.

    Raises:
        ImageReferenceError: none of these; a path without a prefix is answered with the prefix that it needs.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix in TRANSPORTS:
        return TRANSPORTS[prefix].parse(text, rest)
    if colon and prefix in _ELSEWHERE and (prefix not in ("http", "https") or rest.startswith("//")):
        raise invalid(text, f"{prefix}: is not supported; use {_either([each.lead for each in TRANSPORTS.values()])}")
    _refuse_bare_path(text)
    return parse_bare(text, text)


def is_location(text: str) -> bool:
    """Whether it begins with a prefix."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix in TRANSPORTS


def writes_stdout(location: Location) -> bool:
    """Whether what is written there goes to standard output."""
    transport = TRANSPORTS[location.transport]
    return transport.streams and transport.destination is not None and location.path == STDIN


def syntax(*, written: bool = False, remote: bool | None = None) -> str:
    """How locations are written, for help texts: "A, B or C".

    Args:
        written: whether it must be possible to write there.
        remote: whether registries alone, or all others alone, are wanted.
    """
    chosen = [
        transport.syntax.replace("[@DIGEST]", "") if written else transport.syntax
        for transport in TRANSPORTS.values()
        if not (written and transport.destination is None) and remote in (None, transport.is_remote)
    ]
    return _either(chosen)


def open_source(
    location: Location,
    *,
    options: RegistryOptions | None = None,
    seeds: Sequence[str | PathLike[str]] = (),
    follow_links: bool = False,
    ask: Callable[[], Source] | None = None,
) -> Source:
    """Opens a place to read an image from. Of a registry nothing is asked yet.

    Args:
        location: the place.
        options: how registries are spoken to; None for the defaults.
        seeds: folders with image layouts, looked at before a registry; other places have no use for them.
        follow_links: whether symbolic links that lead out of an image layout are followed.
        ask: opens what stands in the place of a registry; None for the registry itself.

    Raises:
        ImageNotFoundError: there is no such folder, file or image.
        DocumentError: it is not what its prefix says.
        FileError: it cannot be read.
    """
    access = Access(options, tuple(Path(seed) for seed in seeds), follow_links, ask)
    return TRANSPORTS[location.transport].source(location, access)


def open_destination(location: Location, *, options: RegistryOptions | None = None, sync: bool = True) -> Destination:
    """Opens a place to write an image to. Nothing is written yet.

    Args:
        location: the place.
        options: how registries are spoken to; None for the defaults.
        sync: whether what is written on this machine is brought to the disk before it has its name.

    Raises:
        ImageReferenceError: the location names a digest, or a name that the place cannot hold.
        UsageError: something else is there, or nothing can be written to places of this kind.
    """
    if location.digest is not None:
        raise ImageReferenceError(f"{location}: an image is written under a tag, its digest follows from its bytes")
    opens = TRANSPORTS[location.transport].destination
    if opens is None:
        raise UsageError(f"{location}: images are read from {location.transport}: and not written to it")
    return opens(location, Access(options, sync=sync))


def _refuse_bare_path(text: str) -> None:
    """Tells apart a file that a user forgot the prefix of from a repository of Docker Hub that is called so."""
    if not text:
        raise invalid(text, "nothing is written there")
    looks_like_path = text.startswith(("/", "./", "../", "~")) or text in (".", "..")
    marked = None
    try:
        path = Path(text)
        is_archive = text.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst")) and path.is_file()
        is_folder = path.is_dir()
        if is_folder:
            marked = next((one for one in TRANSPORTS.values() if one.marker and (path / one.marker).is_file()), None)
    except (OSError, ValueError):
        is_archive = is_folder = False
    if marked is not None:
        raise invalid(text, f"it is a folder with {marked.marker}: write {marked.lead}{text}")
    if is_archive or looks_like_path:
        kind = "folder" if is_folder else "file"
        ways = [f"{one.lead}{text}" for one in TRANSPORTS.values() if one.on_disk == kind]
        raise invalid(text, f"a {kind} on disk is written {_either(ways)}")


def _either(words: Sequence[str]) -> str:
    """Words as a choice: "A, B or C"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
