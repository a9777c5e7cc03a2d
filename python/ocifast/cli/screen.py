"""Lines at the bottom of a terminal that are drawn again and again in place, and vanish at the end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

from ocifast.cli.display import redirected

__all__ = ["Screen"]

Given = ParamSpec("Given")

_PAUSE = 0.1
"""Seconds between two frames: ten a second at most, whatever is told."""


class Screen:
    """Draws what `lines(width, height)` gives in a thread of its own, ten times a second while `poke` is called.

    A frame is one write. The work is never held up by the terminal, and what a frame costs depends on the lines that
    fit into it alone.
    """

    def __init__(self, fd: int, lines: Callable[[int, int], list[str]], *, encoding: str = "utf-8") -> None:
        """Draws nothing yet.

        Args:
            fd: of the terminal.
            lines: the frame for so many columns and lines, without escapes that move the cursor.
            encoding: of the terminal.
        """
        self._fd = fd
        self._lines = lines
        self._encoding = encoding
        self._drawn: list[int] = []
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.frames = 0
        """Frames drawn so far."""

    def poke(self) -> None:
        """Something changed: the next frame is worth drawing. Cheap, from any thread."""
        if not self._changed.is_set():
            self._changed.set()

    def telling(self, work: Callable[Given, object]) -> Callable[Given, None]:
        """The same work, after which the next frame is worth drawing."""

        def tell(*arguments: Given.args, **options: Given.kwargs) -> None:
            work(*arguments, **options)
            self.poke()

        return tell

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draws while the block runs; what is written on standard error meanwhile stays above."""
        sys.stderr.flush()
        with redirected(self.above):
            self.start()
            try:
                yield
            finally:
                self.close()

    def start(self) -> None:
        """Begins to draw."""
        self._thread = threading.Thread(target=self._run, name="ocifast-display", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops drawing and wipes what was drawn; the cursor is where it was at first."""
        self._stop.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._write(self._wipe())
            self._drawn = []

    def above(self, text: str) -> None:
        """Writes a line that stays, above the frame."""
        with self._lock:
            self._write(f"{self._wipe()}{text}\r\n")
            self._drawn = []
        self.poke()

    def draw(self) -> None:
        """Draws one frame now."""
        width, height = self._size()
        lines = self._lines(width, height)
        with self._lock:
            # Old lines are overwritten and only their rests wiped, so that nothing flickers.
            text = self._to_first_line() + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J"
            self._write(text)
            self._drawn = [_columns(line) for line in lines]
            self.frames += 1

    def _run(self) -> None:
        while not self._stop.is_set():
            # Also without news now and then: rates and remaining times grow stale, and the window may change its size.
            self._changed.wait(1.0)
            if self._stop.is_set():
                return
            self._changed.clear()
            self.draw()
            self._stop.wait(_PAUSE)

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def _to_first_line(self) -> str:
        width, _ = self._size()
        # A terminal that was made narrower has broken our lines.
        rows = sum(max(1, -(-columns // width)) for columns in self._drawn)
        return f"\r\x1b[{rows}A" if rows else ""

    def _wipe(self) -> str:
        return f"{self._to_first_line()}\x1b[J" if self._drawn else ""

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            # A terminal that is gone, or takes nothing now, is no reason to fail.
            return


def _columns(line: str) -> int:
    """How many columns a line takes: its characters, without what chooses colours."""
    count, escape = 0, False
    for char in line:
        if char == "\x1b":
            escape = True
        elif not escape:
            count += 1
        elif char == "m":
            escape = False
    return count
