"""One big blob in parallel ranges.

A server or the way to it often gives one connection less than the line can take. While slots of the host's limiter
are to spare, later pieces of the blob are fetched beside the one that the reader gets; each waits in memory for its
turn and keeps its slot until then, so that all blobs together hold at most one piece per slot. A piece that takes much
longer than others is asked for once more, elsewhere where there is a mirror, and what is whole first is taken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence

from ocifast.sources.registry.download import Origin, open_range, stream
from ocifast.sources.registry.limiter import Slot
from ocifast.spec import Descriptor

__all__ = ["PIECE", "piece_size", "stream_in_ranges"]

PIECE = 8 << 20
"""Bytes of a piece: enough that a request's round trip does not show, few enough to keep four of them in memory."""
LARGE = 4
"""How many times that the pieces are of a blob that has many: fewer requests, as some registries count them."""
MANY = 32
"""How many small ones there must be for large ones."""
PATIENCE = 2.0
"""Seconds that any piece may be waited for."""
STARVED = 3.0
"""How many times longer than others a piece takes that counts as starved."""
_LOOK = 0.05
"""Seconds between two looks at pieces of which nothing comes."""


def piece_size(size: int) -> int:
    """Bytes of each piece of a blob of so many bytes: 8 MiB, and 32 MiB from 256 MiB on."""
    return PIECE * LARGE if size >= PIECE * MANY else PIECE


def stream_in_ranges(
    origin: Origin, descriptor: Descriptor, offset: int, slot: Slot, others: Sequence[Origin] = ()
) -> Generator[bytes, None, None]:
    """The bytes from `offset` on, in order, fetched in several requests at a time where that helps.

    The first piece shows whether it does: a server that answers with the whole blob is read as it comes, and where one
    connection is fast enough (`RegistryOptions.range_speed`) the rest is one more request.

    Args:
        origin: where the blob is.
        descriptor: of the blob.
        offset: first byte.
        slot: of the host's limiter.
        others: where else it may be.

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
        yield from _Ranges(origin, others, descriptor, first, slot, waited / (first - offset)).read()


class _Ranges:
    """The rest of one blob on its way, in pieces.

    Args:
        origin: where the blob is.
        others: where else it may be.
        descriptor: of the blob.
        offset: first byte.
        slot: the reader's.
        pace: seconds that each byte took until now.
    """

    def __init__(
        self, origin: Origin, others: Sequence[Origin], descriptor: Descriptor, offset: int, slot: Slot, pace: float
    ) -> None:
        self._origin = origin
        self._others = others
        self._descriptor = descriptor
        self._slot = slot
        self._paces = [pace]
        self._size = piece_size(descriptor.size - offset)
        self._starts = range(offset, descriptor.size, self._size)
        self._unassigned = iter(self._starts)
        self._ahead: dict[int, _Piece] = {}
        # The reader's own connection is used by always leaving it one piece: the first of each round.
        self._reserved: int | None = None

    def read(self) -> Generator[bytes, None, None]:
        """All of it, in order."""
        try:
            for start in self._starts:
                self._fill()
                piece = self._ahead.pop(start, None)
                if piece is not None:
                    self._slot.hand_over()
                else:
                    if start == self._reserved:
                        self._reserved = None
                    else:
                        # No slot was to spare, and so it is the next one that was not given out.
                        next(self._unassigned, None)
                    piece = _Piece(self._origin, self._descriptor, start, self._end(start), self._slot, own=False)
                yield from _take(piece, lambda piece=piece: self._patience(piece), self._elsewhere)  # type: ignore[misc]
                if piece.seconds is not None:
                    self._paces.append(piece.seconds / (piece.end - piece.start))
                self._slot.take_back()
        finally:
            for piece in self._ahead.values():
                piece.call_off()

    def _fill(self) -> None:
        """Has pieces fetched while there are slots to spare."""
        while (extra := self._origin.client.limiter.downloads.try_slot()) is not None:
            start = next(self._unassigned, None)
            if start is not None and self._reserved is None:
                self._reserved, start = start, next(self._unassigned, None)
            if start is None:
                extra.release()
                return
            self._ahead[start] = _Piece(self._origin, self._descriptor, start, self._end(start), extra)

    def _end(self, start: int) -> int:
        return min(start + self._size, self._descriptor.size)

    def _patience(self, piece: _Piece) -> float:
        """Seconds that it may be waited for: some, and more where all are slow."""
        from statistics import median  # slow to import, and few downloads are long enough to come here

        return max(PATIENCE, STARVED * median(self._paces) * (piece.end - piece.start))

    def _elsewhere(self, at: int) -> _Piece:
        """The rest of the piece that has byte `at`, from another place where there is one, else once more."""
        place = self._others[0] if self._others else self._origin
        start = self._starts[(at - self._starts.start) // self._size]
        # It may have one slot more than there are: the one that it is to replace moves nothing.
        extra = place.client.limiter.downloads.extra_slot()
        return _Piece(place, self._descriptor, at, self._end(start), extra)


class _Piece:
    """The bytes from `start` up to `end`, which wait in memory until they are taken.

    Args:
        origin: where the blob is.
        descriptor: of the blob.
        start: first byte.
        end: the byte after the last one.
        slot: of the host's limiter.
        own: whether the slot goes back when the piece has been taken; else it is the reader's, who keeps it.

    Attributes:
        start: as above, `end` too.
        seconds: how long fetching took, once it has ended well.
    """

    def __init__(
        self, origin: Origin, descriptor: Descriptor, start: int, end: int, slot: Slot, *, own: bool = True
    ) -> None:
        self.start, self.end = start, end
        self.seconds: float | None = None
        self._chunks: deque[bytes] = deque()
        self._failure: BaseException | None = None
        self._over = self._called_off = False
        self._changed = threading.Condition()
        self._slot = slot
        self._own = own
        # A daemon: one that waits for a server that is silent must not keep the process from ending.
        threading.Thread(target=self._fetch, args=(origin, descriptor), name=f"range {start}", daemon=True).start()

    def is_whole(self) -> bool:
        """Whether all of it is there."""
        with self._changed:
            return self._over and self._failure is None

    def next(self, timeout: float) -> bytes | None:
        """The next bytes: empty at its end, None when none came in time. Raises what fetching raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._over, timeout)
            if self._chunks:
                return self._chunks.popleft()
            if self._over and self._failure is not None:
                raise self._failure
            return b"" if self._over else None

    def call_off(self) -> None:
        """Nobody wants it any more; its slot is free for others, even while it still waits for a silent server."""
        with self._changed:
            self._called_off = True
            self._chunks.clear()
        self._slot.hand_over()
        if self._own:
            self._slot.release()

    def _fetch(self, origin: Origin, descriptor: Descriptor) -> None:
        began = time.monotonic()
        failure: BaseException | None = None
        try:
            chunks = stream(origin, descriptor, self.start, self.end, self._slot)
            for chunk in chunks:
                with self._changed:
                    if self._called_off:
                        chunks.close()
                        break
                    self._chunks.append(chunk)
                    self._changed.notify_all()
        except BaseException as error:
            failure = error
        # The reader may let it wait; see Slot.
        self._slot.hand_over()
        with self._changed:
            self._failure, self._over = failure, True
            self.seconds = time.monotonic() - began if failure is None else None
            self._changed.notify_all()


