"""What runs the plans of a batch: this process, a pool of processes of this machine, or any executor of others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import field
from typing import Any

from ocifast.batch.work import Outcome, Task, begin_worker, run_task
from ocifast.records import dataclass

__all__ = ["ExecutorOrMaker", "LocalWorkers", "Pool"]

ExecutorOrMaker = Executor | Callable[[], Executor]
_UNKNOWN = 16
"""Plans that are handed to an executor which does not say how many workers it has."""


class LocalWorkers:
    """Makes pools of processes of this machine. Processes that are killed are replaced with a new pool.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # Not by fork: this process has threads, and whatever they hold would be held for ever.
        self._context = multiprocessing.get_context("forkserver")
        # Without a lock: a worker that is killed while it looks would hold it for ever.
        self._stop = self._context.RawValue("b", 0)

    def __call__(self) -> ProcessPoolExecutor:
        """A pool."""
        return ProcessPoolExecutor(
            self.workers, self._context, initializer=begin_worker, initargs=(self._stop, os.getpid())
        )

    def stop(self) -> None:
        """Has all that runs taken back."""
        self._stop.value = 1


@dataclass
class Pool:
    """Where plans are sent.

    Attributes:
        executor: whose workers they are; None runs each plan here when it is sent.
        most: plans that are there at a time.
    """

    executor: Executor | None
    most: int
    _make: Callable[[], Executor] | None = None
    _own: LocalWorkers | None = None
    _sent: dict[Future[Outcome], Any] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def of(cls, executor: ExecutorOrMaker | None, most: int | None) -> Iterator[Pool]:
        """The pool of an executor. What we made ourselves is ended with the block, what is the caller's is left.

        Args:
            executor: one, or what makes one and makes another when that breaks; None for this process alone.
            most: plans at a time; None for what the executor has workers for.
        """
        if executor is None:
            yield cls(None, 1)
            return
        make = None if isinstance(executor, Executor) else executor
        own = executor if isinstance(executor, LocalWorkers) else None
        made = executor if isinstance(executor, Executor) else executor()
        pool = cls(made, most or _workers(made), make, own)
        try:
            yield pool
        except BaseException:
            if own is not None:
                own.stop()
            raise
        finally:
            for future in pool._sent:
                future.cancel()
            if own is not None and pool.executor is not None:
                pool.executor.shutdown(wait=True, cancel_futures=True)

    @property
    def can_be_replaced(self) -> bool:
        """Whether there can be another executor when this one breaks."""
        return self._make is not None

    def send(self, task: Task, done: Callable[[Future[Outcome]], None], cancelled: Callable[[], bool]) -> None:
        """Sends one plan; `done` gets its future once, from any thread."""
        if self.executor is None:
            future: Future[Outcome] = Future()
            future.set_result(run_task(task, cancelled))
        else:
            future = self.executor.submit(run_task, task)
            self._sent[future] = None
        future.add_done_callback(done)

    def forget(self, future: Future[Outcome]) -> None:
        """One has come back."""
        self._sent.pop(future, None)

    def replace(self) -> None:
        """Takes another executor in the place of one that broke."""
        assert self._make is not None, "an executor that was given cannot be replaced"
        broken, self.executor = self.executor, self._make()
        self._sent.clear()
        if self._own is not None and broken is not None:
            broken.shutdown(wait=False, cancel_futures=True)


def _workers(executor: Executor) -> int:
    """How many plans to hand to it: its workers, and where they are far one more for each, so that none stands idle."""
    local = getattr(executor, "_max_workers", None)
    if isinstance(local, int) and local > 0:
        return local
    client = getattr(executor, "_client", None)
    ncores = getattr(client, "ncores", None)
    if callable(ncores):
        cores: dict[str, int] = ncores()
        return max(2 * sum(cores.values()), 1)
    return _UNKNOWN
