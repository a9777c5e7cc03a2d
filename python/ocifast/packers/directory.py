"""dir: a plain folder, made by the core from one file per content that is moved into place."""

from __future__ import annotations

import os

from ocifast.packers import Backend, Format, Loss, Packing, PackOptions, refuse_options, summarize

__all__ = ["FORMAT"]


class _DirectoryBackend(Backend):
    name = "dir"
    store = "directory"

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("owners",))

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        owners = packing.options.owners
        packing.path.mkdir(mode=0o700)
        return summarize(
            packing.tree.write_directory(
                packing.path,
                owners=os.geteuid() == 0 if owners is None else owners,
                clamp_mtime=packing.clamp_mtime,
            )
        )


FORMAT = Format("dir", (_DirectoryBackend(),), is_directory=True)
