"""Opens the tree of an image for the commands that look into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocifast.cli.options import cache_for
from ocifast.cli.progress import progress_display
from ocifast.cli.registry import make_options
from ocifast.errors import PathNotFoundError
from ocifast.flatten import flatten
from ocifast.image import Image
from ocifast.image import open as open_image
from ocifast.rootfs import Rootfs
from ocifast.signatures import Verification
from ocifast.sources.open import parse_location

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["open_rootfs", "opened", "options_for"]


def options_for(image: str, registry: Mapping[str, Any]) -> RegistryOptions | None:
    """How the registry that an image is in is spoken to; None, and nothing loaded, when it is in none.

    `registry` is what `registry_options` passed on.
    """
    location = parse_location(image)
    if location.remote is None:
        return None
    return make_options(location.remote.host, **registry)


@contextmanager
def opened(
    image: str,
    platform: str | None,
    seeds: Sequence[Path],
    *,
    follow_links: bool,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    options: RegistryOptions | None,
    verify: Verification | None = None,
) -> Iterator[Image]:
    """The image that a command looks into; what comes of a registry is kept in the cache, unless `no_cache` is set."""
    cache = cache_for(no_cache, offline, refresh)
    found = open_image(
        image,
        platform=platform,
        options=options,
        seeds=seeds,
        cache=cache,
        follow_links=follow_links,
        offline=offline,
        refresh=refresh,
        verify=verify,
    )
    with found:
        yield found
    if cache is not None:
        cache.keep_to_bound()


@contextmanager
def open_rootfs(
    image: str,
    platform: str | None,
    seeds: Sequence[Path],
    *,
    follow_links: bool,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    verify: Verification | None,
    registry: Mapping[str, Any],
) -> Iterator[Rootfs]:
    """The flattened tree of an image; progress is shown while it is made.

    `registry` is what `registry_options` passed on.
    """
    with opened(
        image,
        platform,
        seeds,
        follow_links=follow_links,
        no_cache=no_cache,
        offline=offline,
        refresh=refresh,
        options=options_for(image, registry),
        verify=verify,
    ) as chosen:
        with progress_display(image, mode=progress, quiet=quiet, makes=False) as show:
            rootfs = flatten(chosen, progress=show)
        try:
            with rootfs:
                yield rootfs
        except PathNotFoundError as error:
            raise error.about(image) from None
