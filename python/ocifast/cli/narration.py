"""Progress where no terminal is: a few plain lines for people who read logs, or one JSON object a line for programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import field

from ocifast.cli.display import encodable, format_size, printable
from ocifast.progress import Event, LayerState, Phase
from ocifast.records import dataclass

__all__ = ["JsonLines", "PlainLines"]

_ENDS = {
    LayerState.DOWNLOADED: "fetched",
    LayerState.EXTRACTED: "extracted",
    LayerState.UPLOADED: "written",
    LayerState.EXISTS: "already there",
}


@dataclass
class PlainLines:
    """A line for the beginning, one for each layer that is there, one for packing, one for the end.

    Attributes:
        title: what is worked on.
        write: takes a line.
        clock: seconds that only grow.
    """

    title: str
    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _sizes: dict[str, int | None] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _begun: bool = False
    _packing: bool = False
    _start: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, event: Event) -> None:
        """Takes one event, from any thread."""
        with self._lock:
            if self._start is None:
                self._start = self.clock()
            if event.layer is not None and event.state is not None:
                self._take_layer(event.layer, event.state, event.total)
            elif event.phase is Phase.PACKING and not self._packing:
                self._packing = True
                self._say(f"{self.title}: packing")
            elif event.phase is Phase.COMPLETE:
                self._say(f"{self.title}: done in {self.clock() - self._start:.1f} s")

    def tell_retry(self, what: str, _seconds: float) -> None:
        """Something failed and is tried again."""
        self._say(what)

    def _take_layer(self, digest: str, state: LayerState, total: int | None) -> None:
        if total is not None or digest not in self._sizes:
            self._sizes[digest] = total
        self._numbers.setdefault(digest, len(self._numbers) + 1)
        if state is LayerState.WAITING:
            return
        if not self._begun:
            # All layers are named before the first one moves.
            self._begun = True
            sizes = [size for size in self._sizes.values() if size is not None]
            count = len(self._sizes)
            self._say(f"{self.title}: {count} {'blob' if count == 1 else 'blobs'}, {format_size(sum(sizes))}")
        if state in _ENDS and digest not in self._told:
            self._told.add(digest)
            size = self._sizes[digest]
            shown = "" if size is None else f" {format_size(size)}"
            number = f"{self._numbers[digest]}/{len(self._sizes)}"
            self._say(f"{self.title}: {number} {digest.partition(':')[2][:12]}{shown} {_ENDS[state]}")

    def _say(self, text: str) -> None:
        self.write(f"ocifast: {printable(text)}")


@dataclass
class JsonLines:
    """Every change of phase or state at once, and of bytes at most one a second for each layer (docs/json.md).

    Attributes:
        write: takes a line.
        clock: seconds that only grow.
        image: which of many it is; None where there is one.
    """

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    image: str | None = None
    _told: dict[str | None, tuple[Phase, LayerState | None, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, event: Event) -> None:
        """Takes one event, from any thread."""
        now = self.clock()
        with self._lock:
            phase, state, told = self._told.get(event.layer, (None, None, 0.0))
            ends = event.done is not None and event.done == event.total
            if (phase, state) == (event.phase, event.state) and not ends and now - told < 1:
                return
            self._told[event.layer] = (event.phase, event.state, now)
            self._say(
                {
                    "phase": event.phase.value,
                    "layer": event.layer,
                    "state": None if event.state is None else event.state.value,
                    "done": event.done,
                    "total": event.total,
                }
            )

    def tell_retry(self, what: str, seconds: float) -> None:
        """Something failed and is tried again."""
        with self._lock:
            self._say({"retry": what, "seconds": seconds})

    def _say(self, data: dict[str, object]) -> None:
        if self.image is not None:
            data = {"image": self.image, **data}
        self.write(encodable(json.dumps(data, ensure_ascii=False)))
