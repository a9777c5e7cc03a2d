"""What archives share: a stream into a file or a pipe, compressed when asked for."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TypeVar

from ocifast.packers.backend import Backend
from ocifast.packers.options import CpioOptions, TarOptions
from ocifast.packers.request import StreamTarget, WriteRequest, Written

__all__ = ["ArchiveBackend"]

_Options = TypeVar("_Options", TarOptions, CpioOptions)


class ArchiveBackend(Backend[_Options]):
    """A writer of ours, whose format is one stream."""

    def version(self) -> str | None:
        """Counts the changes of what is written."""
        return "2"

    def copies(self, options: _Options) -> bool:
        """Unless they are compressed."""
        return not options.compressed

    def size(self, request: WriteRequest[_Options]) -> int | None:
        """The size of the archive, unless it is compressed."""
        return None if request.options.compressed else self.plain_size(request)

    def write(self, request: WriteRequest[_Options]) -> Written:
        """Writes to the stream, or makes the file."""
        if isinstance(request.target, StreamTarget):
            return self.stream(request, request.target.fd)
        fd = os.open(request.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return self.stream(request, fd)
        finally:
            os.close(fd)

    @abstractmethod
    def plain_size(self, request: WriteRequest[_Options]) -> int:
        """Bytes of the archive before it is compressed."""

    @abstractmethod
    def stream(self, request: WriteRequest[_Options], fd: int) -> Written:
        """Writes the tree to a file descriptor."""
