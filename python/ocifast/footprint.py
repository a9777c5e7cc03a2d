"""Where the bytes of an image are: by layer, by file and folder, hidden by later layers, or there twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ocifast import _core
from ocifast.cache import Cache
from ocifast.errors import UsageError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import Image, open_image
from ocifast.interrupt import interruptible, nothing
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.rootfs import Rootfs, path_of
from ocifast.spec import Descriptor, Platform

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Duplicate", "HiddenFile", "LargeFile", "LargeFolder", "LayerUsage", "Usage", "usage", "usage_of"]


@dataclass(frozen=True)
class LayerUsage:
    """What one layer brings to a path.

    Attributes:
        layer: its descriptor; its size is that of the whole blob.
        diff_id: digest of the decompressed layer.
        files: regular files that the layer brings.
        bytes: of these, without holes; a file with several names counts once.
        hidden_files: those of them that are not there in the end.
        hidden_bytes: of these.
    """

    layer: Descriptor
    diff_id: str
    files: int
    bytes: int
    hidden_files: int
    hidden_bytes: int


@dataclass(frozen=True)
class LargeFile:
    """A regular file.

    Attributes:
        path: absolute path, the first if it has several.
        bytes: without holes.
        layer: number of the layer that brought it, from 0, the lowest.
    """

    path: str
    bytes: int
    layer: int


@dataclass(frozen=True)
class LargeFolder:
    """A folder.

    Attributes:
        path: absolute path.
        bytes: of all files at any depth below it; of a file with several names where the first of them is.
    """

    path: str
    bytes: int


@dataclass(frozen=True)
class HiddenFile:
    """A regular file that a layer brought and that is not there in the end.

    Attributes:
        path: where it was last.
        bytes: without holes.
        layer: number of the layer that brought it.
        by: number of the layer that hid it, which may be the same.
        replaced: something else took its place, or that of a folder above it; else a whiteout hid it.
    """

    path: str
    bytes: int
    layer: int
    by: int
    replaced: bool


@dataclass(frozen=True)
class Duplicate:
    """Files, no hard links of each other, with the same content.

    Attributes:
        paths: of the first few of them, at most five.
        count: how many there are.
        bytes: of one.
    """

    paths: tuple[str, ...]
    count: int
    bytes: int

    @property
    def spare_bytes(self) -> int:
        """What all but one take."""
        return (self.count - 1) * self.bytes


@dataclass(frozen=True)
class Usage:
    """Where the bytes of an image are, at and below a path. Lists begin with what is largest.

    Attributes:
        path: the path, without links.
        digest: of the image manifest.
        layers: what each brings, the lowest first.
        files: the largest files.
        folders: the largest folders below the path.
        hidden: the largest files that are not there in the end.
        duplicates: those that take most.
        duplicate_bytes: what all duplicates take, but one of each.
    """

    path: str
    digest: str
    layers: tuple[LayerUsage, ...]
    files: tuple[LargeFile, ...]
    folders: tuple[LargeFolder, ...]
    hidden: tuple[HiddenFile, ...]
    duplicates: tuple[Duplicate, ...]
    duplicate_bytes: int

    @property
    def hidden_bytes(self) -> int:
        """Of all files that are not there in the end: what is wasted."""
        return sum(layer.hidden_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Of all files that are there."""
        return sum(layer.bytes for layer in self.layers) - self.hidden_bytes


def usage(
    image: str | Image,
    path: str | bytes = "/",
    *,
    top: int = 10,
    platform: Platform | str | None = None,
    options: RegistryOptions | None = None,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    flattening: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> Usage:
    """Looks where the bytes of an image are.

    All layers are read. Bytes are those of files' contents without holes, as they are decompressed. What a layer brings
    twice under one name counts as hidden by itself.

    Args:
        image: where it is, as `ocifast.open` takes it, or an image, which is left open.
        path: what is looked at; links to it are followed inside the image.
        top: most items of each list but that of the layers.
        platform: which image of an index, for one that is named.
        options: how registries are spoken to, for an image that is named.
        cache: as of `ocifast.open`, for an image that is named; so are the next two.
        offline: no registry is asked.
        refresh: the registry is asked again.
        flattening: how many layers at a time, and bounds on what they may ask for.
        progress: gets the events of layers.
        cancelled: asked several times a second while layers arrive.

    Raises:
        ImageReferenceError, SourceError, VerificationError, LayerError.
        PathNotFoundError: nothing is there.
        UsageError: a `top` below 0; a platform or options for an image that is open.
    """
    if top < 0:
        raise UsageError(f"{top} is no number of items")
    with ExitStack() as stack:
        if isinstance(image, str):
            image = stack.enter_context(
                open_image(image, platform=platform, options=options, cache=cache, offline=offline, refresh=refresh)
            )
        elif platform is not None or options is not None:
            raise UsageError("a platform and options are for an image that is named, not for one that is open")
        rootfs = stack.enter_context(
            flatten(image, options=flattening, progress=progress, cancelled=cancelled, keep_removed=True)
        )
        return usage_of(rootfs, image, path, top=top)


def usage_of(rootfs: Rootfs, image: Image, path: str | bytes, *, top: int) -> Usage:
    """The same of an image that is flattened already, by `flatten` with `keep_removed`. Raises PathNotFoundError."""
    layers, diff_ids = image.layers, image.diff_ids
    real = rootfs.resolve(path)
    tree, key = rootfs.tree, os.fsencode(real).strip(b"/")
    per_layer, files, folders, hidden, duplicates, spare = interruptible(
        lambda: _core.usage(tree, key, layers=len(layers), top=top), threading.Event(), nothing
    )
    return Usage(
        path=real,
        digest=image.digest,
        layers=tuple(
            LayerUsage(layer, diff_id, *row) for layer, diff_id, row in zip(layers, diff_ids, per_layer, strict=True)
        ),
        files=tuple(LargeFile(path_of(row[0]), *row[1:]) for row in files),
        folders=tuple(LargeFolder(path_of(row[0]), row[1]) for row in folders),
        hidden=tuple(HiddenFile(path_of(row[0]), *row[1:]) for row in hidden),
        duplicates=tuple(Duplicate(tuple(map(path_of, row[0])), *row[1:]) for row in duplicates),
        duplicate_bytes=spare,
    )
