"""How long each phase of a compilation took, and how many bytes it had to do with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field

from ocifast.records import dataclass

__all__ = ["PHASES", "Meter", "PhaseMetric"]

PHASES = ("resolve", "fetch", "inflate", "merge", "pack", "publish")
"""In the order in which they begin. Fetching, inflating and merging run side by side."""


@dataclass(frozen=True)
class PhaseMetric:
    """One phase.

    Attributes:
        name: one of `PHASES`.
        begun: seconds from the beginning of the whole work to that of the phase.
        seconds: from the phase's beginning to its end; phases that run side by side are not added up to the whole.
        bytes: resolve: of manifests and config; fetch: of blobs that came over the network; inflate: of layers as they
            are decompressed; merge: of files' contents in the tree; pack: of data that was written; publish: of what
            got its names.
    """

    name: str
    begun: float
    seconds: float
    bytes: int


@dataclass
class _Span:
    begun: float | None = None
    ended: float = 0.0
    bytes: int = 0


@dataclass
class Meter:
    """Counts while work is done, from any thread. What never began has no metric.

    Attributes:
        decoded: diff IDs of layers that were decompressed, in the order in which they were done with.
        adopted: diff IDs of layers that were there as decoded ones, verified on this machine.
        took_others: whether a decoded layer was taken that nobody has compared with its diff ID.
    """

    decoded: list[str] = field(default_factory=list)
    adopted: set[str] = field(default_factory=set)
    took_others: bool = False
    _begun: float = field(default_factory=lambda: time.monotonic())
    _wall: int = field(default_factory=time.time_ns)
    _spans: dict[str, _Span] = field(default_factory=lambda: {name: _Span() for name in PHASES})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Counts the time of the block; several at once count from the first beginning to the last end."""
        span = self._spans[name]
        with self._lock:
            if span.begun is None:
                span.begun = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                span.ended = time.monotonic()

    def add(self, name: str, count: int) -> None:
        """Counts bytes."""
        with self._lock:
            self._spans[name].bytes += count

    def note_fetched(self, count: int) -> None:
        """Bytes came over the network, which count as fetching from the first to the last of them."""
        span, now = self._spans["fetch"], time.monotonic()
        with self._lock:
            span.begun = now if span.begun is None else span.begun
            span.ended = now
            span.bytes += count

    def note_decoded(self, diff_id: str) -> None:
        """A layer was decompressed."""
        with self._lock:
            self.decoded.append(diff_id)

    def metrics(self) -> tuple[PhaseMetric, ...]:
        """Of the phases that there were, in their order."""
        with self._lock:
            return tuple(
                PhaseMetric(name, span.begun - self._begun, max(span.ended - span.begun, 0.0), span.bytes)
                for name, span in self._spans.items()
                if span.begun is not None
            )

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning of the work."""
        return time.monotonic() - self._begun

    def wall(self, seconds: float) -> int:
        """A moment of this work in nanoseconds since 1970, from seconds since its beginning."""
        return self._wall + round(seconds * 1e9)
