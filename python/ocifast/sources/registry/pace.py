"""How slowly an answer may come.

A limit for each read does not bound an answer: a server that sends a byte now and then would hold a run for ever. Only
the time that is spent waiting for the network counts, not the time in which its bytes wait to be read.
"""

from __future__ import annotations

import math

import httpcore
import httpx

__all__ = ["Pace", "SlowAnswerError", "TooSlowError"]


class TooSlowError(httpcore.ReadTimeout):
    """Bytes came, but fewer than they must be."""


class SlowAnswerError(httpx.ReadTimeout):
    """The same, as the HTTP client says it. Another attempt would be as slow."""


class Pace:
    """Counts the bytes of an answer while it is waited for: so many a second at least, over each window."""

    def __init__(self, rate: float, window: float) -> None:
        """Makes one; `rate` in bytes per second, `window` in seconds."""
        self._rate = rate
        self._window = window
        self._waited = 0.0
        self._came = 0

    @classmethod
    def of_head(cls, window: float) -> Pace:
        """That of an answer's head, which must be whole when the window ends."""
        return cls(math.inf, window)

    @property
    def left(self) -> float:
        """Seconds to the window's end."""
        return max(0.0, self._window - self._waited)

    def tighten(self, window: float | None) -> None:
        """Looks sooner, at what is small."""
        if window is not None:
            self._window = min(self._window, window)

    def count(self, waited: float, came: int) -> None:
        """Notes one wait and the bytes that it brought.

        Raises:
            TooSlowError: the window ended, and too few had come.
        """
        self._waited += waited
        self._came += came
        if self._waited < self._window:
            return
        if 0 < self._came < self._rate * self._window:
            raise TooSlowError("too slow")
        self._waited, self._came = 0.0, 0
