"""Work that does not look at signals, done so that an interrupt is answered at once all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["interruptible", "nothing"]

T = TypeVar("T")


def nothing(_finished: bool = False) -> None:
    """For backends that tell themselves how far they are."""


def interruptible(work: Callable[[], T], stop: threading.Event, tick: Callable[..., None]) -> T:
    """Runs work that does not look at signals in a thread, so that an interrupt is answered at once.

    `tick` is called several times a second meanwhile, where this is the main thread.

    On an interrupt `stop` is set and the work is left to end by itself; it writes only into a folder that goes away.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    # Not `Thread.join`: interrupted once, it takes the thread for ended (bugs.python.org/issue45274).
    done = threading.Event()
    threading.Thread(target=run, name="ocifast-pack", daemon=True).start()
    try:
        while not done.wait(0.1):
            tick()
    except BaseException:
        stop.set()
        done.wait(5)
        raise
    if failures:
        raise failures[0]
    return results[0]
