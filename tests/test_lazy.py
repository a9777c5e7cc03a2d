"""Attributes that are computed once, without a lock that objects share."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import ocifast
from ocifast.lazy import Lazy


class Slow:
    def __init__(self, may_go_on: threading.Event) -> None:
        self.may_go_on = may_go_on
        self.begun = threading.Event()
        self.computed = 0

    @Lazy
    def value(self) -> int:
        """A number."""
        self.begun.set()
        assert self.may_go_on.wait(20)
        self.computed += 1
        return 7


def event(is_set: bool) -> threading.Event:
    made = threading.Event()
    if is_set:
        made.set()
    return made


def test_it_is_computed_once_and_kept() -> None:
    slow = Slow(event(True))
    assert (slow.value, slow.value, slow.computed) == (7, 7, 1)
    assert Slow.value.__doc__ == "A number."


def test_threads_with_different_objects_do_not_wait_for_each_other() -> None:
    slow, quick = Slow(event(False)), Slow(event(True))
    results: list[int] = []
    waiting = threading.Thread(target=lambda: slow.value, daemon=True)
    waiting.start()
    assert slow.begun.wait(20)
    other = threading.Thread(target=lambda: results.append(quick.value), daemon=True)
    other.start()
    other.join(5)
    try:
        assert results == [7]
    finally:
        slow.may_go_on.set()
        waiting.join()


def test_a_process_forked_meanwhile_does_not_hang() -> None:
    slow, quick = Slow(event(False)), Slow(event(True))
    waiting = threading.Thread(target=lambda: slow.value, daemon=True)
    waiting.start()
    assert slow.begun.wait(20)
    child = os.fork()
    if child == 0:
        # A child that hangs is killed by its alarm.
        import signal

        signal.alarm(10)
        os._exit(quick.value)
    _, status = os.waitpid(child, 0)
    slow.may_go_on.set()
    waiting.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_nothing_of_ours_uses_the_property_with_the_lock() -> None:
    folder = Path(ocifast.__file__).parent
    using = [
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"^\s*@.*cached_property", path.read_text(), re.MULTILINE)
    ]
    assert using == []
