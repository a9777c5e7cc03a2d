"""What comes of a batch: a result for each plan, and how all of it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ocifast.compiled import CompiledImage
from ocifast.compiler import CompilePlan
from ocifast.errors import OcifastError
from ocifast.records import dataclass

__all__ = ["BatchProgress", "BatchResult", "BatchStand"]


@dataclass(frozen=True)
class BatchResult:
    """What came of one plan. Can be pickled.

    Attributes:
        index: of the plan, as the plans were given, from 0.
        plan: the plan.
        images: what was made, in the order of the plan's outputs; empty after a failure, and where it was skipped.
        error: why nothing was made; None when all is well.
        skipped: whether the outputs were there and right, so that nothing was made.
        machine: name of the machine that did it; empty where none began.
        seconds: that it took there.
    """

    index: int
    plan: CompilePlan
    images: tuple[CompiledImage, ...] = ()
    error: OcifastError | None = None
    skipped: bool = False
    machine: str = ""
    seconds: float = 0.0

    @property
    def is_made(self) -> bool:
        """Whether the outputs are there."""
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        error = self.error
        return {
            "index": self.index,
            "image": self.plan.image,
            "outputs": list(self.plan.outputs),
            "status": "failed" if error is not None else "skipped" if self.skipped else "compiled",
            "machine": self.machine,
            "seconds": round(self.seconds, 3),
            "images": [image.to_json() for image in self.images],
            "error": None if error is None else {"code": error.code, "message": str(error), **error.context},
        }


@dataclass(frozen=True)
class BatchStand:
    """How a batch stands.

    Attributes:
        total: number of plans.
        compiled: number of those that were made.
        skipped: number of those whose outputs were there.
        failed: number of those that failed.
        running: images of the plans that are with a worker, as they were asked for, the first one first.
        fetched_bytes: bytes of layers that came over the network so far.
    """

    total: int
    compiled: int = 0
    skipped: int = 0
    failed: int = 0
    running: tuple[str, ...] = ()
    fetched_bytes: int = 0

    @property
    def done(self) -> int:
        """Plans that have a result."""
        return self.compiled + self.skipped + self.failed


BatchProgress = Callable[[BatchStand], None]
"""Called whenever a plan begins or ends, by the thread that takes the results."""
