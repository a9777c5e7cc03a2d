"""dir: a plain folder, made by the core from one file per content that is moved into place."""

from __future__ import annotations

import os

from ocifast.layered import Store
from ocifast.packers.backend import Backend, Format
from ocifast.packers.losses import summarize
from ocifast.packers.options import DirOptions
from ocifast.packers.request import WriteRequest, Written

__all__ = ["FORMAT"]


class _DirectoryBackend(Backend[DirOptions]):
    name = "dir"

    def store(self, options: DirOptions, threads: int) -> Store:
        return Store.DIRECTORY

    def version(self) -> str | None:
        return "1"

    def write(self, request: WriteRequest[DirOptions]) -> Written:
        owners = request.options.owners
        request.path.mkdir(mode=0o700)
        losses = request.tree.write_directory(
            request.path,
            owners=os.geteuid() == 0 if owners is None else owners,
            record=request.options.ownership == "record",
            clamp_mtime=request.clamp_mtime,
            folder=request.folder,
        )
        return Written(None, tuple(summarize(losses)))


FORMAT = Format("dir", DirOptions, (_DirectoryBackend(),), is_directory=True)
