"""The treemap's tree: the largest folders and files, each below the closest folder that is among them."""

from __future__ import annotations

from ocifast.footprint import Usage
from ocifast.shown import shortened

__all__ = ["Row", "rows"]

Row = tuple[int, str, int, int | None]
"""Number of the row of the folder above (-1 for the root), name, bytes, layer (None for a folder)."""

_UPWARD = 16
"""How many folders above are looked for: all of a folder's are at least as large, and so mostly there."""
_NAME = 255
"""Characters of a name."""


def rows(usage: Usage) -> list[Row]:
    """The tree, parents before children. What folders have more than stands below them is in none of the lists."""
    found: list[Row] = [(-1, "", usage.bytes, None)]
    numbers = {"": 0}
    for folder in sorted(usage.folders, key=lambda folder: (folder.path.count("/"), folder.path)):
        if folder.bytes:
            above, name = _above(folder.path, numbers)
            numbers[folder.path] = len(found)
            found.append((above, shortened(name, _NAME), folder.bytes, None))
    for file in usage.files:
        if file.bytes:
            above, name = _above(file.path, numbers)
            found.append((above, shortened(name, _NAME), file.bytes, file.layer))
    return found


def _above(path: str, numbers: dict[str, int]) -> tuple[int, str]:
    """The closest folder above that has a number, and the path from there."""
    at = path
    for _ in range(_UPWARD):
        at = at.rpartition("/")[0]
        if (number := numbers.get(at)) is not None:
            return number, path[len(at) + 1 :]
    return 0, path.lstrip("/")
