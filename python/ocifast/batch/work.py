"""What a worker does with one plan. It runs in any process of any machine: all that it needs comes with the plan."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from ocifast.batch.journal import MadeOutput, made_outputs, placed, still_right
from ocifast.compiled import CompiledImage
from ocifast.compiler import Compilation, CompilePlan
from ocifast.errors import OcifastError
from ocifast.progress import silent
from ocifast.records import dataclass

__all__ = ["Outcome", "Task", "begin_worker", "run_task"]

_idle = threading.Event()
_idle.set()
_PATIENCE = 1.0
"""Seconds between two looks whether the process that gives us work is there."""


def _never() -> bool:
    return False


_stop: Callable[[], bool] = _never
"""Whether the work of this process was called off. Set once, when a worker begins."""


class Flag(Protocol):
    """A number that processes share."""

    value: int


@dataclass(frozen=True)
class Task:
    """One plan on its way to a worker.

    Attributes:
        plan: what is made.
        made: what an earlier run has made for it; None for nothing.
        journal: whether what is made shall be described for a journal.
    """

    plan: CompilePlan
    made: tuple[MadeOutput, ...] | None = None
    journal: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a worker gives back. A failure is a value too: not every pool hands on exceptions as they are.

    Attributes:
        images: what was made.
        error: why nothing was.
        skipped: whether all was there.
        outputs: for the journal.
        machine: where it was done.
        seconds: that it took.
    """

    images: tuple[CompiledImage, ...] = ()
    error: OcifastError | None = None
    skipped: bool = False
    outputs: tuple[MadeOutput, ...] = ()
    machine: str = ""
    seconds: float = 0.0


def run_task(task: Task, cancelled: Callable[[], bool] | None = None) -> Outcome:
    """Makes what a plan asks for, unless it is there. Never raises but for signals.

    Args:
        task: the plan.
        cancelled: asked now and then; None asks what `begin_worker` was told.
    """
    stop = cancelled or _stop
    begun = time.monotonic()
    machine = platform.node()
    _idle.clear()
    try:
        if task.made is not None and still_right(task.made, _keys(task.plan)):
            return Outcome(skipped=True, machine=machine, seconds=time.monotonic() - begun)
        images = task.plan.run(cancelled=stop)
        outputs = made_outputs(images) if task.journal else ()
        return Outcome(images, outputs=outputs, machine=machine, seconds=time.monotonic() - begun)
    except OcifastError as error:
        return Outcome(error=error, machine=machine, seconds=time.monotonic() - begun)
    except Exception as error:
        unforeseen = OcifastError(f"{task.plan.image}: unexpected: {type(error).__name__}: {error}")
        return Outcome(error=unforeseen, machine=machine, seconds=time.monotonic() - begun)
    finally:
        _idle.set()


def begin_worker(stop: Flag, parent: int) -> None:
    """Called once in each process of a pool that a batch makes.

    Args:
        stop: not 0 when all work is called off.
        parent: the process that the pool belongs to. When it is gone, what is being made is taken back, and we end.
    """
    global _stop
    gone = threading.Event()

    def is_over() -> bool:
        return gone.is_set() or bool(stop.value)

    _stop = is_over

    def watch() -> None:
        while _is_there(parent):
            time.sleep(_PATIENCE)
        gone.set()
        _idle.wait()
        # Nobody takes our results, and nobody will ever end us.
        os._exit(1)

    threading.Thread(target=watch, name="ocifast-parent", daemon=True).start()


def alone(plan: CompilePlan, threads: int) -> CompilePlan:
    """The plan with so many threads, unless it says how many itself."""
    if plan.options.threads is not None:
        return plan
    return replace(plan, options=replace(plan.options, threads=threads))


def _keys(plan: CompilePlan) -> Mapping[str, str]:
    """The key of each output as the plan would make it now, by its place. No layer is read."""
    run = Compilation(plan, silent, lambda: False)
    with ExitStack() as stack:
        image = stack.enter_context(run.resolve())
        return {placed(output.shown): key for output, key in run.keys(image, stack).items()}


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
