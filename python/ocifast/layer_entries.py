"""What one layer of an image holds itself, whiteouts included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ocifast import _core
from ocifast.errors import OcifastError, UsageError
from ocifast.intake import FlattenOptions, Intake, erofs_layers
from ocifast.layered import Layered
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.rootfs import path_of
from ocifast.sources import Blob
from ocifast.spec import Descriptor

__all__ = ["ChosenLayers", "LayerEntry", "entries_of_layer", "layer_entry", "read_apart"]

Row = tuple[bytes, str, int, int, int, int, int, bytes, int]
Made = TypeVar("Made")


@dataclass(frozen=True)
class LayerEntry:
    """One entry of a layer, before any other layer has to do with it.

    Attributes:
        path: absolute path in the image, of a whiteout what it hides; bytes that are no UTF-8 as surrogate escapes.
        type: "file", "directory", "symlink", "hardlink", "char", "block", "fifo"; "whiteout": what lower layers have
            there is hidden; "opaque": all that they have in the directory is; "bookkeeping": of AUFS, dropped.
        mode: permission bits with setuid, setgid, sticky.
        uid: numeric owner.
        gid: numeric group.
        mtime_ns: modification time in nanoseconds since 1970.
        target: where a symbolic link points, or the path of a hard link's file, else "".
        size: bytes of a file's content, or of a symbolic link's target.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str
    size: int


class ChosenLayers:
    """Some layers of one image or of several, in the place of an image.

    Args:
        layers: images, each with the number of one of its layers from 0, the lowest.
        name: how messages call them all.
    """

    def __init__(self, layers: Sequence[tuple[Layered, int]], name: str) -> None:
        self.name = name
        self.layers = tuple(image.layers[number] for image, number in layers)
        self.diff_ids = tuple(image.diff_ids[number] for image, number in layers)
        self._images = {layer.digest: image for layer, (image, _) in zip(self.layers, layers, strict=True)}

    def name_of(self, digest: str) -> str:
        """The name of the image that a layer is read from; of all, where it is none of these layers."""
        return self._images[digest].name if digest in self._images else self.name

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens one of the layers."""
        return self._images[descriptor.digest].blob(descriptor, offset=offset)

    def close(self) -> None:
        """Closes the images."""
        for image in self._images.values():
            image.close()


def layer_number(image: Layered, layer: int | str) -> int:
    """The number of a layer from 0, the lowest; given as that, or as the beginning of its diff ID or its digest.

    Raises:
        UsageError: there is no such layer, or more than one begins so.
    """
    count = len(image.layers)
    if isinstance(layer, str) and layer.isdecimal() and len(layer) < 6:
        layer = int(layer)
    if isinstance(layer, int):
        if 0 <= layer < count:
            return layer
        raise UsageError(f"{image.name} has no layer {layer}; it has {count}, from 0, the lowest")
    names = [(diff_id, image.layers[number].digest) for number, diff_id in enumerate(image.diff_ids)]
    found = [
        number
        for number, both in enumerate(names)
        if layer and any(name.startswith(layer) or name.partition(":")[2].startswith(layer) for name in both)
    ]
    if len({image.diff_ids[number] for number in found}) == 1:
        return found[0]
    which = "no layer has" if not found else f"{len(found)} layers have"
    raise UsageError(f"{image.name}: {which} a diff ID that begins with {layer!r}; `ocifast history` shows them")


def entries_of_layer(
    image: Layered, layer: int | str, *, options: FlattenOptions | None = None, progress: Progress = silent
) -> Iterator[LayerEntry]:
    """What a layer holds, in the order of its archive. No other layer is read.

    Args:
        image: an image; after a failure it is closed.
        layer: its number from 0, the lowest, or the beginning of its diff ID or its digest.
        options: bounds on what it may ask for, and where blobs are kept.
        progress: gets the LAYER_ACQUIRE events.

    Raises:
        UsageError: there is no such layer.
        SourceError, VerificationError, LayerError: it could not be read.
    """
    chosen = ChosenLayers([(image, layer_number(image, layer))], image.name)
    for row in read_apart(chosen, lambda flattener: flattener.entries_of(0), options=options, progress=progress):
        yield layer_entry(row)


def layer_entry(row: Row) -> LayerEntry:
    """An entry as the core gives it."""
    path, kind, mode, uid, gid, seconds, nanoseconds, target, size = row
    mtime = seconds * 1_000_000_000 + nanoseconds
    return LayerEntry(path_of(path), kind, mode, uid, gid, mtime, os.fsdecode(target), size)


def read_apart(
    chosen: ChosenLayers,
    end: Callable[[_core.Flattener], Made],
    *,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> Made:
    """Reads layers without merging them, and does `end`, which has the entries of each by its number among these.

    Args:
        chosen: the layers; after a failure their images are closed.
        end: gets the flattener, whose contents are gone after.
        options: bounds on what they may ask for together, and where blobs are kept.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.

    Raises:
        SourceError, VerificationError, LayerError: one could not be read.
    """
    import tempfile

    options = options or FlattenOptions()
    rows = [(layer.digest, layer.size, diff_id) for layer, diff_id in zip(chosen.layers, chosen.diff_ids, strict=True)]
    with tempfile.TemporaryDirectory(prefix="ocifast-") as folder:
        flattener = _core.Flattener(
            rows,
            store="spool",
            folder=folder,
            limits=options.limits,
            decoders=options.decoders,
            from_top=True,
            erofs=erofs_layers(chosen.layers),
        )

        def whole() -> Made:
            for number in range(len(rows)):
                flattener.wait_for(number)
            return end(flattener)

        try:
            return Intake(chosen, flattener, options, progress, cancelled, None).run(whole)
        except OcifastError as error:
            raise error.about(chosen.name_of(error.context.get("layer", ""))) from error.__cause__
        finally:
            flattener.abort()
