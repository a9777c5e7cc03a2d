"""cpio: an archive in the "newc" form, written by the core, for booting as an initial root file system."""

from __future__ import annotations

from ocifast.packers.archive import ArchiveBackend
from ocifast.packers.backend import Format
from ocifast.packers.losses import summarize
from ocifast.packers.options import CpioOptions
from ocifast.packers.request import WriteRequest, Written

__all__ = ["FORMAT"]


class _CpioBackend(ArchiveBackend[CpioOptions]):
    name = "cpio"

    def plain_size(self, request: WriteRequest[CpioOptions]) -> int:
        return request.tree.cpio_size(clamp_mtime=request.clamp_mtime)

    def stream(self, request: WriteRequest[CpioOptions], fd: int) -> Written:
        compression, level = request.options.complete()
        size, losses = request.tree.write_cpio(
            fd, compression=compression, level=level, clamp_mtime=request.clamp_mtime
        )
        return Written(size, tuple(summarize(losses)))


FORMAT = Format("cpio", CpioOptions, (_CpioBackend(),), streams=True)
