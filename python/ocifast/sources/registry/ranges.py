"""One big blob in parallel ranges.

A server or the way to it often gives one connection less than the line can take. While slots of the host's limiter
are to spare, later pieces of the blob are fetched beside the one that the reader gets; each waits in memory for its
turn and keeps its slot until then, so that all blobs together hold at most one piece per slot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

from ocifast.sources.registry.limiter import Slot
from ocifast.sources.registry.transfer import Origin, open_range, stream
from ocifast.spec import Descriptor

__all__ = ["PIECE", "stream_in_ranges"]

PIECE = 8 << 20
"""Bytes of a piece: enough that a request's round trip does not show, few enough to keep four of them in memory."""


class _Piece:
    """A part of the blob that a thread fetches ahead of its turn."""

    def __init__(self, origin: Origin, descriptor: Descriptor, start: int, end: int, slot: Slot) -> None:
        self._chunks: list[bytes] = []
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._called_off = threading.Event()
        self._slot = slot
        # A daemon: one that waits for a server that is silent must not keep the process from ending.
        threading.Thread(
            target=self._fetch, args=(origin, descriptor, start, end), name=f"range {start}", daemon=True
        ).start()

    def _fetch(self, origin: Origin, descriptor: Descriptor, start: int, end: int) -> None:
        try:
            chunks = stream(origin, descriptor, start, end, self._slot)
            for chunk in chunks:
                if self._called_off.is_set():
                    chunks.close()
                    break
                self._chunks.append(chunk)
        except BaseException as error:
            self._failure = error
        finally:
            # The reader may let it wait; see Slot.
            self._slot.hand_over()
            self._done.set()
            if self._called_off.is_set():
                self._drop()

    def take(self) -> Generator[bytes, None, None]:
        """Waits for the piece, hands it on and gives its slot back."""
        self._done.wait()
        try:
            if self._failure is not None:
                raise self._failure
            self._chunks.reverse()
            while self._chunks:
                yield self._chunks.pop()
        finally:
            self._slot.release()

    def call_off(self) -> None:
        """Nobody wants it any more."""
        self._called_off.set()
        if self._done.is_set():
            self._drop()

    def _drop(self) -> None:
        self._chunks.clear()
        self._slot.release()


def stream_in_ranges(origin: Origin, descriptor: Descriptor, offset: int, slot: Slot) -> Generator[bytes, None, None]:
    """The bytes from `offset` on, in order, fetched in several requests at a time where that helps.

    The first piece shows whether it does: a server that answers with the whole blob is read as it comes, and where one
    connection is fast enough (`RegistryOptions.range_speed`) the rest is one more request.

    Raises:
        BlobNotFoundError, SizeMismatchError, NetworkError, RegistryError, AuthenticationError.
    """
    size = descriptor.size
    first = min(offset + PIECE, size)
    opened = open_range(origin, descriptor, offset, first)
    if not opened.partial:
        yield from stream(origin, descriptor, offset, size, slot, opened)
        return
    waited = 0.0
    chunks = stream(origin, descriptor, offset, first, slot, opened)
    while True:
        began = time.monotonic()
        chunk = next(chunks, None)
        waited += time.monotonic() - began
        if chunk is None:
            break
        yield chunk
    if first - offset >= origin.client.options.range_speed * waited:
        yield from stream(origin, descriptor, first, size, slot)
    else:
        yield from _in_pieces(origin, descriptor, first, slot)


def _in_pieces(origin: Origin, descriptor: Descriptor, offset: int, slot: Slot) -> Generator[bytes, None, None]:
    size = descriptor.size
    starts = range(offset, size, PIECE)
    unassigned = iter(starts)
    ahead: dict[int, _Piece] = {}
    # The reader's own connection is used by always leaving it one piece: the first of each round.
    reserved: int | None = None

    def fill() -> None:
        nonlocal reserved
        while (extra := origin.client.limiter.downloads.try_slot()) is not None:
            start = next(unassigned, None)
            if start is not None and reserved is None:
                reserved, start = start, next(unassigned, None)
            if start is None:
                extra.release()
                return
            ahead[start] = _Piece(origin, descriptor, start, min(start + PIECE, size), extra)

    try:
        for start in starts:
            fill()
            piece = ahead.pop(start, None)
            if piece is not None:
                slot.hand_over()
                yield from piece.take()
                slot.take_back()
                continue
            if start == reserved:
                reserved = None
            else:
                # No slot was to spare, and so it is the next one that was not given out.
                next(unassigned, None)
            yield from stream(origin, descriptor, start, min(start + PIECE, size), slot)
    finally:
        for piece in ahead.values():
            piece.call_off()
