"""What is known of a job from its events: where each layer stands, how many bytes are there, how fast they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import field, replace

from ocifast.progress import Event, LayerState, Phase
from ocifast.records import dataclass

__all__ = ["LayerStand", "Snapshot", "Tally"]

_FINAL = frozenset({LayerState.EXTRACTED, LayerState.UPLOADED})
_FINAL_IN_A_COPY = _FINAL | {LayerState.DOWNLOADED, LayerState.EXISTS}
_MOVING = frozenset({LayerState.DOWNLOADING, LayerState.UPLOADING})
_WINDOW = 5.0
"""Seconds that the rate is taken over."""


@dataclass
class LayerStand:
    """Where one layer stands.

    Attributes:
        digest: of its blob.
        state: the last one told.
        done: compressed bytes that are there.
        total: compressed bytes of all of it; None while nobody has said.
        cached: it was not fetched but taken from where it was.
        rate: bytes per second over the last seconds; None while none come.
        left: seconds until the bytes are there at that rate.
    """

    digest: str
    state: LayerState
    done: int = 0
    total: int | None = None
    cached: bool = False
    rate: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The whole job at one moment.

    Attributes:
        phase: the phase that the work is in; None before the first event.
        layers: in the order that they were named in.
        done: compressed bytes of all layers that are there.
        total: compressed bytes of all layers, as far as they are known.
        rate: bytes per second over the last seconds, of those that come over the network if any did, else of those that
            are read; None while none come.
        left: seconds until the bytes are there at that rate.
        packed: bytes packed and bytes to pack; None outside of packing.
        packing_rate: bytes per second that were packed over the last seconds; None while that is not known.
        packing_left: seconds until all are packed at that rate.
        retry: what is tried again right now, for people.
    """

    phase: Phase | None
    layers: tuple[LayerStand, ...]
    done: int
    total: int
    rate: float | None
    left: float | None
    packed: tuple[int, int | None] | None
    packing_rate: float | None
    packing_left: float | None
    retry: str | None


class _Rate:
    """Bytes per second over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def count(self, now: float, bytes_so_far: int) -> None:
        """So many bytes there are now; fewer than before begin anew, as another output does."""
        if self._samples and bytes_so_far < self._samples[-1][1]:
            self._samples.clear()
        if not self._samples or now - self._samples[-1][0] >= 0.2:
            self._samples.append((now, bytes_so_far))

    def over(self, now: float, bytes_so_far: int) -> float | None:
        """The rate; None while it is not known, or nothing has come."""
        while len(self._samples) > 1 and self._samples[0][0] < now - _WINDOW:
            self._samples.popleft()
        begun, before = self._samples[0] if self._samples else (now, 0)
        passed = now - begun
        return (bytes_so_far - before) / passed if bytes_so_far > before and passed >= 0.5 else None


@dataclass
class Tally:
    """Takes events from any thread; each costs the same however many layers there are.

    Attributes:
        finishes: whether a blob that is there is done with, as in a copy; in a compilation it is applied afterwards.
        clock: seconds that only grow.
    """

    finishes: bool = False
    clock: Callable[[], float] = time.monotonic
    _phase: Phase | None = None
    _layers: dict[str, LayerStand] = field(default_factory=dict)
    _moved: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _packed: tuple[int, int | None] | None = None
    _packing: _Rate = field(default_factory=_Rate)
    _read: int = 0
    _reading: _Rate = field(default_factory=_Rate)
    _rates: dict[str, _Rate] = field(default_factory=dict)
    _retry: tuple[float, str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, event: Event) -> None:
        """Takes one event."""
        with self._lock:
            self._phase = event.phase
            if event.layer is not None and event.state is not None:
                self._take_layer(event.layer, event.state, event.done, event.total)
            elif event.phase is Phase.PACKING and event.done is not None:
                self._packing.count(self.clock(), event.done)
                self._packed = (event.done, event.total)

    def tell_retry(self, what: str, seconds: float) -> None:
        """Something failed and is tried again in so many seconds."""
        with self._lock:
            self._retry = (self.clock() + seconds + 1, what)

    def snapshot(self) -> Snapshot:
        """How all of it stands now."""
        with self._lock:
            moved, packed, now = self._moved, self._packed, self.clock()
            layers = tuple(self._stand(layer, now) for layer in self._layers.values())
            retry = self._retry[1] if self._retry is not None and self._retry[0] > now else None
            while len(self._samples) > 1 and self._samples[0][0] < now - _WINDOW:
                self._samples.popleft()
            begun, before = self._samples[0] if self._samples else (now, 0)
            phase = self._phase
            packing = None if packed is None else self._packing.over(now, packed[0])
            reading = self._reading.over(now, self._read)
        done = sum(layer.done for layer in layers)
        total = sum(layer.total if layer.total is not None else layer.done for layer in layers)
        rate = reading
        if moved:
            rate = (moved - before) / (now - begun) if now - begun >= 0.5 else None
        left = (total - done) / rate if rate and total > done else None
        rest = None if packed is None or packed[1] is None else packed[1] - packed[0]
        packing_left = rest / packing if rest and packing else None
        return Snapshot(phase, layers, done, total, rate, left, packed, packing, packing_left, retry)

    def is_final(self, state: LayerState) -> bool:
        """Whether nothing follows the state."""
        return state in (_FINAL_IN_A_COPY if self.finishes else _FINAL)

    def _take_layer(self, digest: str, state: LayerState, done: int | None, total: int | None) -> None:
        layer = self._layers.get(digest)
        if layer is None:
            layer = self._layers[digest] = LayerStand(digest, state)
        if total is not None:
            layer.total = total
        if state is LayerState.EXISTS:
            layer.cached = True
        if self.is_final(state) or state is LayerState.DOWNLOADED:
            if layer.state in _MOVING:
                self._count((layer.total or 0) - layer.done)
            layer.done = layer.total if layer.total is not None else max(layer.done, done or 0)
        elif state in _MOVING:
            self._count((done or 0) - layer.done)
            layer.done = done or 0
        elif done is not None and state is not LayerState.EXISTS:
            # Those that were fetched are there; those that were not are read now.
            self._read += max(0, done - layer.done)
            self._reading.count(self.clock(), self._read)
            layer.done = max(layer.done, done)
        if layer.state is not state or digest not in self._rates:
            self._rates[digest] = _Rate()
        self._rates[digest].count(self.clock(), layer.done)
        layer.state = state

    def _stand(self, layer: LayerStand, now: float) -> LayerStand:
        """A layer as it stands, with its rate while bytes of it come."""
        rate = self._rates[layer.digest].over(now, layer.done)
        rest = 0 if layer.total is None else layer.total - layer.done
        return replace(layer, rate=rate if rest else None, left=rest / rate if rate and rest else None)

    def _count(self, moved: int) -> None:
        now = self.clock()
        if not self._samples or now - self._samples[-1][0] >= 0.2:
            self._samples.append((now, self._moved))
        self._moved += max(0, moved)
