"""cpio: an archive in the "newc" form, written by the core, for booting as an initial root file system."""

from __future__ import annotations

from ocifast.packers import Format, Loss, Packing, summarize
from ocifast.packers.archive import ArchiveBackend

__all__ = ["FORMAT"]


class _CpioBackend(ArchiveBackend):
    name = "cpio"

    def plain_size(self, packing: Packing) -> int:
        return packing.tree.cpio_size(clamp_mtime=packing.clamp_mtime)

    def write(self, packing: Packing, descriptor: int, compression: str, level: int) -> list[Loss]:
        _, losses = packing.tree.write_cpio(
            descriptor, compression=compression, level=level, clamp_mtime=packing.clamp_mtime
        )
        return summarize(losses)


FORMAT = Format("cpio", (_CpioBackend(),), streams=True)
