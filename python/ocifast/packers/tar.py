"""tar: a pax archive, written by the core. Holds everything that a layer can hold."""

from __future__ import annotations

from ocifast.packers import Format, Loss, Packing
from ocifast.packers.archive import ArchiveBackend

__all__ = ["FORMAT"]


class _TarBackend(ArchiveBackend):
    name = "tar"

    def plain_size(self, packing: Packing) -> int:
        return packing.tree.tar_size(clamp_mtime=packing.clamp_mtime)

    def write(self, packing: Packing, descriptor: int, compression: str, level: int) -> list[Loss]:
        packing.tree.write_tar(descriptor, compression=compression, level=level, clamp_mtime=packing.clamp_mtime)
        return []


FORMAT = Format("tar", (_TarBackend(),), streams=True)
