"""A source that is opened when something is asked of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ocifast.sources import AttachedSource, Blob, Source

if TYPE_CHECKING:
    from ocifast.spec import Descriptor, Document

__all__ = ["DeferredSource"]


class DeferredSource:
    """A registry's image whose client is loaded only when the cache lacks something: loading takes longer than asking.

    Args:
        name: how messages call it (see `Source.name`).
        ask: opens the source; called once, by the first request. It raises what is wrong with the source.
    """

    def __init__(self, name: str, ask: Callable[[], Source]) -> None:
        self.name = name
        self._ask = ask
        self._opened: Source | None = None
        self._lock = threading.Lock()

    @property
    def origin(self) -> Source:
        """The source itself, opened."""
        with self._lock:
            if self._opened is None:
                self._opened = self._ask()
            return self._opened

    def root(self) -> Document:
        """See `Source.root`."""
        return self.origin.root()

    def document(self, descriptor: Descriptor) -> Document:
        """See `Source.document`."""
        return self.origin.document(descriptor)

    def holds(self, descriptor: Descriptor) -> bool:
        """See `Source.holds`."""
        return self.origin.holds(descriptor)

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """See `Source.blob`."""
        return self.origin.blob(descriptor, offset=offset)

    def tagged(self, tag: str) -> Document | None:
        """See `AttachedSource.tagged`."""
        source = self.origin
        return source.tagged(tag) if isinstance(source, AttachedSource) else None

    def referring(self, digest: str) -> Iterable[Descriptor]:
        """See `AttachedSource.referring`."""
        source = self.origin
        return source.referring(digest) if isinstance(source, AttachedSource) else ()

    def close(self) -> None:
        """Closes the source, if it was opened."""
        if self._opened is not None:
            self._opened.close()
