"""Opens where an image is, with the cache before registries: asked as usual, not at all, or again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from ocifast import platforms
from ocifast.errors import UsageError
from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.open import open_source
from ocifast.spec import Platform

if TYPE_CHECKING:
    from os import PathLike

    from ocifast.cache import Cache
    from ocifast.cache.blobs import LentBlobs
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Asking", "asking", "open_cached", "refuse_uncached"]


class Asking(Enum):
    """Whether registries are asked what a name means."""

    USUAL = "usual"
    """Each time, but only for the digest where the cache has the rest."""
    OFFLINE = "offline"
    """Never; nor for anything else."""
    REFRESH = "refresh"
    """Each time for all of the manifest, whatever the cache has."""


def asking(offline: bool | None, refresh: bool) -> Asking:
    """What was chosen; where `offline` is None and nothing is asked again, `OCIFAST_OFFLINE` (1 or 0) decides.

    Raises:
        UsageError: both were chosen, or the variable is neither 1 nor 0.
    """
    if refresh:
        if offline:
            raise UsageError("--offline asks no registry and --refresh asks again; choose one of them")
        return Asking.REFRESH
    if offline is None:
        text = os.environ.get("OCIFAST_OFFLINE", "")
        if text not in ("", "0", "1"):
            raise UsageError(f"OCIFAST_OFFLINE is {text!r}; it must be 1 or 0")
        offline = text == "1"
    return Asking.OFFLINE if offline else Asking.USUAL


def refuse_uncached(cached: bool, offline: bool | None, refresh: bool) -> Asking:
    """What was chosen, as `asking` has it, where the cache may be left out as well.

    Raises:
        UsageError: neither a registry nor the cache is to be asked; and as `asking`.
    """
    how = asking(offline, refresh)
    if how is Asking.OFFLINE and not cached:
        raise UsageError("--offline takes all from the cache, and --no-cache does without one; choose one of them")
    return how


def open_cached(
    location: Location,
    cache: Cache | None,
    *,
    how: Asking = Asking.USUAL,
    platform: Platform | str | None = None,
    options: RegistryOptions | None = None,
    seeds: Sequence[str | PathLike[str]] = (),
    follow_links: bool = False,
    layers: bool = True,
    lent: LentBlobs | None = None,
) -> Source:
    """Opens a place to read an image from, as `open_source` does; what comes of a registry is kept in the cache.

    Layouts and archives are on this machine already: they are read as they are.

    Args:
        location: the place.
        cache: None for none; where no registry is asked, for the default one.
        how: whether registries are asked.
        platform: which image of an index will be taken, None for this machine's; "all" for the index itself.
        options: how registries are spoken to; None for the defaults.
        seeds: folders with image layouts, looked at before a registry.
        follow_links: whether symbolic links that lead out of an image layout are followed.
        layers: see `CachedSource`.
        lent: see `CachedSource`.

    Raises:
        FileError: no registry is to be asked, and there is no cache; and as `open_source`.
        SourceError: as `open_source`.
    """
    reference = location.remote
    if reference is None or (cache is None and how is not Asking.OFFLINE):
        return open_source(location, options=options, seeds=seeds, follow_links=follow_links)
    # Not imported before it is needed: what is on this machine is not cached.
    from ocifast.cache import Cache, CachedSource
    from ocifast.cache.offline import OfflineSource
    from ocifast.sources.deferred import DeferredSource

    if cache is None:
        cache = Cache()
        cache.prepare()
    name = platform if platform == "all" else str(platforms.host() if platform is None else platform)
    offline = OfflineSource(reference, name, cache.references, cache.blobs)
    ask = (lambda: offline) if how is Asking.OFFLINE else None

    def opened() -> Source:
        return open_source(location, options=options, seeds=seeds, follow_links=follow_links, ask=ask)

    # What a digest names is in the cache or it is not: a registry is asked for the rest, if there is one.
    source = DeferredSource(str(reference), opened) if reference.digest is not None and not seeds else opened()
    return CachedSource(
        source,
        cache.blobs,
        digest=reference.digest,
        layers=layers,
        references=cache.references if how is not Asking.OFFLINE and reference.digest is None else None,
        platform=name,
        refresh=how is Asking.REFRESH,
        lease=cache.leases.take(),
        lent=lent,
    )
