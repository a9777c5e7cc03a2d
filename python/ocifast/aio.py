"""The same for asyncio programs: the work runs in a thread, a cancelled task takes it back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import overload

from ocifast import compiler
from ocifast.compiled import CompiledImage
from ocifast.compiler import CompileOptions
from ocifast.edits import Edits
from ocifast.planned import Outputs
from ocifast.progress import Progress, silent

__all__ = ["compile"]


@overload
async def compile(  # noqa: A001 - see below
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
async def compile(  # noqa: A001 - see below
    image: str,
    output: Outputs,
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
) -> list[CompiledImage]: ...
async def compile(  # noqa: A001 - as `ocifast.compile`
    image: str,
    output: str | os.PathLike[str] | Outputs,
    *,
    format: str | None = None,  # noqa: A002 - as `ocifast.compile`
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
    stop = threading.Event()

    def run() -> CompiledImage | list[CompiledImage]:
        return compiler.compile(
            image,
            output,
            format=format,
            platform=platform,
            options=options,
            edits=edits,
            progress=progress,
            cancelled=stop.is_set,
        )

    work = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        while not work.done():
            # Who cancels a second time waits as well: a thread cannot be left behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if work.cancelled() or work.exception() is not None:
            raise
        return work.result()
