"""Chunks on their way to a destination, counted for progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

__all__ = ["Passed", "Watched", "stepwise"]

Passed = Callable[[int], None]
"""Takes the number of bytes that have passed so far, from the first chunk on."""


class Watched:
    """Chunks that are counted while they are iterated, from the beginning each time: an upload that broke reads again.

    Args:
        chunks: can be iterated again when the reader does.
        begin: called at each beginning; what it returns is called before each chunk is handed on.
    """

    def __init__(self, chunks: Iterable[bytes], begin: Callable[[], Passed]) -> None:
        self._chunks = chunks
        self._begin = begin

    def __iter__(self) -> Iterator[bytes]:
        passed, done = self._begin(), 0
        for chunk in self._chunks:
            done += len(chunk)
            passed(done)
            yield chunk


def stepwise(tell: Passed, step: int) -> Passed:
    """Calls `tell` only when `step` more bytes have passed."""
    told = 0

    def passed(done: int) -> None:
        nonlocal told
        if done - told >= step:
            told = done
            tell(done)

    return passed
