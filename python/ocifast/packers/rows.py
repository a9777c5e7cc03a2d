"""The entries of a tree as rows, for writers that look at each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ocifast import _core

__all__ = ["Row", "Totals", "rows", "totals"]

_BATCH = 4096


class Row(NamedTuple):
    """An entry as `_core.Tree.entries` gives it: the fields of `RootfsEntry`, with bytes and without leading slash."""

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    target: bytes
    size: int
    inode: int


def rows(tree: _core.Tree) -> Iterator[Row]:
    """All entries of a tree, in batches so that memory stays small."""
    start = 0
    while batch := tree.entries(b"", start, _BATCH):
        yield from map(Row._make, batch)
        start += len(batch)


class Totals(NamedTuple):
    """What some entries are together, each inode counted once.

    Attributes:
        inodes: how many there are.
        bytes: sizes of the regular files among them.
    """

    inodes: int
    bytes: int


def totals(entries: Iterable[Row]) -> Totals:
    """Counts the inodes of entries, in a bit of memory for each."""
    seen = bytearray()
    inodes = size = 0
    for row in entries:
        byte, bit = row.inode >> 3, 1 << (row.inode & 7)
        if byte >= len(seen):
            seen.extend(bytes(byte + 1 - len(seen)))
        if not seen[byte] & bit:
            seen[byte] |= bit
            inodes += 1
            size += row.size if row.type == "file" else 0
    return Totals(inodes, size)
