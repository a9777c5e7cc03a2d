"""All plans of a batch, in an order in which layers are decoded once, to their results as they finish."""

from __future__ import annotations

import contextlib
import os
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from ocifast.batch.journal import Journal, placed
from ocifast.batch.pools import ExecutorOrMaker, LocalWorkers, Pool
from ocifast.batch.results import BatchProgress, BatchResult, BatchStand
from ocifast.batch.schedule import Schedule
from ocifast.batch.work import Outcome, Task, alone
from ocifast.cache import Cache
from ocifast.compiler import CompilePlan
from ocifast.decoded import KEPT_LAYERS_MAX
from ocifast.errors import CancelledError as StoppedError
from ocifast.errors import OcifastError, UsageError, WorkerError
from ocifast.image import open_image
from ocifast.planned import STDOUT
from ocifast.refusals import processors
from ocifast.sources.open import parse_location
from ocifast.sources.stdin import STDIN as STDIN_PATH

__all__ = ["compile_many"]

_LOOK = 0.1
"""Seconds between two questions whether the batch is called off."""
_RESOLVING = 16
"""Images that are asked for at a time before the work begins."""


def compile_many(
    plans: Iterable[CompilePlan],
    executor: ExecutorOrMaker | None = None,
    *,
    workers: int | None = None,
    parallel: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: BatchProgress = lambda stand: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[BatchResult]:
    """Compiles many images. A plan that fails does not stop the others.

    Manifests and configs of all images are read first. Plans that share layers are ordered, and layers that several
    have are kept decoded in the cache of each machine, so that none is decoded twice there: not by two workers at a
    time, and not by a later plan. All processes of a machine have one limit of requests for each registry.

    Args:
        plans: what to make; each with outputs of its own.
        executor: any `concurrent.futures.Executor` (of Dask, Ray, loky, MPI and others), which is left open; or a
            callable that makes one, and another one when it breaks because a worker was killed. None runs the plans in
            this process, one after the other.
        workers: processes of this machine, in the place of an executor. A plan without `threads` gets its share of the
            processors.
        parallel: plans that are with the executor at a time; None for as many as it has workers.
        journal: a file in which is written down what was made.
        resume: skips plans whose outputs are there and right, as the journal has it.
        progress: told whenever a plan begins or ends.
        cancelled: asked several times a second.

    Returns:
        An iterator of results as they finish, one for each plan. What has not begun is dropped when it is closed early;
        with `workers`, or without an executor, what runs is taken back then.

    Raises:
        UsageError: arguments that contradict each other, or two plans with one output; before anything is done.
        FileError: the journal cannot be read or written.
        CancelledError: `cancelled` said so.
    """
    chosen = tuple(plans)
    if executor is not None and workers is not None:
        raise UsageError("workers are for this machine, and an executor has its own; give one of them")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} is no number of workers")
    if resume and journal is None:
        raise UsageError("resuming needs a journal")
    _refuse_common_outputs(chosen, alone=executor is None and workers is None)
    if workers is not None:
        share = max(1, processors() // workers)
        chosen = tuple(alone(plan, share) for plan in chosen)
        executor = LocalWorkers(workers)
    kept = None if journal is None else Journal(Path(journal), keep=resume)
    return _Batch(chosen, kept, resume, progress, cancelled).run(executor, parallel)


class _Batch:
    """One batch on its way."""

    def __init__(
        self,
        plans: Sequence[CompilePlan],
        journal: Journal | None,
        resume: bool,
        progress: BatchProgress,
        cancelled: Callable[[], bool],
    ) -> None:
        self._plans = plans
        self._journal = journal
        self._resume = resume
        self._progress = progress
        self._cancelled = cancelled
        self._stand = BatchStand(len(plans))
        # A pool that broke gives back all that it had: what is of an older pool than ours was sent again.
        self._pools = 0
        self._done: queue.SimpleQueue[tuple[int, int, Future[Outcome]]] = queue.SimpleQueue()
        self._running: list[int] = []
        self._suspects: list[int] = []
        self._shared: list[tuple[str, ...]] = [()] * len(plans)
        self._schedule = Schedule(())

    def run(self, executor: ExecutorOrMaker | None, parallel: int | None) -> Iterator[BatchResult]:
        self._progress(self._stand)
        layers, failures = self._resolve()
        counts = Counter(diff_id for each in layers for diff_id in set(each))
        self._shared = [tuple(diff_id for diff_id in each if counts[diff_id] > 1) for each in layers]
        ready = [index for index in range(len(self._plans)) if index not in failures]
        self._schedule = Schedule([self._shared[index] for index in ready], ready)
        for index, error in failures.items():
            yield self._result(index, Outcome(error=error))
        with Pool.of(executor, parallel) as pool:
            while len(self._schedule) or self._suspects or self._running:
                yield from self._fill(pool)
                if self._running:
                    yield from self._take(pool, *self._wait())

    def _resolve(self) -> tuple[list[tuple[str, ...]], dict[int, OcifastError]]:
        """The layers of all plans that can share any, and those whose image cannot be had."""
        layers: list[tuple[str, ...]] = [()] * len(self._plans)
        failures: dict[int, OcifastError] = {}
        if len(self._plans) < 2:
            return layers, failures
        threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="ocifast-batch")
        try:
            asked = {threads.submit(layers_of, plan): index for index, plan in enumerate(self._plans)}
            left = set(asked)
            while left:
                self._raise_if_cancelled()
                ended, left = wait(left, timeout=_LOOK, return_when=FIRST_COMPLETED)
                for future in ended:
                    error = future.exception()
                    if isinstance(error, OcifastError):
                        failures[asked[future]] = error
                    else:
                        layers[asked[future]] = future.result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
        return layers, failures

    def _fill(self, pool: Pool) -> Iterator[BatchResult]:
        """Sends as many plans as the pool takes. Those that a pool broke with are sent one at a time."""
        while len(self._running) < (1 if self._suspects else pool.most):
            index = self._suspects[0] if self._suspects else self._schedule.next()
            if index is None:
                return
            if self._suspects:
                self._suspects.pop(0)
            self._running.append(index)
            self._tell()
            generation = self._pools

            def done(future: Future[Outcome], index: int = index, generation: int = generation) -> None:
                self._done.put((index, generation, future))

            try:
                pool.send(self._task(index), done, self._cancelled)
            except BrokenExecutor as error:
                yield from self._broken(pool, error, sent=False)
            except RuntimeError as error:
                # It was shut down by who gave it to us.
                self._running.remove(index)
                yield self._lost(index, error)

    def _wait(self) -> tuple[int, int, Future[Outcome]]:
        """The next plan that has come to its end."""
        while True:
            self._raise_if_cancelled()
            with contextlib.suppress(queue.Empty):
                return self._done.get(timeout=_LOOK)

    def _take(self, pool: Pool, index: int, generation: int, future: Future[Outcome]) -> Iterator[BatchResult]:
        if generation != self._pools:
            return
        pool.forget(future)
        try:
            outcome = future.result()
        except BrokenExecutor as error:
            yield from self._broken(pool, error, sent=True)
            return
        except (Exception, CancelledError) as error:
            self._running.remove(index)
            yield self._lost(index, error)
            return
        self._running.remove(index)
        self._schedule.end(index, decoded=outcome.error is None)
        yield self._result(index, outcome)

    def _broken(self, pool: Pool, error: Exception, *, sent: bool) -> Iterator[BatchResult]:
        """A worker was killed, and the pool with it: what it had is sent again, one by one, to find which it was."""
        self._pools += 1
        victims, self._running = self._running, []
        if pool.can_be_replaced and (len(victims) > 1 or not sent):
            pool.replace()
            self._suspects += victims
            return
        if pool.can_be_replaced:
            pool.replace()
        for index in victims:
            yield self._lost(index, error)

    def _lost(self, index: int, error: BaseException) -> BatchResult:
        """The result of a plan whose worker is gone."""
        self._schedule.end(index, decoded=False)
        image = self._plans[index].image
        text = " ".join(str(error).split()) or type(error).__name__
        words = f"{image}: the worker that compiled it was lost ({text[:300]}); it may have run out of memory"
        failure = WorkerError(words, reference=image)
        return self._result(index, Outcome(error=failure))

    def _result(self, index: int, outcome: Outcome) -> BatchResult:
        if self._journal is not None and outcome.outputs:
            self._journal.add(outcome.outputs)
        result = BatchResult(
            index,
            self._plans[index],
            outcome.images,
            outcome.error,
            outcome.skipped,
            outcome.machine,
            outcome.seconds,
        )
        kind = "failed" if outcome.error is not None else "skipped" if outcome.skipped else "compiled"
        fetched = max((image.fetched_bytes for image in outcome.images), default=0)
        changes = {kind: getattr(self._stand, kind) + 1, "fetched_bytes": self._stand.fetched_bytes + fetched}
        self._stand = replace(self._stand, **changes)
        self._tell()
        return result

    def _tell(self) -> None:
        running = tuple(self._plans[index].image for index in self._running)
        self._stand = replace(self._stand, running=running)
        self._progress(self._stand)

    def _task(self, index: int) -> Task:
        plan, shared = self._plans[index], self._shared[index]
        made = self._journal.of(plan.outputs) if self._journal is not None and self._resume else None
        options = plan.options
        if parse_location(plan.image).is_remote:
            from ocifast.sources.registry.options import RegistryOptions

            options = replace(options, registry=replace(options.registry or RegistryOptions(), shares_limits=True))
        if shared and options.keep_layers is None and not os.environ.get("OCIFAST_KEEP_LAYERS"):
            options = replace(options, keep_layers=True)
        return Task(replace(plan, options=options), made, journal=self._journal is not None)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled():
            raise StoppedError("the batch was stopped")


