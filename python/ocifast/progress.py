"""Progress: what happens, told as events to one callable.

The phases of a compile and the states of a layer are krata's words, so that its users find them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

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
    """Where one layer (or, when pushing, one blob) stands."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    EXTRACTING = "extracting"
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
        done: bytes done so far in this state (compressed bytes for a download, packed bytes for PACKING).
        total: bytes to do, when known.
    """

    phase: Phase
    layer: str | None = None
    state: LayerState | None = None
    done: int | None = None
    total: int | None = None


Progress = Callable[[Event], None]
"""Called from any thread, one call at a time for one layer; must return quickly."""


def silent(event: Event) -> None:
    """Takes an event and does nothing."""
