"""erofs: a read-only image that the kernel maps block by block; by the core's own writer, or mkfs.erofs."""

from __future__ import annotations

import os
import re
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ocifast.errors import CancelledError, PackerError, UsageError
from ocifast.packers import (
    Backend,
    Format,
    Loss,
    LossRow,
    Packing,
    PackOptions,
    group,
    refuse_options,
    rows,
    summarize,
    totals,
)
from ocifast.packers.squashfs.settings import help_text
from ocifast.packers.stage import make_readable, set_mtime, stage
from ocifast.process import find_tool, run_tool

__all__ = ["CLUSTER_SIZE", "FORMAT", "image_uuid"]

_SUPERBLOCK = struct.Struct("<IIIBBHQQ")
"""Linux, fs/erofs/erofs_fs.h, struct erofs_super_block, as far as the build time."""
_OFFSET = 1024
_MAGIC = 0xE0F5E1E2

_LOST_KINDS = {"device": ("char", "block"), "fifo": ("fifo",)}
"""What is not there when a staged directory has this loss."""

CLUSTER_SIZE = 64 << 10
"""Bytes of a physical cluster of a compressed image at most, when none are chosen."""


def image_uuid(digest: str) -> uuid.UUID:
    """The UUID of every filesystem that is made of a manifest: always the same for the same digest."""
    return uuid.uuid5(uuid.NAMESPACE_OID, digest)


class _ErofsBackend(Backend):
    """The core's writer: the image is where the layers are read into, so that only metadata are left to write."""

    name = "erofs"
    store = "erofs"

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level", "block_size", "tails"))
        _check_compression(options)
        _check_tails(options)
        if options.tails == "block":
            raise UsageError("an image of whole blocks is written another way")
        if options.compression not in (None, "none"):
            raise UsageError("a compressed image is written another way")

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        _, losses = packing.tree.write_erofs(
            packing.path,
            uuid=image_uuid(packing.digest).bytes,
            created=packing.created,
            clamp_mtime=packing.clamp_mtime,
        )
        return summarize(losses)


class _BlockErofsBackend(_ErofsBackend):
    """The same in whole blocks: the data of decoded layers are taken in, or shared, as they are."""

    store = "erofs-blocks"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level", "block_size", "tails"))
        _check_compression(options)
        _check_tails(options)
        if options.tails != "block":
            raise UsageError("an image with inline tails is written another way")


class _CompressedErofsBackend(Backend):
    """The core's writer with compression, from a spool: what a later layer replaces need not be compressed."""

    name = "erofs"
    store = "spool"
    tells = True

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level", "block_size"))
        _check_compression(options)
        if options.compression in (None, "none"):
            raise UsageError("an image without compression is written another way")

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        options = packing.options
        assert options.compression is not None

        def tell(done: int, total: int) -> None:
            if packing.cancelled():
                raise CancelledError("the work was called off")
            packing.progress(done, total)

        _, losses = packing.tree.write_compressed_erofs(
            packing.path,
            uuid=image_uuid(packing.digest).bytes,
            created=packing.created,
            compression=options.compression,
            level=options.level,
            cluster=CLUSTER_SIZE if options.block_size is None else options.block_size,
            threads=packing.threads,
            clamp_mtime=packing.clamp_mtime,
            progress=tell,
        )
        return summarize(losses)


