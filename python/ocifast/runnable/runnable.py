"""A runnable, and the two things to do with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocifast.errors import UsageError
from ocifast.opening import Asking, asking
from ocifast.progress import Progress, silent
from ocifast.reference import Location, Reference
from ocifast.runnable.build import BuiltRunnable, build
from ocifast.runnable.options import AnyPath, RunnableOptions
from ocifast.sources.open import is_location, open_destination, parse_location
from ocifast.sources.transports import TRANSPORTS
from ocifast.sources.transports.docker import parse_bare

if TYPE_CHECKING:
    from ocifast.cache import Cache
    from ocifast.image import Image
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Runnable"]


class Runnable:
    """An executable, or one for each of several machines, on the way to an image.

    Takes the arguments of `RunnableOptions`, and raises what that does. Nothing is read before `write` or `push`.

    Attributes:
        options: what it is made of.
    """

    def __init__(
        self,
        executables: AnyPath | Sequence[AnyPath],
        *,
        name: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] = {},
        user: str | None = None,
        working_dir: str | None = None,
        labels: Mapping[str, str] = {},
        annotations: Mapping[str, str] = {},
        ports: Sequence[str] = (),
        volumes: Sequence[str] = (),
        stop_signal: str | None = None,
        add: Sequence[tuple[AnyPath, str]] = (),
        ca_certs: bool | AnyPath = False,
        time_zones: bool | AnyPath = False,
        base: str | None = None,
        follow_links: bool = False,
        bundle: bool = False,
        sysroot: AnyPath = "/",
        compression: str = "none",
        level: int | None = None,
        created: int | None = None,
    ) -> None:
        self.options = RunnableOptions(
            executables,
            name=name,
            args=args,
            env=env,
            user=user,
            working_dir=working_dir,
            labels=labels,
            annotations=annotations,
            ports=ports,
            volumes=volumes,
            stop_signal=stop_signal,
            add=add,
            ca_certs=ca_certs,
            time_zones=time_zones,
            base=base,
            follow_links=follow_links,
            bundle=bundle,
            sysroot=sysroot,
            compression=compression,
            level=level,
            created=created,
        )

    def write(
        self,
        destination: AnyPath | Location,
        *,
        reference: str | None = None,
        options: RegistryOptions | None = None,
        cache: Cache | None = None,
        offline: bool | None = None,
        refresh: bool = False,
        sync: bool = True,
        progress: Progress = silent,
    ) -> BuiltRunnable:
        """Builds the image into a file or folder.

        Args:
            destination: a path, for an OCI archive; or a location: `oci-archive:FILE[:TAG]`, `oci:DIR[:TAG]` (added to
                a layout that is there), `docker-archive:FILE[:NAME:TAG]`, `docker://REFERENCE`.
            reference: the image's name in the archive or layout.
            options: how registries are spoken to, for a base image.
            cache: as of `ocifast.open`, for a base image; so are the next two.
            offline: no registry is asked.
            refresh: the registry is asked again.
            sync: whether the image is on the disk when this returns, whatever happens to the machine.
            progress: gets an event for each step.

        Returns:
            What was built; all of it stands at the destination.

        Raises:
            ElfError: an executable that no image can be made of.
            UsageError: options that contradict each other or the destination.
            SourceError, VerificationError: the base image.
            FileError: a file could not be read or written.
        """
        location = place_of(destination, reference)
        how = asking(offline, refresh)
        if how is Asking.OFFLINE and location.is_remote:
            raise UsageError(f"{location} is in a registry, and none is asked (--offline)")

        def open_base(image: str, **chosen: Any) -> Image:
            # Not imported before it is needed: most runnables have no base.
            from ocifast.image import open_image

            return open_image(image, cache=cache, offline=offline, refresh=refresh, **chosen)

        done = build(
            self.options,
            open_destination(location, options=options, sync=sync),
            options=options,
            progress=progress,
            open_base=open_base,
        )
        if cache is not None:
            cache.keep_to_bound()
        return done

    def push(
        self,
        reference: str,
        *,
        options: RegistryOptions | None = None,
        cache: Cache | None = None,
        offline: bool | None = None,
        refresh: bool = False,
        progress: Progress = silent,
    ) -> BuiltRunnable:
        """Builds the image and sends it to a registry.

        Args:
            reference: `HOST/NAME[:TAG]`.
            options: how registries are spoken to.
            cache: see `write`.
            offline: see `write`.
            refresh: see `write`.
            progress: gets an event for each step.

        Raises:
            ImageReferenceError: no reference, or one with a digest.
            RegistryError: the registry refused or failed; and what `write` raises.
        """
        location = parse_bare(reference, reference.removeprefix("docker://"))
        return self.write(location, options=options, cache=cache, offline=offline, refresh=refresh, progress=progress)


def place_of(destination: AnyPath | Location, reference: str | None) -> Location:
    """The location that a destination means; a plain path is an OCI archive."""
    named = Reference.parse(reference) if reference is not None else None
    if named is not None and named.digest is not None:
        raise UsageError(f"{reference}: an image is written under a tag, its digest follows from its bytes")
    if isinstance(destination, Location):
        location = destination
    else:
        text = os.fspath(destination)
        stated = isinstance(destination, str) and is_location(text)
        location = parse_location(text) if stated else Location(text, "oci-archive", path=Path(text))
    if named is None:
        return location
    if location.tag is not None or location.reference is not None:
        raise UsageError(f"{location} has a name already; leave out either it or {reference}")
    in_layout = TRANSPORTS[location.transport].names_by_tag
    return Location(
        location.text,
        location.transport,
        reference=None if in_layout else named,
        path=location.path,
        tag=str(named) if in_layout else None,
        is_remote=location.is_remote,
    )
