"""The same for asyncio programs: the work runs in a thread, a cancelled task takes it back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from ocifast import (
    batch,
    compiler,
    difference,
    exporting,
    footprint,
    layer_difference,
    mirroring,
    reporting,
    transfers,
)
from ocifast import image as image_module
from ocifast.compiled import CompiledImage
from ocifast.compiler import CompileOptions, CompilePlan
from ocifast.edits import Edits
from ocifast.errors import OcifastError
from ocifast.planned import Outputs
from ocifast.progress import Progress, silent

if TYPE_CHECKING:
    from ocifast.batch import BatchResult
    from ocifast.batch.pools import ExecutorOrMaker
    from ocifast.mirroring import MirrorEntry, MirrorResult
    from ocifast.reference import Reference
    from ocifast.sources.registry.options import RegistryOptions

__all__ = [
    "compare_layers",
    "compile",
    "compile_many",
    "copy",
    "copy_many",
    "delete",
    "diff",
    "diff_layers",
    "export_layers",
    "flatten",
    "open",
    "open_index",
    "pull",
    "push",
    "read_bytes",
    "report",
    "scandir",
    "tags",
    "usage",
]

Given = ParamSpec("Given")
Result = TypeVar("Result")


@overload
async def compile(
    image: str,
    output: str | os.PathLike[str],
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
) -> CompiledImage: ...
@overload
async def compile(
    image: str,
    output: Outputs,
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
) -> list[CompiledImage]: ...
async def compile(
    image: str,
    output: str | os.PathLike[str] | Outputs,
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
) -> CompiledImage | list[CompiledImage]:
    """`ocifast.compile` without blocking the event loop; takes and raises the same.

    Args:
        image: what to compile.
        output: where to; several for a list of results.
        format: what to make.
        platform: which image of an index.
        options: the rest.
        edits: what is changed on the way.
        progress: called from other threads than the loop's.

    When the task is cancelled, the work is stopped and everything taken back *before* `asyncio.CancelledError` goes on,
    so that nothing is written after it. A cancellation that comes too late, when the output is published already, is
    dropped: the result is returned.
    """

    def run(cancelled: Callable[[], bool]) -> CompiledImage | list[CompiledImage]:
        return compiler.compile_image(
            image,
            output,
            format=format,
            platform=platform,
            options=options,
            edits=edits,
            progress=progress,
            cancelled=cancelled,
        )

    return await _finish(run)


async def compile_many(
    plans: Iterable[CompilePlan], executor: ExecutorOrMaker | None = None, **options: Any
) -> AsyncIterator[BatchResult]:
    """`ocifast.compile_many` without blocking the event loop; takes the same but `cancelled`, and gives the same.

    When the task is cancelled, or the iteration is left, what runs is taken back as there. `progress` is called from
    another thread.

    Args:
        plans: what to make.
        executor: what runs them.
        options: as of `ocifast.compile_many`.
    """
    stop = threading.Event()
    async for result in _each(batch.compile_many(plans, executor, **options, cancelled=stop.is_set), stop):
        yield result


async def copy_many(entries: Iterable[MirrorEntry], **options: Any) -> AsyncIterator[MirrorResult]:
    """`ocifast.copy_many` without blocking the event loop; takes the same but `cancelled`, and gives the same.

    Args:
        entries: what to copy.
        options: as of `ocifast.copy_many`.
    """
    stop = threading.Event()
    async for result in _each(mirroring.copy_many(entries, **options, cancelled=stop.is_set), stop):
        yield result


async def _each(results: Iterator[Result], stop: threading.Event) -> AsyncIterator[Result]:
    """The same results, each waited for in a thread; a task that is cancelled sets `stop` and waits for the end."""
    ended = object()
    try:
        while True:
            running = asyncio.ensure_future(asyncio.to_thread(next, results, ended))
            try:
                found = await asyncio.shield(running)
            except asyncio.CancelledError:
                stop.set()
                with contextlib.suppress(OcifastError):
                    await running
                raise
            if found is ended:
                return
            yield cast("Result", found)
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            await asyncio.to_thread(close)


def _taken_back(function: Callable[Given, Result]) -> Callable[Given, Coroutine[Any, Any, Result]]:
    """The same in a thread. A cancelled task takes the work back, unless it is done by then: then it returns."""

    @functools.wraps(function)
    async def verb(*arguments: Given.args, **options: Given.kwargs) -> Result:
        def run(cancelled: Callable[[], bool]) -> Result:
            options["cancelled"] = cancelled
            return function(*arguments, **options)

        return await _finish(run)

    return verb


def _waited_for(function: Callable[Given, Result]) -> Callable[Given, Coroutine[Any, Any, Result]]:
    """The same in a thread. What is small is waited for; a cancelled task closes what came of it."""

    @functools.wraps(function)
    async def verb(*arguments: Given.args, **options: Given.kwargs) -> Result:
        return await _finish(lambda _: function(*arguments, **options), drop=True)

    return verb


copy = _taken_back(transfers.copy)
pull = _taken_back(transfers.pull)
push = _taken_back(transfers.push)
compare_layers = _waited_for(difference.compare_layers)
diff = _taken_back(difference.diff)
diff_layers = _taken_back(layer_difference.diff_layers)
export_layers = _taken_back(exporting.export_layers)
usage = _taken_back(footprint.usage)
report = _taken_back(reporting.report)
tags = _waited_for(transfers.tags)
open = _waited_for(image_module.open_image)
open_index = _waited_for(image_module.open_index)
flatten = _waited_for(image_module.Image.flatten)
read_bytes = _waited_for(image_module.Image.read_bytes)
scandir = _waited_for(image_module.Image.scandir)


async def delete(image: str | Reference, *, options: RegistryOptions | None = None) -> None:
    """`ocifast.delete` without blocking the event loop. What was asked for is waited for, also by a cancelled task."""
    await _finish(lambda _: transfers.delete(image, options=options))


async def _finish(work: Callable[[Callable[[], bool]], Result], *, drop: bool = False) -> Result:
    """Runs it in a thread, to its end in any case.

    Args:
        work: gets what to ask whether it is cancelled.
        drop: a result that comes too late is closed; else it is returned, and the cancellation is dropped.
    """
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            # A second cancellation waits as well: a thread cannot be left behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if running.cancelled() or running.exception() is not None:
            raise
        if not drop:
            return running.result()
        close = getattr(running.result(), "close", None)
        if close is not None:
            close()
        raise
