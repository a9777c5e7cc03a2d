"""Images between registries, layouts and archives, by the names that users write (docs/references.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast import platforms
from ocifast.cache import Cache
from ocifast.copying import CopyResult
from ocifast.copying import copy as copy_image
from ocifast.errors import ImageReferenceError, UsageError, VerificationError
from ocifast.image import Image, resolve
from ocifast.opening import Asking, asking, open_cached
from ocifast.progress import Progress, silent
from ocifast.reference import Location, Reference
from ocifast.signatures import Verification, check
from ocifast.sources import Source
from ocifast.sources.open import is_location, open_destination, parse_location, syntax
from ocifast.spec import Descriptor, Platform

if TYPE_CHECKING:
    from ocifast.decoded import Layers
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["copy", "delete", "pull", "push", "tags"]


def _never() -> bool:
    return False


def copy(
    source: str | Location,
    destination: str | Location,
    *,
    platform: Platform | str | None = None,
    all_platforms: bool | None = None,
    referrers: bool = False,
    parallel: int | None = None,
    follow_links: bool = False,
    verify: Verification | None = None,
    layers: str | None = None,
    draft: bool = False,
    sync: bool = True,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    options: RegistryOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] = _never,
) -> CopyResult:
    """Copies an image from any place to any other, byte for byte, unless `layers` asks for others.

    Args:
        source: `HOST/NAME[:TAG][@DIGEST]`, `oci:DIR[:TAG]` and so on.
        destination: the same; a file is replaced, a layout added to.
        platform: the image of an index that is copied alone, as `linux/arm64`.
        all_platforms: copy an index whole, or never. None copies it whole where no platform is named, all of it is
            there and the destination can hold it.
        referrers: copy what refers to the image (signatures, SBOMs), too; from a registry to a registry.
        parallel: blobs at a time, for each registry; None takes that of `options`.
        follow_links: whether symbolic links that lead out of a layout are followed where it is read.
        verify: how the image must be signed; None asks nothing.
        layers: "erofs" rewrites the layers of one image, which are archives, to erofs images: a new manifest and a new
            config, with a subject that names the original where the destination is a registry. None copies them.
        draft: must be True with `layers`: its media types are those of a draft, and may change.
        sync: whether what is written on this machine is on the disk when this returns, whatever happens to the machine.
        cache: where what comes from a registry is kept, and looked for first; None does without.
        offline: no registry is asked: all is taken from `cache`, or else from the one that is used by default. None
            takes `OCIFAST_OFFLINE`.
        refresh: a registry is asked for all of the manifest again, whatever `OCIFAST_OFFLINE` says.
        options: how registries are spoken to.
        progress: gets events, from any thread.
        cancelled: asked now and then; when it says yes, the copy is taken back.

    Returns:
        What was copied.

    Raises:
        ImageReferenceError: a name that is none.
        UsageError: options that contradict each other or the places.
        OutputUnsupportedError: a layer that shall be an erofs image cannot be one by itself.
        PolicyError: the image is not signed as `verify` asks.
        SourceError, VerificationError, OutputError: reading or writing failed; the destination is as it was.
        CancelledError: `cancelled` said yes.
    """
    origin, target = _location(source), _location(destination)
    if parallel is not None and (origin.is_remote or target.is_remote):
        from ocifast.sources.registry.options import RegistryOptions

        options = replace(options or RegistryOptions(), parallel=parallel)
    how = asking(offline, refresh)
    if how is Asking.OFFLINE and target.is_remote:
        raise UsageError(f"{target} is in a registry, and none is asked (--offline)")
    wanted = platforms.parse(platform) if isinstance(platform, str) else platform
    _check_layers(layers, target, draft=draft, whole=bool(all_platforms), referrers=referrers)
    whole = layers is None and platform is None and all_platforms is not False
    read: list[Descriptor] = []
    lent = cache.blobs.lend() if cache is not None and origin.is_remote else None

    def attempt() -> CopyResult:
        reading = open_cached(
            origin,
            cache,
            how=how,
            platform="all" if whole else wanted,
            options=options,
            follow_links=follow_links,
            lent=lent,
        )
        with closing(reading) as opened, ExitStack() as stack:
            moved = opened
            if layers is not None:
                image = resolve(opened, wanted)
                image.check(verify, origin)
                read.extend(image.layers)
                moved = _rewritten(image, stack, cache, target, progress, cancelled)
            return copy_image(
                moved,
                open_destination(target, options=options, sync=sync),
                platform=wanted if layers is None else None,
                all_platforms=all_platforms,
                referrers=referrers,
                parallel=parallel or 4,
                progress=progress,
                cancelled=cancelled,
                # The original is what somebody has signed.
                accept=lambda digests: None if layers else check(verify, origin, opened, digests),
            )

    try:
        done = attempt()
    except VerificationError:
        # A blob that is moved is fetched anew by itself. A config is read before that, and layers that are rewritten
        # are read together.
        if lent is None or not lent.mend([*read, *lent.lent]):
            raise
        done = attempt()
    if cache is not None:
        cache.keep_to_bound()
    return done


def _check_layers(layers: str | None, target: Location, *, draft: bool, whole: bool, referrers: bool) -> None:
    """Raises UsageError for what cannot be had with other layers, or only with them."""
    if layers is None:
        if draft:
            raise UsageError("draft is for layers that are rewritten; ask for some (--layers erofs)")
        return
    if layers != "erofs":
        raise UsageError(f"layers are rewritten to erofs, not to {layers!r}")
    if not draft:
        raise UsageError("erofs layers are a draft that may change; say that you know (--draft)")
    if whole or referrers:
        raise UsageError("one image at a time gets other layers, and what refers to it stays with the original")
    if target.transport == "docker-archive":
        raise UsageError(f"{target}: a Docker archive has layers that are archives; name an image layout or a registry")


def _rewritten(
    image: Image,
    stack: ExitStack,
    cache: Cache | None,
    target: Location,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Source:
    """An image with erofs layers, which are kept in the cache, or else in a folder that goes away with `stack`."""
    from ocifast.flatten import FlattenOptions
    from ocifast.layer_folder import LayerFolder
    from ocifast.rewriting import ErofsSource
    from ocifast.standalone import refuse_unfit, standalone_layers

    refuse_unfit(image)
    store: Layers
    if cache is not None:
        store = cache.decoded
    else:
        import tempfile

        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        store = stack.enter_context(LayerFolder(Path(folder) / "decoded", sync=False)).use(None, keep=False)
    # What comes from a registry through the cache is kept on its way: two writers of a blob would wait for each other.
    options = FlattenOptions()
    held = standalone_layers(
        image, image.diff_ids, store, stack, options=options, progress=progress, cancelled=cancelled
    )
    files = {diff_id: layer.data for diff_id, layer in held.items()}
    return ErofsSource(image, files, stack, has_subject=target.is_remote)


def pull(
    image: str | Location,
    destination: str | Location,
    *,
    platform: Platform | str | None = None,
    all_platforms: bool = False,
    parallel: int | None = None,
    follow_links: bool = False,
    verify: Verification | None = None,
    sync: bool = True,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    options: RegistryOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] = _never,
) -> CopyResult:
    """Fetches an image from a registry into a layout or an archive: one image of an index, unless `all_platforms`.

    Takes, returns and raises what `copy` does; `image` is in a registry, and `destination` is on disk, with its prefix.
    """
    origin = _location(image)
    if not origin.is_remote:
        raise UsageError(f"{image}: pull fetches from a registry; for other places use `ocifast copy`")
    if (isinstance(destination, str) and not is_location(destination)) or _location(destination).is_remote:
        raise UsageError(f"{destination}: pull writes to a place on disk: {syntax(written=True, remote=False)}")
    return copy(
        origin,
        destination,
        platform=platform,
        all_platforms=all_platforms,
        parallel=parallel,
        follow_links=follow_links,
        verify=verify,
        sync=sync,
        cache=cache,
        offline=offline,
        refresh=refresh,
        options=options,
        progress=progress,
        cancelled=cancelled,
    )


def push(
    source: str | Location,
    image: str | Location,
    *,
    platform: Platform | str | None = None,
    all_platforms: bool | None = None,
    parallel: int | None = None,
    follow_links: bool = False,
    verify: Verification | None = None,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    options: RegistryOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] = _never,
) -> CopyResult:
    """Sends an image to a registry, an index whole unless `platform` names one image of it.

    Takes, returns and raises what `copy` does; `image` is in a registry.
    """
    target = _location(image)
    if not target.is_remote:
        raise UsageError(f"{image}: push sends to a registry; for other places use `ocifast copy`")
    return copy(
        source,
        target,
        platform=platform,
        all_platforms=all_platforms,
        parallel=parallel,
        follow_links=follow_links,
        verify=verify,
        cache=cache,
        offline=offline,
        refresh=refresh,
        options=options,
        progress=progress,
        cancelled=cancelled,
    )


def tags(repository: str | Reference, *, options: RegistryOptions | None = None) -> list[str]:
    """All tags of a repository, in the registry's order.

    Args:
        repository: `HOST/NAME`, without a tag.
        options: how the registry is spoken to.

    Raises:
        ImageReferenceError: it is no repository's name.
        ImageNotFoundError: there is none of this name.
        RegistryError and its kinds.
    """
    from ocifast.sources.registry import list_tags

    reference = _reference(repository)
    if reference.tag or reference.digest:
        raise ImageReferenceError(
            f"{str(repository)!r} names one image; write {reference.name} for the list of its tags"
        )
    return list_tags(reference, options)


def delete(image: str | Reference, *, options: RegistryOptions | None = None) -> None:
    """Deletes a manifest from its registry, and with it all tags that name it.

    Args:
        image: `HOST/NAME@DIGEST`.
        options: how the registry is spoken to.

    Raises:
        ImageReferenceError: no reference.
        UsageError: one without a digest.
        ImageNotFoundError: there is no such manifest.
        RegistryError and its kinds.
    """
    from ocifast.sources.registry import delete_manifest

    delete_manifest(_reference(image), options)


def _location(place: str | Location) -> Location:
    return parse_location(place) if isinstance(place, str) else place


def _reference(image: str | Reference) -> Reference:
    return Reference.parse(image.removeprefix("docker://")) if isinstance(image, str) else image
