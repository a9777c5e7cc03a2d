"""tar: a pax archive, written by the core. Holds everything that a layer can hold."""

from __future__ import annotations

import os

from ocifast.packers import Backend, Format, Loss, Packing, PackOptions, refuse_options

__all__ = ["FORMAT"]


class _TarBackend(Backend):
    name = "tar"
    store = "spool"

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options("tar", options)

    def pack(self, packing: Packing) -> list[Loss]:
        if packing.descriptor is not None:
            packing.tree.write_tar(packing.descriptor, clamp_mtime=packing.clamp_mtime)
            return []
        assert packing.path is not None
        descriptor = os.open(packing.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            packing.tree.write_tar(descriptor, clamp_mtime=packing.clamp_mtime)
        finally:
            os.close(descriptor)
        return []


FORMAT = Format("tar", (_TarBackend(),), streams=True)