def layers_of(plan: CompilePlan) -> tuple[str, ...]:
    """The diff IDs of a plan's image, as far as knowing them is cheap and of use: without a cache nothing is shared.

    Raises:
        OcifastError: the image cannot be had.
    """
    location = parse_location(plan.image)
    options = plan.options
    if not options.cache or location.transport not in ("docker", "oci", "oci-archive") or location.path == STDIN_PATH:
        return ()
    with open_image(
        location,
        platform=plan.platform,
        options=options.registry,
        seeds=options.seeds,
        cache=Cache.usable(options.cache_folder),
        follow_links=options.follow_links,
        offline=options.offline,
        refresh=options.refresh,
    ) as image:
        return image.diff_ids if len(image.diff_ids) <= KEPT_LAYERS_MAX else ()


def _refuse_common_outputs(plans: Sequence[CompilePlan], *, alone: bool) -> None:
    """Raises UsageError for two plans with one output, and for a stream that many would write to."""
    seen: dict[str, int] = {}
    for index, plan in enumerate(plans):
        for output in plan.outputs:
            if output == STDOUT and not (alone and len(plans) == 1):
                raise UsageError(f"{plan.image}: the outputs of a batch are files and folders, not standard output")
            place = placed(output)
            if place in seen:
                other = plans[seen[place]].image
                raise UsageError(f"{output} is the output of {other} and of {plan.image}; name another for one of them")
            seen[place] = index
