"""What one run has to do with decoded layers: it reads those that are kept, and keeps those that it decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from ocifast import _core
from ocifast.cache.layers import DecodedLayer, LayerWriter
from ocifast.errors import FileError

__all__ = ["KEPT_LAYERS_MAX", "LayerShelf", "Layers", "RunLayers"]

KEPT_LAYERS_MAX = 128
"""Layers of an image beyond which nothing is read or kept: each takes open files, and no builder makes so many."""


class Layers(Protocol):
    """Where decoded layers are: the cache, or an output."""

    def get(self, diff_id: str) -> DecodedLayer | None:
        """The layer, or None."""
        ...

    def writer(self, diff_id: str) -> LayerWriter | None:
        """Begins to keep a layer; None where nothing can be kept."""
        ...

    def claimed(self, diff_ids: Iterable[str], *, stopped: Callable[[], bool]) -> AbstractContextManager[None]:
        """Keeps others from decoding the same layers; see `ocifast.cache.layers`."""
        ...


class LayerShelf(Protocol):
    """Where decoded layers of others are, which are nothing but claimed to be those of their diff IDs."""

    def get(self, diff_id: str) -> DecodedLayer | None:
        """The layer, to be closed, or None."""
        ...


class RunLayers:
    """The decoded layers of one run.

    Locks and files are held until the block ends; without an error in it what was decoded is published then, when the
    output is complete.

    Args:
        store: where they are.
        flattener: of the run.
        diff_ids: of its layers.
        keep: whether to keep what was not there; None decides by what whole blocks cost.
        stopped: whether the run is not wanted any more; asked while another run decodes the same layers.
        every: whether each layer must be kept, also one that is there twice: the output is made of these files.
        others: where those are that nobody has verified; None for nowhere.

    Attributes:
        adopted: diff IDs of layers that came from `store`.
        took_others: whether a layer came from there, so that nothing made of it is more than a claim.
    """

    def __init__(
        self,
        store: Layers,
        flattener: _core.Flattener,
        diff_ids: Sequence[str],
        *,
        keep: bool | None,
        stopped: Callable[[], bool],
        every: bool = False,
        others: LayerShelf | None = None,
    ) -> None:
        self._others = others
        self.adopted: set[str] = set()
        self.took_others = False
        self._store = store
        self._flattener = flattener
        self._diff_ids = diff_ids
        self._keep = keep
        self._every = every
        self._read: list[DecodedLayer] = []
        self._writers: dict[int, LayerWriter] = {}
        self._known: set[str] = set()
        self._claims = store.claimed(diff_ids if keep is not False else (), stopped=stopped)

    def __len__(self) -> int:
        """Layers that can be kept; those above are not."""
        return len(self._diff_ids)

    def adopt(self, index: int) -> bool:
        """Hands a kept layer to the flattener; False when none is kept."""
        diff_id = self._diff_ids[index]
        found = self._store.get(diff_id)
        if found is not None:
            self.adopted.add(diff_id)
        elif self._others is not None:
            found = self._others.get(diff_id)
            self.took_others = self.took_others or found is not None
        if found is None:
            return False
        self._read.append(found)
        self._flattener.adopt(index, found.table, found.data)
        return True

    def keeps(self, index: int) -> bool:
        """Whether a layer that comes as a blob is to be kept."""
        return index in self._writers

    def keep(self, index: int) -> None:
        """Has a layer that comes as a blob kept, if that is wanted."""
        diff_id = self._diff_ids[index]
        if self._keep is False or (diff_id in self._known and not self._every):
            return
        self._known.add(diff_id)
        writer = self._store.writer(diff_id)
        if writer is not None:
            self._writers[index] = writer
            self._flattener.keep(index, writer.table, writer.data, always=self._keep is True)

    def __enter__(self) -> RunLayers:
        self._claims.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        try:
            for layer in self._read:
                layer.close()
            if kind is None:
                for index, writer in self._writers.items():
                    if (kept := self._flattener.kept(index)) is not None:
                        writer.publish(kept)
                    elif self._every:
                        raise FileError(f"the layer {self._diff_ids[index]} could not be written")
        finally:
            for writer in self._writers.values():
                writer.close()
            self._claims.__exit__(kind, value, traceback)
