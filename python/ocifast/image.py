"""Images and indexes, read lazily from a source: what four members of a `Source` give, derived once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from ocifast import _core, platforms
from ocifast.artifacts import refuse_artifacts
from ocifast.errors import BlobNotFoundError, DigestInvalidError, DocumentError, NotAnImageError, PlatformError
from ocifast.lazy import Lazy
from ocifast.opening import asking, open_cached
from ocifast.progress import Progress, silent
from ocifast.reference import Location
from ocifast.sources import Blob, Source
from ocifast.sources.open import parse_location
from ocifast.sources.verify import read_small
from ocifast.spec import (
    CONFIG_LIMIT,
    CONFIGS,
    INDEXES,
    MANIFESTS,
    Descriptor,
    Document,
    ImageConfig,
    Manifest,
    Platform,
    decode_config,
    decode_history,
    decode_index,
    decode_manifest,
    is_foreign_layer,
    total_size,
)

if TYPE_CHECKING:
    from os import PathLike

    from ocifast.cache import Cache
    from ocifast.flatten import FlattenOptions
    from ocifast.history import History
    from ocifast.layer_entries import LayerEntry
    from ocifast.peek import Peek
    from ocifast.rootfs import Rootfs, RootfsEntry
    from ocifast.signatures import Verification
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Image", "Index", "open_image", "open_index", "resolve"]

NESTING = 3
"""How deep indexes may be nested in indexes."""


class Index:
    """An image index.

    Attributes:
        source: where it is. `close` closes it.
        name: how messages call it.
        document: its bytes as they came.
    """

    def __init__(self, source: Source, document: Document) -> None:
        self.source = source
        self.name = source.name
        self.document = document
        self._absent: list[Descriptor] = []

    @property
    def digest(self) -> str:
        """Digest of the index's bytes."""
        return self.document.digest

    @Lazy
    def entries(self) -> tuple[Descriptor, ...]:
        """The image manifests that the index leads to, in its order, those of nested indexes in their place.

        Attestations and artifacts are left out, and so is what the source says that it has not got (see
        `Source.holds`). An entry that says no platform has that of its config.

        Raises:
            DocumentError: indexes that are nested deeper than three times, or that hold no valid entries.
            SourceError, VerificationError: a nested index or a config could not be read.
        """
        return tuple(self._entries(self.document, NESTING))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms of `entries`."""
        return tuple(entry.platform for entry in self.entries if entry.platform is not None)

    def image(self, platform: Platform | str | None = None) -> Image:
        """The image for a platform, by default this machine's.

        Where all but one of an index's images are left out (what `docker save` writes of an image that was pulled for
        one platform), that one is the default.

        Raises:
            PlatformError: there is none; the message lists those that there are.
            BlobNotFoundError: all are left out.
        """
        wanted = _platform(platform)
        entries = self.entries
        if self._absent and not entries:
            missing = self._absent[0].digest
            raise BlobNotFoundError(
                f"{self.name}: none of the {len(self._absent)} manifests that its index names is there; the first is "
                f"{missing}",
                reference=self.name,
            )
        if wanted is None and self._absent and len({entry.digest for entry in entries}) == 1:
            chosen = entries[0]
        else:
            chosen = platforms.choose(entries, wanted or platforms.host(), name=self.name)
        return Image(self.source, self.source.document(chosen), platform=chosen.platform, index=self.document)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def _entries(self, document: Document, depth: int) -> Iterator[Descriptor]:
        for entry in decode_index(document, name=self.name).manifests:
            if platforms.is_attestation(entry):
                continue
            if entry.media_type in INDEXES | MANIFESTS and not self.source.holds(entry):
                self._absent.append(entry)
                continue
            if entry.media_type in INDEXES:
                if depth == 0:
                    raise DocumentError(f"{self.name}: indexes are nested more than {NESTING} times deep")
                yield from self._entries(self.source.document(entry), depth - 1)
            elif entry.media_type in MANIFESTS and entry.platform is not None and self._may_be_image(entry):
                yield entry
            elif entry.media_type in MANIFESTS and (found := self._stated_in_config(entry)) is not None:
                yield msgspec.structs.replace(entry, platform=found)

    def _may_be_image(self, entry: Descriptor) -> bool:
        """Whether an entry with a platform is an image, as far as it need be known before it is chosen.

        An artifact type decides nothing: many tools write that of the config for ordinary images. Any other leads to
        the manifest, whose config's media type tells.
        """
        if entry.artifact_type is None or entry.artifact_type in CONFIGS:
            return True
        try:
            Image(self.source, self.source.document(entry))
        except (NotAnImageError, BlobNotFoundError):
            return False
        return True

    def _stated_in_config(self, entry: Descriptor) -> Platform | None:
        try:
            return Image(self.source, self.source.document(entry)).platform
        except (NotAnImageError, BlobNotFoundError):
            return None


class Image:
    """One image: a manifest, its config, its layers. Nothing is read before it is asked for.

    Attributes:
        source: where it is. `close` closes it.
        name: how messages call it: as the user wrote it.
        document: the manifest's bytes as they came, verified when the reference or an index stated a digest.
        index: the index that it was chosen from, or None.
    """

    def __init__(
        self, source: Source, document: Document, *, platform: Platform | None = None, index: Document | None = None
    ) -> None:
        """Raises NotAnImageError when the manifest is that of an artifact, DocumentError when it breaks its spec."""
        self.source = source
        self.name = source.name
        self.document = document
        self.index = index
        self._platform = platform
        self.manifest: Manifest = decode_manifest(document, name=self.name)
        refuse_artifacts(self.name, document, self.manifest)

    @property
    def digest(self) -> str:
        """Digest of the manifest's bytes."""
        return self.document.digest

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Descriptors of the layers, bottom layer first."""
        return self.manifest.layers

    @property
    def size(self) -> int:
        """Bytes of all layers as they are stored."""
        return total_size(self.layers)

    @Lazy
    def config_raw(self) -> bytes:
        """The config's bytes, verified; at most 16 MiB.

        Raises:
            BlobNotFoundError, RegistryError, VerificationError, DocumentError.
        """
        descriptor = self.manifest.config
        return read_small(self.source.blob(descriptor), descriptor, CONFIG_LIMIT, name=f"{self.name}: config")

    @Lazy
    def config(self) -> ImageConfig:
        """The config. Raises what `config_raw` does."""
        return decode_config(self.config_raw, name=f"{self.name}: config")

    @Lazy
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the decompressed layers, bottom layer first, one for each of `layers`.

        Raises:
            DocumentError: the config names more or fewer than there are layers.
            DigestInvalidError: one of them is no digest.
        """
        found = self.config.rootfs.diff_ids
        if len(found) != len(self.layers):
            raise DocumentError(
                f"{self.name}: the manifest has {len(self.layers)} layers, but the config {len(found)} diff IDs",
                reference=self.name,
            )
        for diff_id in found:
            try:
                _core.check_digest(diff_id)
            except DigestInvalidError as error:
                raise DigestInvalidError(f"{self.name}: config: {error.message}", reference=self.name) from None
        return found

    @Lazy
    def history(self) -> History:
        """The steps of the config's history beside the layers that they made. No layer is read.

        Raises:
            DocumentError: the history is none; and what `diff_ids` raises.
        """
        from ocifast.history import pair_history

        records = decode_history(self.config_raw, name=f"{self.name}: config")
        return pair_history(records, self.layers, self.diff_ids)

    @Lazy
    def platform(self) -> Platform | None:
        """What the index said that the image is for, or else its config; None when that says nothing."""
        if self._platform is not None:
            return self._platform
        config = self.config
        if not config.os or not config.architecture:
            return None
        return Platform(config.architecture, config.os, config.variant or None, config.os_version or None)

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer (see `Source.blob`); a layer that is kept elsewhere only is refused by saying so.

        Raises:
            BlobNotFoundError, RegistryError.
        """
        try:
            return self.source.blob(descriptor, offset=offset)
        except BlobNotFoundError as error:
            if descriptor.urls or is_foreign_layer(descriptor.media_type):
                raise BlobNotFoundError(
                    f"{self.name}: layer {descriptor.digest} is a foreign layer that is not kept with the image, and "
                    "its URLs are not followed; copy the image together with its foreign layers first",
                    **{**error.context, "reference": self.name, "layer": descriptor.digest},
                ) from None
            raise

    def flatten(self, *, options: FlattenOptions | None = None, progress: Progress = silent) -> Rootfs:
        """Downloads, verifies and merges all layers; see `ocifast.flatten.flatten`.

        Contents of files wait in the temporary folder until the result is closed.

        Args:
            options: how many layers at a time, and bounds on what they may ask for.
            progress: gets an event for each step of a layer.

        Raises:
            SourceError, VerificationError, LayerError.
        """
        # Not imported before it is needed, as all that reads layers: most commands look at documents alone.
        from ocifast.clock import rfc3339_seconds
        from ocifast.flatten import flatten

        created = rfc3339_seconds(self.config.created or "")
        return flatten(self, options=options, progress=progress, digest=self.digest, created=created)

    def check(self, verify: Verification | None, location: Location) -> None:
        """Whether it may be used: its manifest, or the index that it was chosen from, is signed as `verify` asks.

        Raises what `ocifast.signatures.check` does; `location` is where the image is.
        """
        if verify is None:
            return
        from ocifast.signatures import check

        digests = [self.digest] if self.index is None else [self.digest, self.index.digest]
        check(verify, location, self.source, digests)

    def peek(self, *, options: FlattenOptions | None = None, progress: Progress = silent) -> Peek:
        """Looks at single paths without reading more layers than that needs, from the highest on; see `Peek`.

        Args:
            options: bounds on what layers may ask for, and where blobs are kept.
            progress: gets an event for each step of a layer.

        Returns:
            What answers, to be closed (`with`).
        """
        from ocifast.peek import Peek

        return Peek(self, options=options, progress=progress)

    def layer_entries(
        self, layer: int | str, *, options: FlattenOptions | None = None, progress: Progress = silent
    ) -> list[LayerEntry]:
        """What one layer holds itself, whiteouts included, in the order of its archive. No other layer is read.

        Args:
            layer: its number from 0, the lowest, or the beginning of its diff ID or its digest.
            options: bounds on what it may ask for, and where blobs are kept.
            progress: gets an event for each step of the layer.

        Raises:
            UsageError: there is no such layer.
            SourceError, VerificationError, LayerError.
        """
        from ocifast.layer_entries import entries_of_layer

        return list(entries_of_layer(self, layer, options=options, progress=progress))

    def read_bytes(self, path: str | bytes) -> bytes:
        """The content of a regular file, read with as few layers as `peek` needs. Raises what `Peek.open` does."""
        with self.peek() as peek:
            return peek.read_bytes(path)

    def scandir(self, path: str | bytes = "/") -> list[RootfsEntry]:
        """What is in a directory, read with as few layers as `peek` needs. Raises what `Peek.scandir` does."""
        with self.peek() as peek:
            return peek.scandir(path)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Image {self.name} {self.digest}>"


def open_image(
    image: str | Location,
    *,
    platform: Platform | str | None = None,
    options: RegistryOptions | None = None,
    seeds: Sequence[str | PathLike[str]] = (),
    cache: Cache | None = None,
    follow_links: bool = False,
    verify: Verification | None = None,
    offline: bool | None = None,
    refresh: bool = False,
) -> Image:
    """Opens an image.

    Reads the manifest (and an index before it); config and layers are read when they are asked for.

    Args:
        image: where it is, as `docs/references.md` has it: `HOST/NAME[:TAG][@DIGEST]`, `oci:DIR[:TAG]` and so on.
        platform: as `linux/arm64`. By default this machine's is chosen from an index, and an image that stands alone
            is taken whatever it is for; when it is given, such an image must be for this platform.
        options: how registries are spoken to.
        seeds: folders with image layouts that are looked at before a registry.
        cache: where what comes from a registry is kept, and looked for first; None does without.
        follow_links: whether symbolic links that lead out of an image layout are followed.
        verify: how the image must be signed; None asks nothing.
        offline: no registry is asked: all is taken from `cache`, or else from the one that is used by default. None
            takes `OCIFAST_OFFLINE`.
        refresh: a registry is asked for all of the manifest again, whatever `OCIFAST_OFFLINE` says.

    Returns:
        The image, to be closed (`with`).

    Raises:
        PolicyError: it is not signed as `verify` asks.
        ImageReferenceError, SourceError, VerificationError, FileError.
        NotCachedError: no registry is asked, and the cache lacks something.
        UsageError: `offline` and `refresh`.
    """
    location = parse_location(image) if isinstance(image, str) else image
    wanted = _platform(platform)
    source = open_cached(
        location,
        cache,
        how=asking(offline, refresh),
        platform=wanted,
        options=options,
        seeds=seeds,
        follow_links=follow_links,
    )
    try:
        found = resolve(source, wanted)
        found.check(verify, location)
    except BaseException:
        source.close()
        raise
    return found


def open_index(
    image: str | Location,
    *,
    options: RegistryOptions | None = None,
    seeds: Sequence[str | PathLike[str]] = (),
    cache: Cache | None = None,
    follow_links: bool = False,
    offline: bool | None = None,
    refresh: bool = False,
) -> Index:
    """Opens an image index.

    Args:
        image: where it is; see `open_image`.
        options: how registries are spoken to.
        seeds: folders with image layouts that are looked at before a registry.
        cache: see `open_image`.
        follow_links: see `open_image`.
        offline: see `open_image`.
        refresh: see `open_image`.

    Returns:
        The index, to be closed (`with`); images that are taken of it go with it.

    Raises:
        NotAnImageError: it is one image, and not an index.
        ImageReferenceError, SourceError, VerificationError, FileError.
    """
    location = parse_location(image) if isinstance(image, str) else image
    source = open_cached(
        location,
        cache,
        how=asking(offline, refresh),
        platform="all",
        options=options,
        seeds=seeds,
        follow_links=follow_links,
    )
    try:
        root = source.root()
        if not root.is_index:
            raise NotAnImageError(f"{source.name}: one image and no index; open it as an image", reference=source.name)
        return Index(source, root)
    except BaseException:
        source.close()
        raise


def resolve(source: Source, platform: Platform | None = None) -> Image:
    """The image that a source has for a platform (see `open_image`).

    Raises:
        PlatformError: there is none.
        SourceError, VerificationError: it could not be read.
    """
    root = source.root()
    if root.is_index:
        return Index(source, root).image(platform)
    image = Image(source, root)
    if platform is not None and (offered := image.platform) is not None:
        # Configs of ARM images often leave the variant out, or have a wrong default: a stated one alone counts.
        goal = platform if offered.variant else msgspec.structs.replace(platform, variant=None)
        if not platforms.fits(offered, goal):
            raise PlatformError(
                f"{image.name} is for {platforms.describe(offered)}, not for {platforms.describe(platform)}",
                reference=image.name,
                available=(platforms.describe(offered),),
            )
    return image


def _platform(platform: Platform | str | None) -> Platform | None:
    return platforms.parse(platform) if isinstance(platform, str) else platform
