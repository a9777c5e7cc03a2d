"""How an image came to be: the history of its config, each step beside the layer that it made."""

from __future__ import annotations

from collections.abc import Sequence

from ocifast.records import dataclass
from ocifast.spec import Descriptor, HistoryRecord

__all__ = ["History", "HistoryEntry", "pair_history"]


@dataclass(frozen=True)
class HistoryEntry:
    """One step of the history, or a layer that no step names.

    Attributes:
        record: what the config says of the step (image-spec, config.md, "history"); None for a layer without a step.
        layer: the layer that the step made; None when it made none, or when there is none left for it.
        diff_id: digest of that layer decompressed; "" without one.
    """

    record: HistoryRecord | None
    layer: Descriptor | None = None
    diff_id: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the config says that the step made no layer."""
        return self.record is not None and self.record.empty_layer


@dataclass(frozen=True)
class History:
    """The steps that made an image, the first one first.

    Attributes:
        entries: every step of the config and every layer of the manifest, once each.
        stated: how many steps the config has that made a layer.
        layers: how many layers the manifest has.
    """

    entries: tuple[HistoryEntry, ...]
    stated: int
    layers: int

    @property
    def matches(self) -> bool:
        """Whether there are as many steps that made a layer as layers. Else which belongs to which is a guess."""
        return self.stated == self.layers


def pair_history(records: Sequence[HistoryRecord], layers: Sequence[Descriptor], diff_ids: Sequence[str]) -> History:
    """Puts each step that made a layer beside the next layer, from the bottom up.

    Where the numbers differ, steps without a layer keep their place, and layers without a step come last.

    Args:
        records: the config's, in its order.
        layers: the manifest's, bottom layer first.
        diff_ids: one for each layer.
    """
    left = list(zip(layers, diff_ids, strict=True))[::-1]
    entries = []
    for record in records:
        if record.empty_layer or not left:
            entries.append(HistoryEntry(record))
        else:
            entries.append(HistoryEntry(record, *left.pop()))
    entries += [HistoryEntry(None, *pair) for pair in reversed(left)]
    stated = sum(not record.empty_layer for record in records)
    return History(tuple(entries), stated, len(layers))
