"""Which plan comes next: none that would decode a layer which another one is decoding right now."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

__all__ = ["Schedule"]


class Schedule:
    """The order of a batch. Every plan is looked at once, and once more for each layer that it had to wait for.

    Plans with the same lowest layers are neighbours. The first of them decodes the layers that they share; the others
    wait for it, while plans of other layers run.

    Args:
        layers: the diff IDs of each plan, bottom layer first; none for a plan that shares nothing.
        names: numbers of the plans, one for each; None for 0, 1, 2 and so on.
    """

    def __init__(self, layers: Sequence[Sequence[str]], names: Sequence[int] | None = None) -> None:
        numbers = range(len(layers)) if names is None else names
        order = sorted((tuple(each), number) for each, number in zip(layers, numbers, strict=True))
        self._layers = {number: frozenset(each) for each, number in order}
        self._rank = {number: rank for rank, (_, number) in enumerate(order)}
        self._ready = [(rank, number) for number, rank in self._rank.items()]
        self._parked: dict[str, list[int]] = {}
        self._decoded: set[str] = set()
        self._busy: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ready) + sum(map(len, self._parked.values()))

    def next(self) -> int | None:
        """Takes a plan that can begin; None while there is none."""
        while self._ready:
            _, index = heapq.heappop(self._ready)
            missing = self._layers[index] - self._decoded
            blocking = next((layer for layer in missing if layer in self._busy), None)
            if blocking is None:
                for layer in missing:
                    self._busy[layer] = index
                return index
            self._parked.setdefault(blocking, []).append(index)
        return None

    def end(self, index: int, *, decoded: bool) -> None:
        """A plan that was taken has come to its end.

        Args:
            index: which.
            decoded: whether its layers are kept now, so that nobody has to decode them again.
        """
        if decoded:
            self._decoded |= self._layers[index]
        freed = [layer for layer in self._layers[index] if self._busy.get(layer) == index]
        for layer in freed:
            del self._busy[layer]
            for parked in self._parked.pop(layer, ()):
                heapq.heappush(self._ready, (self._rank[parked], parked))
