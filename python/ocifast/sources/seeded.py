"""A registry with layouts on disk before it: what a layout has is not asked for again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ocifast.errors import BlobNotFoundError
from ocifast.reference import Reference
from ocifast.sources import AttachedSource, Blob, Source
from ocifast.sources.layout import LayoutSource
from ocifast.spec import Descriptor, Document

__all__ = ["SeededSource"]


class SeededSource:
    """An image of a registry, of which seed layouts may hold the manifest, single blobs, or all.

    A tag is looked up in the layouts by the full name that stands with an entry of `index.json` (a bare tag there says
    nothing about the repository). A layout that has the tag wins over the registry, which is not asked then.

    Args:
        reference: the image.
        layouts: the seeds, first one first. Closed by `close`.
        ask: opens the registry's source; called once, and only when the layouts lack something.
    """

    def __init__(self, reference: Reference, layouts: Sequence[LayoutSource], ask: Callable[[], Source]) -> None:
        self.name = str(reference)
        self._reference = reference
        self._layouts = tuple(layouts)
        self._ask = ask
        self._registry: Source | None = None
        self._lock = threading.Lock()

    def root(self) -> Document:
        """The manifest or index, from the first seed that names it, or else the registry (see `Source.root`)."""
        for layout in self._layouts:
            found = layout.look_up(self._reference)
            if found is not None:
                return found
        return self._source().root()

    def document(self, descriptor: Descriptor) -> Document:
        """A manifest or index by its descriptor (see `Source.document`)."""
        layout = self._holder(descriptor)
        return (layout or self._source()).document(descriptor)

    def holds(self, descriptor: Descriptor) -> bool:
        """What no layout has, the registry has (see `Source.holds`)."""
        return True

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """A blob (see `Source.blob`)."""
        layout = self._holder(descriptor)
        try:
            return (layout or self._source()).blob(descriptor, offset=offset)
        except BlobNotFoundError:
            if layout is None:
                raise
            return self._source().blob(descriptor, offset=offset)

    def tagged(self, tag: str) -> Document | None:
        """What another tag of the repository names, in a seed or in the registry (see `AttachedSource`)."""
        for layout in self._layouts:
            found = layout.look_up(replace(self._reference, tag=tag, digest=None))
            if found is not None:
                return found
        source = self._source()
        return source.tagged(tag) if isinstance(source, AttachedSource) else None

    def referring(self, digest: str) -> Iterator[Descriptor]:
        """What refers to a manifest, in all seeds and in the registry (see `AttachedSource`)."""
        for layout in self._layouts:
            yield from layout.referring(digest)
        source = self._source()
        if isinstance(source, AttachedSource):
            yield from source.referring(digest)

    def close(self) -> None:
        """Closes the layouts, and the registry if it was asked."""
        for layout in self._layouts:
            layout.close()
        if self._registry is not None:
            self._registry.close()

    def _holder(self, descriptor: Descriptor) -> LayoutSource | None:
        # A file of another length is what an interrupted copy has left: the registry has the whole.
        return next((layout for layout in self._layouts if layout.size_of(descriptor.digest) == descriptor.size), None)

    def _source(self) -> Source:
        with self._lock:
            if self._registry is None:
                self._registry = self._ask()
            return self._registry
