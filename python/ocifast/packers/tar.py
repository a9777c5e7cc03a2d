"""tar: a pax archive, written by the core. Holds everything that a layer can hold."""

from __future__ import annotations

from ocifast.packers.archive import ArchiveBackend
from ocifast.packers.backend import Format
from ocifast.packers.options import TarOptions
from ocifast.packers.request import WriteRequest, Written

__all__ = ["FORMAT"]


class _TarBackend(ArchiveBackend[TarOptions]):
    name = "tar"

    def plain_size(self, request: WriteRequest[TarOptions]) -> int:
        return request.tree.tar_size(clamp_mtime=request.clamp_mtime)

    def stream(self, request: WriteRequest[TarOptions], fd: int) -> Written:
        compression, level = request.options.complete()
        return Written(
            request.tree.write_tar(fd, compression=compression, level=level, clamp_mtime=request.clamp_mtime)
        )


FORMAT = Format("tar", TarOptions, (_TarBackend(),), streams=True)
