"""Paths below a root folder that stands for `/`."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Sysroot"]

_LINKS = 40
"""Symbolic links that are followed for one path, as in Linux."""


class Sysroot:
    """A folder that holds the system for which a program was built; `/` for this machine's own.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def find(self, path: str) -> Path | None:
        """The regular file behind an absolute path, links followed inside the root; None when there is none."""
        parts = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        found = self.root
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                found = found if found == self.root else found.parent
                continue
            step = found / part
            if not step.is_symlink():
                found = step
                continue
            links += 1
            if links > _LINKS:
                return None
            target = os.readlink(step)  # noqa: PTH115 - Path.readlink loses a leading "//"
            if target.startswith("/"):
                found = self.root
            parts += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return found if found.is_file() else None

    def read(self, path: str, limit: int) -> bytes:
        """The start of a file of the root; nothing when there is no such file."""
        found = self.find(path)
        if found is None:
            return b""
        with found.open("rb") as file:
            return file.read(limit)
