"""Progress of work that other runs wait for: the run that works writes it to the lock file, those that wait show it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from ocifast.cache.kept import open_regular
from ocifast.models import readable
from ocifast.progress import Event, LayerState, Phase, Progress

__all__ = ["Listener", "Teller"]

_PAUSE = 0.25
"""Seconds between two writes of it."""
_LIMIT = 1 << 20
"""Most bytes of it that are read; an image has at most 1,024 layers."""


@readable
class _Stand(msgspec.Struct, frozen=True):
    """State, bytes that are done and bytes to do of each layer, then both numbers of packing."""

    layers: dict[str, tuple[str, int | None, int | None]]
    packing: tuple[int | None, int | None] | None = None


class Teller:
    """Notes the events of a work, and writes down where it stands. It fails nobody.

    Args:
        files: open lock files, which are ours.
    """

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files
        self._layers: dict[str, tuple[str, int | None, int | None]] = {}
        self._packing: tuple[int | None, int | None] | None = None
        self._next = 0.0
        self._guard = threading.Lock()

    def tell(self, event: Event) -> None:
        """Takes an event, from any thread."""
        with self._guard:
            if event.layer is not None and event.state is not None:
                self._layers[event.layer] = (event.state.value, event.done, event.total)
            elif event.phase is Phase.PACKING:
                self._packing = (event.done, event.total)
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + _PAUSE
            data = msgspec.json.encode(_Stand(self._layers, self._packing))
            with contextlib.suppress(OSError):
                for fd in self._files:
                    os.pwrite(fd, data, 0)
                    os.ftruncate(fd, len(data))


class Listener:
    """Tells on what another run has written down.

    Args:
        path: the lock file.
        layers: digests that may be told of.
        progress: gets an event for each thing that changed.
    """

    def __init__(self, path: Path, layers: Collection[str], progress: Progress) -> None:
        self._path = path
        self._layers = layers
        self._progress = progress
        self._told = _Stand({})
        self._next = 0.0

    def __call__(self) -> None:
        """Looks, unless it has just been done. What is written at that very moment is left for the next time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAUSE
        try:
            with os.fdopen(open_regular(self._path), "rb") as file:
                stand = msgspec.json.decode(file.read(_LIMIT), type=_Stand)
            states = {layer: LayerState(row[0]) for layer, row in stand.layers.items() if layer in self._layers}
        except (OSError, ValueError, RecursionError):
            return
        for layer, state in states.items():
            if (row := stand.layers[layer]) != self._told.layers.get(layer):
                self._progress(Event(Phase.LAYER_ACQUIRE, layer, state, row[1], row[2]))
        if stand.packing is not None and stand.packing != self._told.packing:
            self._progress(Event(Phase.PACKING, done=stand.packing[0], total=stand.packing[1]))
        self._told = stand
