"""A blob of a registry as sources hand it out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from types import TracebackType

from ocifast.errors import SizeMismatchError, SourceError
from ocifast.logs import logger
from ocifast.sources import FileSlice
from ocifast.sources.registry.ranges import stream_in_ranges
from ocifast.sources.registry.transfer import Origin, stream
from ocifast.spec import Descriptor

__all__ = ["RegistryBlob"]

_log = logger(__name__)


class RegistryBlob:
    """A blob of a registry; see `ocifast.sources.Blob`. Iterating takes a slot of the host's limiter."""

    local: FileSlice | None = None

    def __init__(self, origins: Sequence[Origin], descriptor: Descriptor, *, offset: int = 0) -> None:
        """Makes one; nothing is asked for before it is iterated.

        Args:
            origins: where the blob may be: mirrors, and last the registry itself. Each goes on where the one before
                it failed.
            descriptor: of the blob.
            offset: first byte that is wanted, from 0 to the descriptor's size.
        """
        self._origins = origins
        self._descriptor = descriptor
        self._offset = offset
        self._running: Generator[bytes, None, None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self._running = self._download()
        return self._running

    def __enter__(self) -> RegistryBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._running is not None:
            self._running.close()

    def _download(self) -> Generator[bytes, None, None]:
        position = self._offset
        for origin in self._origins[:-1]:
            try:
                for chunk in self._from(origin, position):
                    position += len(chunk)
                    yield chunk
            except (SourceError, SizeMismatchError) as error:
                _log.info("mirror %s: %s", origin.client.host, error)
            else:
                return
        yield from self._from(self._origins[-1], position)

    def _from(self, origin: Origin, start: int) -> Generator[bytes, None, None]:
        size = self._descriptor.size
        if start >= size:
            return
        threshold = origin.client.options.range_threshold
        with origin.client.limiter.downloads.slot() as slot:
            if threshold is None or size - start < threshold:
                yield from stream(origin, self._descriptor, start, size, slot)
            else:
                others = [other for other in self._origins if other is not origin]
                yield from stream_in_ranges(origin, self._descriptor, start, slot, others)