class _MkfsErofs(Backend):
    """mkfs.erofs; from a tar stream where this release takes one (`--tar=f`), else from a staged directory."""

    name = "mkfs.erofs"
    package = "erofs-utils"

    @property
    def store(self) -> str:
        return "spool" if _takes_tar() else "directory"

    def version(self) -> str | None:
        if find_tool("mkfs.erofs") is None:
            return None
        # Its help says which options it has, -V which release it is.
        return help_text("mkfs.erofs", "-V").strip().partition("\n")[0] or "mkfs.erofs"

    def exact(self) -> bool:
        # A plain user's staged files all belong to that user.
        return _takes_tar() or os.geteuid() == 0

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level", "block_size"))
        _check_compression(options)
        if options.compression not in (None, "none") and options.compression not in _compressors():
            raise UsageError(f"the mkfs.erofs that is installed has no {options.compression}")

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        source, feed, losses = self._source(packing)
        # The one way that all releases share to fix the image's own time and keep those of files. It must not cut them.
        latest = max(packing.created, max(row[5] + 1 for row in rows(packing.tree)))
        if packing.clamp_mtime is not None:
            latest = min(latest, packing.clamp_mtime)
        run_tool(
            [
                "mkfs.erofs",
                "-U",
                str(image_uuid(packing.digest)),
                *_compression(packing.options),
                packing.path,
                *source,
            ],
            feed=feed,
            environment={"SOURCE_DATE_EPOCH": str(latest)},
            folder=packing.folder,
            cancelled=packing.cancelled,
        )
        # Who may not make one device, or one pipe, may make none.
        without = {kind for loss in losses for kind in _LOST_KINDS.get(loss[0], ())}
        left = (row for row in rows(packing.tree) if row[1] not in without)
        _read_back(packing.path, packing, totals(left).inodes)
        return summarize(losses)

    def _source(
        self, packing: Packing
    ) -> tuple[list[str | os.PathLike[str]], Callable[[int], object] | None, list[LossRow]]:
        """The arguments that name the source, what feeds it, and the losses so far."""
        if _takes_tar():
            return (
                ["--tar=f", "/dev/stdin"],
                lambda descriptor: packing.tree.write_tar(descriptor, clamp_mtime=packing.clamp_mtime, sparse=False),
                [],
            )
        staged, losses = stage(packing)
        losses += group(self._fit(packing, staged))
        return [staged], None, losses

    def _fit(self, packing: Packing, staged: Path) -> Iterator[tuple[str, bytes, str]]:
        """Changes what mkfs.erofs would stumble over; yields the losses of it."""
        for path, _, _, _, _, mtime, *_ in rows(packing.tree):
            if mtime < 0:
                # It compares times as unsigned numbers, and takes such a one for one that is too late.
                set_mtime(staged, path, 0)
                yield "mtime", path, "mkfs.erofs holds no times before 1970"
        if os.geteuid() != 0:
            for path, kind, mode, *_ in rows(packing.tree):
                if make_readable(staged, path, kind, mode):
                    yield "mode", path, "mkfs.erofs reads it as a plain user, who may not"


def _takes_tar() -> bool:
    return "--tar=" in help_text("mkfs.erofs", "--help")


def _check_tails(options: PackOptions) -> None:
    """Raises UsageError for tails that there are not."""
    if options.tails not in (None, "inline", "block"):
        raise UsageError(f"tails of files in erofs are inline or block, not {options.tails!r}")
    if options.tails is not None and options.compression not in (None, "none"):
        raise UsageError("a compressed erofs image puts tails where they fit; leave --tails out")


def _check_compression(options: PackOptions) -> None:
    """Raises UsageError for what erofs has not, whoever writes it."""
    compression, level, size = options.compression or "none", options.level, options.block_size
    if compression not in ("none", "lz4", "zstd"):
        raise UsageError(f"erofs has no compression {compression!r}; there are none, lz4 and zstd")
    if size is not None and (not 4096 <= size <= 1 << 20 or size & (size - 1)):
        raise UsageError(f"physical clusters of erofs have 4096 to 1048576 bytes, a power of two, not {size}")
    if size is not None and compression == "none":
        raise UsageError("only a compressed erofs image has physical clusters; choose a compression as well")
    if level is not None and compression != "zstd":
        raise UsageError(f"{compression} has no levels in erofs")
    if level is not None and not 1 <= level <= 22:
        raise UsageError(f"zstd has levels from 1 to 22, not {level}")


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


def _read_back(path: Path, packing: Packing, inodes: int) -> None:
    """Superblock and number of inodes; then fsck.erofs reads every inode and block, where it is there."""
    with path.open("rb") as file:
        file.seek(_OFFSET)
        head = file.read(_SUPERBLOCK.size)
    if len(head) < _SUPERBLOCK.size or _SUPERBLOCK.unpack(head)[0] != _MAGIC:
        raise PackerError("mkfs.erofs left something that is no erofs image", command="mkfs.erofs")
    found = _SUPERBLOCK.unpack(head)[6]
    if found != inodes:
        raise PackerError(f"mkfs.erofs wrote {found} files of {inodes}, and reported success", command="mkfs.erofs")
    if find_tool("fsck.erofs") is not None:
        try:
            run_tool(["fsck.erofs", "--extract", path], folder=packing.folder, cancelled=packing.cancelled)
        except PackerError as error:
            raise PackerError(f"mkfs.erofs left an image that fsck.erofs refuses: {error}", **error.context) from error


FORMAT = Format("erofs", (_ErofsBackend(), _BlockErofsBackend(), _CompressedErofsBackend(), _MkfsErofs()))
