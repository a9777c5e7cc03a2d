"""erofs: a read-only image that the kernel maps block by block, from mkfs.erofs of erofs-utils."""

from __future__ import annotations

import os
import re
import struct
import uuid
from pathlib import Path

from ocifast.errors import PackerError, UsageError
from ocifast.packers import Backend, Format, Loss, Packing, PackOptions, refuse_options, rows, summarize
from ocifast.packers.squashfs.settings import help_text
from ocifast.packers.stage import make_readable, stage
from ocifast.process import find_tool, run_tool

__all__ = ["FORMAT", "image_uuid"]

_SUPERBLOCK = struct.Struct("<IIIBBHQQ")
"""Linux, fs/erofs/erofs_fs.h, struct erofs_super_block, as far as the build time."""
_OFFSET = 1024
_MAGIC = 0xE0F5E1E2


def image_uuid(digest: str) -> uuid.UUID:
    """The UUID of every filesystem that is made of a manifest: always the same for the same digest."""
    return uuid.uuid5(uuid.NAMESPACE_OID, digest)


class _MkfsErofs(Backend):
    """mkfs.erofs; from a tar stream where this release takes one (`--tar=f`), else from a staged directory."""

    name = "mkfs.erofs"
    store = "directory"
    package = "erofs-utils"

    def version(self) -> str | None:
        if find_tool("mkfs.erofs") is None:
            return None
        # Its help says which options it has, -V which release it is.
        return help_text("mkfs.erofs", "-V").strip().partition("\n")[0] or "mkfs.erofs"

    def exact(self) -> bool:
        # A plain user's staged files all belong to that user.
        return os.geteuid() == 0

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level", "block_size"))
        compression = options.compression
        if compression not in (None, "none", "lz4", "zstd"):
            raise UsageError(f"erofs has no compression {compression!r}; there are none, lz4 and zstd")
        if compression not in (None, "none") and compression not in _compressors():
            raise UsageError(f"the mkfs.erofs that is installed has no {compression}")
        if options.level is not None and compression in (None, "none", "lz4"):
            raise UsageError(f"{compression or 'none'} has no levels in erofs")
        if options.block_size is not None and (
            not 4096 <= options.block_size <= 1 << 20 or options.block_size & (options.block_size - 1)
        ):
            raise UsageError(
                f"physical clusters of erofs have 4096 to 1048576 bytes, a power of two, not {options.block_size}"
            )

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        staged, losses = stage(packing)
        if os.geteuid() != 0:
            for path, kind, mode, *_ in rows(packing.tree):
                if make_readable(staged, path, kind, mode):
                    losses.append(("mode", path, "mkfs.erofs reads it as a plain user, who may not"))
        run_tool(
            [
                *("mkfs.erofs", "-T", str(packing.created), "--preserve-mtime", "-U", str(image_uuid(packing.digest))),
                *_compression(packing.options),
                packing.path,
                staged,
            ],
            folder=packing.folder,
            cancelled=packing.cancelled,
        )
        _read_back(packing.path, packing)
        return summarize(losses)


def _compressors() -> set[str]:
    """What this build was made with, as its help says it: in one line, or a line each."""
    return set(
        re.findall(r"[a-z0-9]+", help_text("mkfs.erofs", "--help").lower().partition("available compressors")[2])
    )


def _compression(options: PackOptions) -> list[str]:
    if options.compression in (None, "none"):
        return []
    level = "" if options.level is None else f",{options.level}"
    size = [] if options.block_size is None else [f"-C{options.block_size}"]
    return [f"-z{options.compression}{level}", *size]


def _read_back(path: Path, packing: Packing) -> None:
    """Superblock and number of inodes; then fsck.erofs reads every inode and block, where it is there."""
    with path.open("rb") as file:
        file.seek(_OFFSET)
        head = file.read(_SUPERBLOCK.size)
    if len(head) < _SUPERBLOCK.size or _SUPERBLOCK.unpack(head)[0] != _MAGIC:
        raise PackerError("mkfs.erofs left something that is no erofs image", command="mkfs.erofs")
    found = _SUPERBLOCK.unpack(head)[6]
    inodes = len({row[9] for row in rows(packing.tree)})
    if found != inodes:
        raise PackerError(f"mkfs.erofs wrote {found} files of {inodes}, and reported success", command="mkfs.erofs")
    if find_tool("fsck.erofs") is not None:
        try:
            run_tool(["fsck.erofs", "--extract", path], folder=packing.folder, cancelled=packing.cancelled)
        except PackerError as error:
            raise PackerError(f"mkfs.erofs left an image that fsck.erofs refuses: {error}", **error.context) from error


FORMAT = Format("erofs", (_MkfsErofs(),))
