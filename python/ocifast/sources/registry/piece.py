"""A part of a blob that a thread fetches; one that is starved is asked for once more, elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator

from ocifast.sources.registry.limiter import Slot
from ocifast.sources.registry.transfer import Origin, stream
from ocifast.spec import Descriptor

__all__ = ["Piece", "take"]

_LOOK = 0.05
"""Seconds between two looks at pieces of which nothing comes."""


class Piece:
    """The bytes from `start` up to `end`, which wait in memory until they are taken.

    Args:
        origin: where the blob is.
        descriptor: of the blob.
        start: first byte.
        end: the byte after the last one; see `raw_body`.
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


def take(
    piece: Piece, patience: Callable[[], float], elsewhere: Callable[[int], Piece]
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
    rival: Piece | None = None
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
