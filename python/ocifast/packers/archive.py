"""What archives share: a stream into a file or a pipe, compressed when asked for."""

from __future__ import annotations

import os
from abc import abstractmethod

from ocifast.errors import UsageError
from ocifast.packers import Backend, Loss, Packing, PackOptions, refuse_options

__all__ = ["LEVELS", "ArchiveBackend"]

LEVELS: dict[str, tuple[int, range]] = {"gzip": (6, range(1, 10)), "zstd": (3, range(1, 20))}
"""Compressions: the level by default, and those there are. Beyond 19 the windows of zstd grow past what Linux unpacks,
and past what readers of streams take without being told to."""


class ArchiveBackend(Backend):
    """A writer of ours, whose format is one stream."""

    store = "spool"

    def version(self) -> str | None:
        """Counts the changes of what is written."""
        return "2"

    def check(self, options: PackOptions) -> None:
        """Refuses what an archive has not, and a level without a compression."""
        refuse_options(self.name, options, known=("compression", "level"))
        compression = options.compression or "none"
        if compression == "none":
            refuse_options(f"{self.name} without compression", options, known=("compression",))
        elif compression not in LEVELS:
            raise UsageError(f"{self.name} has no compression {compression!r}; there are none, {', '.join(LEVELS)}")
        elif options.level is not None and options.level not in LEVELS[compression][1]:
            levels = LEVELS[compression][1]
            raise UsageError(f"{compression} has no level {options.level}; there are {levels[0]} to {levels[-1]}")

    def size(self, packing: Packing) -> int | None:
        """The size of the archive, unless it is compressed."""
        return self.plain_size(packing) if packing.options.compression in (None, "none") else None

    def pack(self, packing: Packing) -> list[Loss]:
        """Writes to the packing's descriptor, or makes its file."""
        compression = packing.options.compression or "none"
        level = packing.options.level
        if level is None:
            level = LEVELS[compression][0] if compression in LEVELS else 0
        descriptor = packing.descriptor
        if descriptor is not None:
            return self.write(packing, descriptor, compression, level)
        assert packing.path is not None
        descriptor = os.open(packing.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return self.write(packing, descriptor, compression, level)
        finally:
            os.close(descriptor)

    @abstractmethod
    def plain_size(self, packing: Packing) -> int:
        """Bytes of the archive before it is compressed."""

    @abstractmethod
    def write(self, packing: Packing, descriptor: int, compression: str, level: int) -> list[Loss]:
        """Writes the tree to a file descriptor; returns what could not be held."""
