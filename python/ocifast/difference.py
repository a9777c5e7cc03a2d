"""Which files differ between two images, or between two trees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

from ocifast import _core
from ocifast.cache import Cache
from ocifast.errors import UsageError
from ocifast.flatten import FlattenOptions, flatten_both, shared_layers
from ocifast.image import Image, open_image
from ocifast.interrupt import interruptible, nothing
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.rootfs import Rootfs, RootfsEntry, entry_of, path_of
from ocifast.spec import Descriptor, Platform

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Change", "Difference", "LayerChange", "compare", "compare_layers", "diff"]


@dataclass(frozen=True)
class Change:
    """One name that differs.

    Attributes:
        path: absolute path; bytes that are no UTF-8 as surrogate escapes.
        kind: "added", when the second image alone has it; "removed", when the first alone has; else "changed".
        fields: what changed, of "type", "mode", "owner", "size", "content", "target", "device", "xattrs", "hard_link"
            (which earlier name, if any, is the same file) and "mtime", in this order.
        before: the entry in the first image; None when it has none.
        after: the entry in the second image; None when it has none.
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    fields: tuple[str, ...]
    before: RootfsEntry | None
    after: RootfsEntry | None


@dataclass(frozen=True)
class Difference:
    """What differs between two images.

    Attributes:
        changes: in the order of a walk: a directory, what is in it, its siblings by their bytes.
        shared_layers: how many of the lowest layers are the same in both, by their diff IDs.
        digests: of the manifests of the first and the second image.
    """

    changes: tuple[Change, ...]
    shared_layers: int
    digests: tuple[str, str]

    def of_kind(self, kind: str) -> tuple[Change, ...]:
        """The changes of one kind."""
        return tuple(change for change in self.changes if change.kind == kind)


@dataclass(frozen=True)
class LayerChange:
    """One layer of one image or of both.

    Attributes:
        kind: "same", when both have it; "removed", when the first alone has it; "added", when the second alone has.
        first: its number in the first image, from 0, the lowest; None when it has none.
        second: its number in the second image.
        diff_id: digest of the decompressed layer.
        layer: its descriptor, of both that of the second image.
    """

    kind: Literal["same", "removed", "added"]
    first: int | None
    second: int | None
    diff_id: str
    layer: Descriptor


def compare_layers(first: Image, second: Image) -> tuple[LayerChange, ...]:
    """The layers of two images beside each other, by their diff IDs, the lowest first. No layer is read.

    As many as can be stand beside each other in the order of both; one that has moved is removed and added.

    Raises:
        What `Image.diff_ids` does.
    """
    ours, theirs = first.diff_ids, second.diff_ids
    # The length of the longest common subsequence of what is left from each pair of places on.
    longest = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for one in reversed(range(len(ours))):
        for other in reversed(range(len(theirs))):
            longest[one][other] = (
                1 + longest[one + 1][other + 1]
                if ours[one] == theirs[other]
                else max(longest[one + 1][other], longest[one][other + 1])
            )
    found: list[LayerChange] = []
    one = other = 0
    while one < len(ours) or other < len(theirs):
        if one < len(ours) and other < len(theirs) and ours[one] == theirs[other]:
            found.append(LayerChange("same", one, other, ours[one], second.layers[other]))
            one, other = one + 1, other + 1
        elif one < len(ours) and longest[one + 1][other] >= longest[one][min(other + 1, len(theirs))]:
            found.append(LayerChange("removed", one, None, ours[one], first.layers[one]))
            one += 1
        else:
            found.append(LayerChange("added", None, other, theirs[other], second.layers[other]))
            other += 1
    return tuple(found)


def compare(first: Rootfs, second: Rootfs, *, times: bool = False) -> tuple[Change, ...]:
    """What differs between two trees, as `Difference.changes` has it. Contents are read where they wait, once at most.

    Args:
        first: a tree.
        second: another.
        times: whether modification times count.

    Raises:
        UsageError: one of them is closed.
    """
    one, other = first.tree, second.tree
    rows = interruptible(lambda: _core.compare(one, other, times=times), threading.Event(), nothing)
    changes = []
    for path, old, new, fields in rows:
        before, after = None if old is None else entry_of(old), None if new is None else entry_of(new)
        kind: Literal["added", "removed", "changed"] = (
            "added" if before is None else "removed" if after is None else "changed"
        )
        changes.append(Change(path_of(path), kind, tuple(fields), before, after))
    return tuple(changes)


def diff(
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
) -> Difference:
    """Compares two images file by file, with all layers applied.

    The lowest layers that both have, by their diff IDs, are read once, from the first image; a file that came from one
    of them is not compared. Where all layers are the same nothing is read. Nothing is written but what waits in the
    temporary folder.

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
        shared = shared_layers(one, other)
        digests = (one.digest, other.digest)
        if shared == len(one.diff_ids) == len(other.diff_ids):
            return Difference((), shared, digests)
        trees = flatten_both(one, other, options=flattening, progress=progress, cancelled=cancelled)
        with trees[0], trees[1]:
            return Difference(compare(*trees, times=times), shared, digests)


class Opening:
    """How images that are named are opened; see `diff`."""

    def __init__(
        self,
        platform: Platform | str | None,
        options: RegistryOptions | None,
        cache: Cache | None,
        *,
        offline: bool | None,
        refresh: bool,
    ) -> None:
        self._named_only = platform is not None or options is not None
        self._open = partial(
            open_image, platform=platform, options=options, cache=cache, offline=offline, refresh=refresh
        )

    @contextmanager
    def both(self, first: str | Image, second: str | Image) -> Iterator[tuple[Image, Image]]:
        """Two images, of which those that are named are closed in the end.

        Raises:
            ImageReferenceError, SourceError, VerificationError.
            UsageError: a platform or options for images that are open.
        """
        if self._named_only and isinstance(first, Image) and isinstance(second, Image):
            raise UsageError("a platform and options are for images that are named, not for those that are open")
        with ExitStack() as stack:
            one, other = (
                stack.enter_context(self._open(image)) if isinstance(image, str) else image for image in (first, second)
            )
            yield one, other
