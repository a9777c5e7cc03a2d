"""What an output could not hold, counted by kind and cause."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from ocifast.records import dataclass

__all__ = ["LOSS_EXAMPLES", "Loss", "LossRow", "group", "summarize"]


@dataclass(frozen=True)
class Loss:
    """Something that the output could not hold.

    Attributes:
        kind: "owner", "mode", "mtime", "xattr", "device", "link", ...
        detail: what happened, the same text for all paths of one cause.
        count: how many entries.
        paths: the first few, without leading slash, as bytes.
    """

    kind: str
    detail: str
    count: int = 1
    paths: tuple[bytes, ...] = ()


LOSS_EXAMPLES = 10
"""Paths that one `Loss` names at most."""

LossRow = tuple[str, str, int, list[bytes]]
"""Kind, detail, count and the first few paths of a loss, as the core reports it."""


def group(losses: Iterable[tuple[str, bytes, str]]) -> list[LossRow]:
    """Groups losses (kind, path, detail), in order of first appearance; memory follows the groups alone."""
    groups: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
    for kind, path, detail in losses:
        count, paths = groups.get((kind, detail), (0, []))
        if count < LOSS_EXAMPLES:
            paths.append(path)
        groups[kind, detail] = (count + 1, paths)
    return [(kind, detail, count, paths) for (kind, detail), (count, paths) in groups.items()]


def summarize(*reports: Iterable[LossRow]) -> list[Loss]:
    """Joins several reports into one, with a loss for each kind and detail."""
    groups: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
    for kind, detail, count, paths in chain(*reports):
        known, named = groups.get((kind, detail), (0, []))
        groups[kind, detail] = (known + count, [*named, *paths][:LOSS_EXAMPLES])
    return [Loss(kind, detail, count, tuple(paths)) for (kind, detail), (count, paths) in groups.items()]
