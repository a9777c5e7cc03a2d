"""The core's own writer: blocks are compressed while layers arrive."""

from __future__ import annotations

from ocifast import _core
from ocifast.errors import CancelledError
from ocifast.layered import Store
from ocifast.packers.backend import Backend
from ocifast.packers.losses import summarize
from ocifast.packers.options import SquashfsOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.squashfs.settings import resolve

__all__ = ["WRITER"]


class _CoreBackend(Backend[SquashfsOptions]):
    """The core's writer."""

    name = "squashfs"

    def store(self, options: SquashfsOptions, threads: int) -> Store:
        return Store.squashfs(_compression(options, threads))

    def version(self) -> str | None:
        return "1"

    def tells(self, options: SquashfsOptions) -> bool:
        return True

    def write(self, request: WriteRequest[SquashfsOptions]) -> Written:
        def tell(done: int, total: int) -> None:
            if request.cancelled():
                raise CancelledError("the work was called off")
            request.progress(done, total)

        size, losses = request.tree.write_squashfs(
            request.path,
            compression=_compression(request.options, request.threads),
            created=request.created,
            folder=request.folder,
            clamp_mtime=request.clamp_mtime,
            progress=tell,
        )
        return Written(size, tuple(summarize(losses)))


def _compression(options: SquashfsOptions, threads: int) -> _core.SquashfsCompression:
    settings = resolve(options, zstd=True)
    return _core.SquashfsCompression(
        settings.compression,
        level=settings.level,
        block_size=settings.block_size,
        fragments=options.fragments is not False,
        threads=threads,
    )


WRITER = _CoreBackend()
