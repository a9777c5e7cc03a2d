"""ext4: a writable filesystem, written by the core, with free space and, when asked for, a journal."""

from __future__ import annotations

import os

from ocifast.packers.backend import Backend, Format
from ocifast.packers.losses import summarize
from ocifast.packers.options import Ext4Options
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.uuids import image_uuid

__all__ = ["FORMAT", "FREE_SPACE"]

FREE_SPACE = 512 << 20
"""Bytes left free when neither they nor the size are chosen. They are a hole in the image and take no space."""


class _Ext4Backend(Backend[Ext4Options]):
    name = "ext4"

    def version(self) -> str | None:
        return "1"

    def copies(self, options: Ext4Options) -> bool:
        """All of them."""
        return True

    def size(self, request: WriteRequest[Ext4Options]) -> int | None:
        """The data alone: free space is a hole."""
        return request.tree.data_bytes()

    def write(self, request: WriteRequest[Ext4Options]) -> Written:
        options = request.options
        free = options.free_space
        if free is None and options.size is None:
            free = FREE_SPACE
        uuid = image_uuid(request.digest)
        fd = os.open(request.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size, losses = request.tree.write_ext4(
                fd,
                uuid=uuid.bytes,
                created=request.created,
                free=free,
                size=options.size,
                journal=bool(options.journal),
                clamp_mtime=request.clamp_mtime,
            )
        finally:
            os.close(fd)
        return Written(size, tuple(summarize(losses)), {"uuid": str(uuid)})


FORMAT = Format("ext4", Ext4Options, (_Ext4Backend(),))
