"""One limiter per host, shared by all requests of this process, and where that is asked for by those of the machine.

It has slots, handed out in the order they were asked for, and one pause that a server's `429 Too Many Requests` sets
for everybody. Every request takes a slot until it is answered; a blob takes another one for as long as its bytes move.
Downloads, uploads and requests have slots of their own: what is uploaded may come from the same host, and an upload
that waited for a download's slot while it holds one would wait for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from ocifast.sources.registry.shared_limit import SharedLimit

__all__ = ["Limiter", "Slot", "Slots", "limiter_for"]

STALLED = 1.0
"""Seconds after which a slot whose reader takes nothing does not count."""
_LOOK = 0.25
_LOOK_SHARED = 0.02
"""Seconds until it is looked again whether another process has given a slot back: nobody tells us."""


class Slot:
    """The right to move a blob; `with` gives it back.

    A reader that must wait for another one before it takes more (a higher layer for a lower one) would block a queue
    of slots for ever. So a slot says when its reader has the word, and stops counting when the reader keeps silent.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._handed: float | None = None
        self.shared = -1
        """The open file of a slot of the machine; -1 for none."""

    def hand_over(self) -> None:
        """A chunk goes to the reader now."""
        self._handed = time.monotonic()

    def take_back(self) -> None:
        """The reader wants more."""
        self._handed = None

    def is_stalled(self, now: float) -> bool:
        """Whether the reader took nothing for a while."""
        handed = self._handed
        return handed is not None and now - handed > STALLED

    def release(self) -> None:
        """Gives the slot back; may be called twice."""
        self._slots.release(self)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.release()


class Slots:
    """How many of one kind there may be at a time."""

    def __init__(self, kind: str = "", shared: SharedLimit | None = None) -> None:
        """Args: `kind` names them among those of the machine, `shared` counts those."""
        self._kind = kind
        self._shared = shared
        self._most = 0
        self._taken: set[Slot] = set()
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def widen(self, most: int) -> None:
        """Allows at least so many at a time: of those who share a host, the one that wants most has its way."""
        with self._changed:
            self._most = max(self._most, most)
            self._changed.notify_all()

    def slot(self) -> Slot:
        """Waits for a slot, first come, first served."""
        with self._changed:
            ticket = object()
            self._queue.append(ticket)
            try:
                while True:
                    ours = self._queue[0] is ticket and self._is_free()
                    slot = self._take() if ours else None
                    if slot is not None:
                        return slot
                    self._changed.wait(_LOOK_SHARED if ours else _LOOK)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def try_slot(self) -> Slot | None:
        """A slot if one is free and nobody waits for it."""
        with self._changed:
            if self._queue or len(self._taken) >= self._most:
                return None
            return self._take()

    def extra_slot(self) -> Slot:
        """One more than there are, for what replaces another."""
        return Slot(self)

    def release(self, slot: Slot) -> None:
        """Called by the slot."""
        with self._changed:
            self._taken.discard(slot)
            self._give_back(slot)
            self._changed.notify_all()

    def _take(self) -> Slot | None:
        """A slot of this process, with one of the machine where those are counted; None while others have them all."""
        slot = Slot(self)
        if self._shared is not None:
            found = self._shared.try_slot(self._kind, self._most)
            if found is None:
                # What does not count here must not count there: its reader may wait for who asks now.
                now = time.monotonic()
                for taken in self._taken:
                    if taken.is_stalled(now):
                        self._give_back(taken)
                return None
            slot.shared = found
        self._taken.add(slot)
        return slot

    def _give_back(self, slot: Slot) -> None:
        if slot.shared >= 0:
            os.close(slot.shared)
        slot.shared = -1

    def _is_free(self) -> bool:
        if len(self._taken) < self._most:
            return True
        now = time.monotonic()
        return sum(not slot.is_stalled(now) for slot in self._taken) < self._most


class Limiter:
    """Slots and pause of one host.

    Attributes:
        downloads: slots for blobs that are read.
        uploads: slots for blobs that are sent.
        requests: slots for all requests until they are answered, but for those whose body is a blob that is sent.
    """

    def __init__(self, shared: SharedLimit | None = None) -> None:
        """Args: `shared` counts what all processes of the machine do."""
        self.downloads = Slots("downloads", shared)
        self.uploads = Slots("uploads", shared)
        self.requests = Slots("requests", shared)
        self._shared = shared
        self._lock = threading.Lock()
        self._resume_at = 0.0

    def pause(self, seconds: float) -> None:
        """Nobody starts a request before so many seconds have passed."""
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)
        if self._shared is not None:
            self._shared.pause(seconds)

    def wait(self, stop: threading.Event) -> None:
        """Waits until no pause is in force, or until `stop` is set."""
        while (left := self._pause_left()) > 0 and not stop.wait(left):
            pass

    def _pause_left(self) -> float:
        own = self._resume_at - time.monotonic()
        return own if self._shared is None else max(own, self._shared.pause_left())


_limiters: WeakValueDictionary[tuple[str, bool], Limiter] = WeakValueDictionary()
_lock = threading.Lock()


def limiter_for(host: str, slots: int, *, shared: bool = False) -> Limiter:
    """The limiter of `HOST[:PORT]`, with at least so many slots; the same for all who ask while anybody uses it.

    With `shared` it is one with all processes of the machine that ask for that, too.
    """
    with _lock:
        limiter = _limiters.get((host, shared))
        if limiter is None:
            limiter = _limiters[host, shared] = Limiter(_shared_limit(host) if shared else None)
        for kind in (limiter.downloads, limiter.uploads, limiter.requests):
            kind.widen(slots)
        return limiter


def _shared_limit(host: str) -> SharedLimit:
    # Not imported before it is needed: few runs share their limits.
    from ocifast.sources.registry.shared_limit import SharedLimit

    return SharedLimit(host)