def _take(
    piece: _Piece, patience: Callable[[], float], elsewhere: Callable[[int], _Piece]
) -> Generator[bytes, None, None]:
    """The bytes of a piece as they come. When it is starved it is asked for once more: the first whole one wins.

    Args:
        piece: called off at the end, whatever comes of it.
        patience: seconds that may be spent waiting for its bytes, until it counts as starved.
        elsewhere: fetches it from a byte on, by another connection or from another place.

    Raises:
        BlobNotFoundError, SizeMismatchError, NetworkError, RegistryError, AuthenticationError: of the piece, when the
            other one failed as well, or was not asked for.
    """
    at, waited, skip = piece.start, 0.0, 0
    rival: _Piece | None = None
    asked = False
    try:
        while True:
            began = time.monotonic()
            chunk, lost = None, False
            try:
                chunk = piece.next(_LOOK)
            except BaseException:
                if rival is None:
                    raise
                lost = True
            waited += time.monotonic() - began
            if chunk:
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                at += len(fresh)
                if fresh:
                    yield fresh
            elif chunk is not None:
                return
            elif rival is not None and (lost or rival.is_whole()):
                piece.call_off()
                skip = at - rival.start
                piece, rival = rival, None
            elif not asked and at < piece.end and waited > patience():
                asked, rival = True, elsewhere(at)
    finally:
        piece.call_off()
        if rival is not None:
            rival.call_off()
