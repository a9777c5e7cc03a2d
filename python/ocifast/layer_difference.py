"""Which files differ between the layers of two images, layer by layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ocifast import _core
from ocifast.cache import Cache
from ocifast.difference import LayerChange, Opening, compare_layers
from ocifast.flatten import FlattenOptions
from ocifast.image import Image
from ocifast.interrupt import interruptible, nothing
from ocifast.layer_entries import ChosenLayers, LayerEntry, layer_entry, read_apart
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.rootfs import path_of
from ocifast.spec import Descriptor, Platform

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["EntryChange", "LayerDifference", "LayersDifference", "diff_layers"]


@dataclass(frozen=True)
class EntryChange:
    """One name that differs between two layers.

    Attributes:
        path: absolute path, of a whiteout what it hides; bytes that are no UTF-8 as surrogate escapes.
        kind: "added", when the second layer alone has it; "removed", when the first alone has it; else "changed".
        fields: what changed, of "type", "mode", "owner", "size", "content", "target", "device", "xattrs" and "mtime",
            in this order; of a hard link "type" and "target" alone.
        before: the entry in the first layer; None when it has none.
        after: the entry in the second layer; None when it has none.
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    fields: tuple[str, ...]
    before: LayerEntry | None
    after: LayerEntry | None


@dataclass(frozen=True)
class LayerDifference:
    """One layer of one image, or two beside each other.

    Attributes:
        kind: "same": both images have it; "moved": both have it, but not in the same order; "changed": two layers that
            stand in the same place; "removed": the first image alone has one there; "added": the second alone has.
        first: number of the layer in the first image, from 0, the lowest; None when it has none.
        second: its number in the second image.
        diff_ids: digests of the decompressed layer in the first and the second image; None when it has none.
        layer: its descriptor, of both that of the second image.
        changes: what differs, a directory before what is in it; of a layer that stands alone all that it has, and of
            one that both images have nothing, as it is not read.
    """

    kind: Literal["same", "moved", "changed", "removed", "added"]
    first: int | None
    second: int | None
    diff_ids: tuple[str | None, str | None]
    layer: Descriptor
    changes: tuple[EntryChange, ...]

    def of_kind(self, kind: str) -> tuple[EntryChange, ...]:
        """The changes of one kind."""
        return tuple(change for change in self.changes if change.kind == kind)


@dataclass(frozen=True)
class LayersDifference:
    """What differs between two images, layer by layer.

    Attributes:
        layers: the lowest first.
        digests: of the manifests of the first and the second image.
    """

    layers: tuple[LayerDifference, ...]
    digests: tuple[str, str]

    @property
    def differs(self) -> bool:
        """Whether the images have other layers, or in another order."""
        return any(layer.kind != "same" for layer in self.layers)


def diff_layers(
    first: str | Image,
    second: str | Image,
    *,
    platform: Platform | str | None = None,
    times: bool = False,
    options: RegistryOptions | None = None,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    flattening: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> LayersDifference:
    """Compares two images layer by layer: what the layers hold themselves, whiteouts included.

    Layers that both images have, by their diff IDs, are not read. `ocifast.compare_layers` says where the others stand:
    those that one image has between two layers of both are compared with those that the other image has there, the
    lowest with the lowest.

    Args:
        first: where an image is, as `ocifast.open` takes it, or an image, which is left open.
        second: another.
        platform: which image of an index, for those that are named.
        times: whether modification times count.
        options: how registries are spoken to, for images that are named.
        cache: as of `ocifast.open`, for images that are named; so are the next two.
        offline: no registry is asked.
        refresh: registries are asked again.
        flattening: how many layers at a time, and bounds on what they may ask for, of both images together.
        progress: gets the events of layers.
        cancelled: asked several times a second while layers arrive.

    Raises:
        ImageReferenceError, SourceError, VerificationError, LayerError.
        UsageError: a platform or options for images that are open.
    """
    opening = Opening(platform, options, cache, offline=offline, refresh=refresh)
    with opening.both(first, second) as (one, other):
        rows = list(_beside(compare_layers(one, other)))
        read: list[tuple[Image, int]] = []
        for kind, before, after in rows:
            if kind in ("same", "moved"):
                continue
            if before is not None and before.first is not None:
                read.append((one, before.first))
            if after is not None and after.second is not None:
                read.append((other, after.second))
        chosen = ChosenLayers(read, f"{one.name} and {other.name}")

        def compared(flattener: _core.Flattener) -> tuple[LayerDifference, ...]:
            numbers = iter(range(len(read)))
            return tuple(_compared(flattener, row, numbers, times=times) for row in rows)

        layers = read_apart(chosen, compared, options=flattening, progress=progress, cancelled=cancelled)
        return LayersDifference(layers, (one.digest, other.digest))


_Kind = Literal["same", "moved", "changed", "removed", "added"]
_Beside = tuple[_Kind, "LayerChange | None", "LayerChange | None"]


def _beside(changes: Sequence[LayerChange]) -> Iterator[_Beside]:
    """The kind of each row, the layer in the first image, the one in the second."""
    gone = [change for change in changes if change.kind == "removed"]
    # By the number in the second image: each layer of the first is the origin of one layer of the second at most.
    origins: dict[int | None, LayerChange] = {}
    for change in changes:
        origin = next((old for old in gone if change.kind == "added" and old.diff_id == change.diff_id), None)
        if origin is not None:
            gone.remove(origin)
            origins[change.second] = origin
    removed: list[LayerChange] = []
    there: list[LayerChange] = []

    def between() -> Iterator[_Beside]:
        """What the images have between two layers of both, in the order of the second."""
        for after in there:
            if after.second in origins:
                yield "moved", origins[after.second], after
            elif removed:
                yield "changed", removed.pop(0), after
            else:
                yield "added", None, after
        for before in removed:
            yield "removed", before, None
        removed.clear()
        there.clear()

    for change in changes:
        if change.kind == "added":
            there.append(change)
        elif change.kind == "same":
            yield from between()
            yield "same", change, change
        elif change in gone:
            removed.append(change)
    yield from between()


def _compared(flattener: _core.Flattener, row: _Beside, numbers: Iterator[int], *, times: bool) -> LayerDifference:
    """One row with its files; `numbers` are those of the layers that are read, in the order of the rows."""
    kind, before, after = row
    changes: list[EntryChange] = []
    if kind not in ("same", "moved"):
        ours = None if before is None else next(numbers)
        theirs = None if after is None else next(numbers)
        found = interruptible(lambda: flattener.compare_layers(ours, theirs, times=times), threading.Event(), nothing)
        for path, old, new, fields in found:
            one, other = None if old is None else layer_entry(old), None if new is None else layer_entry(new)
            what: Literal["added", "removed", "changed"] = (
                "added" if one is None else "removed" if other is None else "changed"
            )
            changes.append(EntryChange(path_of(path), what, tuple(fields), one, other))
    last = before if after is None else after
    assert last is not None
    return LayerDifference(
        kind,
        None if before is None else before.first,
        None if after is None else after.second,
        (None if before is None else before.diff_id, None if after is None else after.diff_id),
        last.layer,
        tuple(changes),
    )
