"""Many images at a time on a terminal: a line for each that is on its way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ocifast.cli.display import format_size, printable
from ocifast.cli.screen import Screen
from ocifast.cli.tally import Tally
from ocifast.progress import Progress

__all__ = ["drawing"]


class _RunningImages:
    """What is on its way, from any thread."""

    def __init__(self) -> None:
        self._running: list[tuple[str, Tally]] = []
        self._done = 0
        self._retry = Tally()
        self._lock = threading.Lock()

    def begin(self, image: str) -> Tally:
        tally = Tally(finishes=True)
        with self._lock:
            self._running.append((image, tally))
        return tally

    def end(self, image: str) -> None:
        with self._lock:
            self._done += 1
            # An image may go to two places: the one that has begun first is the likelier to have ended.
            found = next((pair for pair in self._running if pair[0] == image), None)
            if found is not None:
                self._running.remove(found)

    def tell_retry(self, what: str, seconds: float) -> None:
        self._retry.tell_retry(what, seconds)

    def lines(self, width: int, height: int) -> list[str]:
        with self._lock:
            running, done = list(self._running), self._done
        shown = []
        for image, tally in running:
            stand = tally.snapshot()
            size = f"  {format_size(stand.done)} of {format_size(stand.total)}" if stand.total else ""
            room = max(width - 3 - len(size), 8)
            name = printable(image)
            shown.append(f"  {name if len(name) <= room else name[: room - 1] + '~'}{size}")
        retry = self._retry.snapshot().retry
        last = [*([printable(retry)] if retry else []), f"{done} {'image' if done == 1 else 'images'} done"]
        room = max(height - len(last), 0)
        return [line[: width - 1] for line in [*shown[:room], *last]][:height]


@contextmanager
def drawing() -> Iterator[tuple[Callable[[str], Progress], Callable[[str], None], Callable[[str, float], None]]]:
    """Draws while the block runs; gives what begins an image, what ends it, and what tells of a retry."""
    images = _RunningImages()
    screen = Screen(sys.stderr.fileno(), images.lines, encoding=sys.stderr.encoding or "ascii")

    def begin(image: str) -> Progress:
        return screen.telling(images.begin(image).take)

    with screen.drawing():
        yield begin, screen.telling(images.end), screen.telling(images.tell_retry)
