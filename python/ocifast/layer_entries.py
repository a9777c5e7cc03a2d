"""What one layer of an image holds itself, whiteouts included."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ocifast import _core
from ocifast.errors import OcifastError, UsageError
from ocifast.intake import FlattenOptions, Intake, erofs_layers
from ocifast.layered import Layered
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.rootfs import path_of
from ocifast.sources import Blob
from ocifast.spec import Descriptor

__all__ = ["LayerEntry", "entries_of_layer"]


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


class _Single:
    """An image of which one layer counts."""

    def __init__(self, image: Layered, number: int) -> None:
        self._image = image
        self.name = image.name
        self.layers = (image.layers[number],)
        self.diff_ids = (image.diff_ids[number],)

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens the layer."""
        return self._image.blob(descriptor, offset=offset)

    def close(self) -> None:
        """Closes the image."""
        self._image.close()


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
    options = options or FlattenOptions()
    single = _Single(image, layer_number(image, layer))
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ocifast-") as folder:
        rows = [(single.layers[0].digest, single.layers[0].size, single.diff_ids[0])]
        erofs = erofs_layers(single.layers)
        flattener = _core.Flattener(
            rows, store="spool", folder=folder, limits=options.limits, from_top=True, erofs=erofs
        )
        try:
            Intake(single, flattener, options, progress, None, None).run(lambda: flattener.wait_for(0))
            entries = flattener.entries_of(0)
        except OcifastError as error:
            raise error.about(image.name) from error.__cause__
        finally:
            flattener.abort()
    for path, kind, mode, uid, gid, seconds, nanoseconds, target, size in entries:
        mtime = seconds * 1_000_000_000 + nanoseconds
        yield LayerEntry(path_of(path), kind, mode, uid, gid, mtime, os.fsdecode(target), size)
