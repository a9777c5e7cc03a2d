"""ext4: a writable filesystem, written by the core, with free space and, when asked for, a journal."""

from __future__ import annotations

import os
import uuid

from ocifast.errors import UsageError
from ocifast.packers import Backend, Format, Loss, Packing, PackOptions, refuse_options, summarize

__all__ = ["FORMAT", "FREE_SPACE"]

FREE_SPACE = 512 << 20
"""Bytes left free when neither they nor the size are chosen. They are a hole in the image and take no space."""


class _Ext4Backend(Backend):
    name = "ext4"
    store = "spool"

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("free_space", "size", "journal"))
        if options.size is not None and options.free_space is not None:
            raise UsageError("an ext4 image has either a size or an amount of free space, not both")

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        options = packing.options
        free = options.free_space
        if free is None and options.size is None:
            free = FREE_SPACE
        descriptor = os.open(packing.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _, losses = packing.tree.write_ext4(
                descriptor,
                uuid=uuid.uuid5(uuid.NAMESPACE_OID, packing.digest).bytes,
                created=packing.created,
                free=free,
                size=options.size,
                journal=bool(options.journal),
                clamp_mtime=packing.clamp_mtime,
            )
        finally:
            os.close(descriptor)
        return summarize(losses)


FORMAT = Format("ext4", (_Ext4Backend(),))
