"""Progress: what happens, told as events to one callable.

The phases of a compile and the states of a layer are krata's words, so that its users find them again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ocifast.records import dataclass

__all__ = ["Event", "LayerState", "Phase", "Progress", "silent"]


class Phase(Enum):
    """Where the whole work stands."""

    RESOLVING = "resolving"
    RESOLVED = "resolved"
    CONFIG_ACQUIRE = "config_acquire"
    LAYER_ACQUIRE = "layer_acquire"
    PACKING = "packing"
    COMPLETE = "complete"


class LayerState(Enum):
    """Where one layer (or, when pushing, one blob) stands.

    BLOCKED: its bytes are there, and it goes on when the layers below it are applied. EXISTS: its bytes need not be
    moved, since they are where they shall be, or in the cache.
    """

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    EXTRACTING = "extracting"
    BLOCKED = "blocked"
    EXTRACTED = "extracted"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    EXISTS = "exists"


@dataclass(frozen=True)
class Event:
    """One step.

    Attributes:
        phase: the phase that the work is in.
        layer: digest of the layer's blob, or None when the event is about the whole work.
        state: the layer's state; None exactly when `layer` is None.
        done: compressed bytes of the layer that are fetched (or sent), or while it is extracted read; for PACKING,
            bytes of contents that are packed.
        total: bytes to do, when known: the size of the layer's blob, or of all contents.
        written: with COMPLETE, when the work was stopped while it gave several outputs their names: those that have
            them, as they were named. None otherwise: all have.
    """

    phase: Phase
    layer: str | None = None
    state: LayerState | None = None
    done: int | None = None
    total: int | None = None
    written: tuple[str, ...] | None = None


Progress = Callable[[Event], None]
"""Called from any thread, one call at a time for one layer; must return quickly."""


def silent(event: Event) -> None:
    """Takes an event and does nothing."""
