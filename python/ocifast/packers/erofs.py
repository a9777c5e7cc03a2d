"""erofs: a read-only image that the kernel maps block by block; by the core's own writer, or mkfs.erofs."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from ocifast.errors import CancelledError, PackerError, UsageError
from ocifast.layered import Store
from ocifast.packers.backend import Backend, Format
from ocifast.packers.losses import LossRow, group, summarize
from ocifast.packers.options import ErofsOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.rows import rows, totals
from ocifast.packers.stage import make_readable, set_mtime, stage
from ocifast.packers.uuids import image_uuid
from ocifast.process import find_tool, run_tool

__all__ = ["FORMAT"]

_SUPERBLOCK = struct.Struct("<IIIBBHQQ")
"""Linux, fs/erofs/erofs_fs.h, struct erofs_super_block, as far as the build time."""
_OFFSET = 1024
_MAGIC = 0xE0F5E1E2

_LOST_KINDS = {"device": ("char", "block"), "fifo": ("fifo",)}
"""What is not there when a staged directory has this loss."""


class _ErofsBackend(Backend[ErofsOptions]):
    """The core's writer.

    Without compression the image is where the layers are read into, so that only metadata are left to write; with one,
    what a later layer replaces need not be compressed.
    """

    name = "erofs"

    def store(self, options: ErofsOptions, threads: int) -> Store:
        if options.compressed:
            return Store.SPOOL
        return Store.EROFS_BLOCKS if options.tails == "block" else Store.EROFS

    def copies(self, options: ErofsOptions) -> bool:
        """Unless they are compressed."""
        return not options.compressed

    def version(self) -> str | None:
        return "1"

    def tells(self, options: ErofsOptions) -> bool:
        return options.compressed

    def write(self, request: WriteRequest[ErofsOptions]) -> Written:
        options, uuid = request.options, image_uuid(request.digest)
        if options.compression is None or not options.compressed:
            size, losses = request.tree.write_erofs(
                request.path,
                uuid=uuid.bytes,
                created=request.created,
                whole_blocks=options.tails == "block",
                clamp_mtime=request.clamp_mtime,
                folder=request.folder,
            )
        else:
            size, losses = request.tree.write_compressed_erofs(
                request.path,
                uuid=uuid.bytes,
                created=request.created,
                compression=options.compression,
                level=options.level,
                cluster=options.block_bytes,
                threads=request.threads,
                clamp_mtime=request.clamp_mtime,
                progress=lambda done, total: self._tell(request, done, total),
            )
        if options.align is not None:
            size = -(-size // options.align) * options.align
            os.truncate(request.path, size)
        return Written(size, tuple(summarize(losses)), {"uuid": str(uuid)})

    def _tell(self, request: WriteRequest[ErofsOptions], done: int, total: int) -> None:
        if request.cancelled():
            raise CancelledError("the work was called off")
        request.progress(done, total)


class _MkfsErofs(Backend[ErofsOptions]):
    """mkfs.erofs; from a tar stream where this release takes one (`--tar=f`), else from a staged directory."""

    name = "mkfs.erofs"
    package = "erofs-utils"

    def store(self, options: ErofsOptions, threads: int) -> Store:
        return Store.SPOOL if _takes_tar() else Store.DIRECTORY

    def version(self) -> str | None:
        if find_tool("mkfs.erofs") is None:
            return None
        # Its help says which options it has, -V which release it is.
        return _help("-V").strip().partition("\n")[0] or "mkfs.erofs"

    def exact(self) -> bool:
        # A plain user's staged files all belong to that user.
        return _takes_tar() or os.geteuid() == 0

    def check(self, options: ErofsOptions) -> None:
        for name in ("tails", "align"):
            if getattr(options, name) is not None:
                raise UsageError(f"{self.name} has no option --{name}")
        if options.compression not in (None, "none") and options.compression not in _compressors():
            raise UsageError(f"the mkfs.erofs that is installed has no {options.compression}")

    def write(self, request: WriteRequest[ErofsOptions]) -> Written:
        uuid = image_uuid(request.digest)
        source, feed, losses = self._source(request)
        # The one way that all releases share to fix the image's own time and keep those of files. It must not cut them.
        latest = max(request.created, max(row.seconds + 1 for row in rows(request.tree)))
        if request.clamp_mtime is not None:
            latest = min(latest, request.clamp_mtime)
        run_tool(
            [
                "mkfs.erofs",
                "-U",
                str(uuid),
                *_compression(request.options),
                request.path,
                *source,
            ],
            feed=feed,
            environment={"SOURCE_DATE_EPOCH": str(latest)},
            folder=request.folder,
            cancelled=request.cancelled,
            stall=request.stall,
        )
        # If creating one device, or one pipe, was refused, all were.
        without = {kind for loss in losses for kind in _LOST_KINDS.get(loss[0], ())}
        left = (row for row in rows(request.tree) if row.type not in without)
        _read_back(request.path, request, totals(left).inodes)
        return Written(request.path.stat().st_size, tuple(summarize(losses)), {"uuid": str(uuid)})

    def _source(
        self, request: WriteRequest[ErofsOptions]
    ) -> tuple[list[str | os.PathLike[str]], Callable[[int], object] | None, list[LossRow]]:
        """The arguments that name the source, what feeds it, and the losses so far."""
        if _takes_tar():
            return (
                ["--tar=f", "/dev/stdin"],
                lambda descriptor: request.tree.write_tar(descriptor, clamp_mtime=request.clamp_mtime, sparse=False),
                [],
            )
        staged, losses = stage(request)
        losses += group(self._fit(request, staged))
        return [staged], None, losses

    def _fit(self, request: WriteRequest[ErofsOptions], staged: Path) -> Iterator[tuple[str, bytes, str]]:
        """Changes what mkfs.erofs would stumble over; yields the losses of it."""
        for row in rows(request.tree):
            if row.seconds < 0:
                # It compares times as unsigned numbers, and takes such a one for one that is too late.
                set_mtime(staged, row.path, 0)
                yield "mtime", row.path, "mkfs.erofs holds no times before 1970"
        if os.geteuid() != 0:
            for row in rows(request.tree):
                if make_readable(staged, row.path, row.type, row.mode):
                    yield "mode", row.path, "mkfs.erofs reads it as a plain user, who may not"


def _takes_tar() -> bool:
    return "--tar=" in _help("--help")


def _compressors() -> set[str]:
    """What this build was made with, as its help says it: in one line, or a line each."""
    return set(re.findall(r"[a-z0-9]+", _help("--help").lower().partition("available compressors")[2]))


def _compression(options: ErofsOptions) -> list[str]:
    if options.compression in (None, "none"):
        return []
    level = "" if options.level is None else f",{options.level}"
    size = [] if options.block_size is None else [f"-C{options.block_size}"]
    return [f"-z{options.compression}{level}", *size]


def _read_back(path: Path, request: WriteRequest[ErofsOptions], inodes: int) -> None:
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
            run_tool(
                ["fsck.erofs", "--extract", path],
                folder=request.folder,
                cancelled=request.cancelled,
                stall=request.stall,
            )
        except PackerError as error:
            raise PackerError(f"mkfs.erofs left an image that fsck.erofs refuses: {error}", **error.context) from error


def _help(option: str) -> str:
    # Not imported before it is needed: our own writer does without, and what writes squashfs comes with it.
    from ocifast.packers.squashfs.settings import help_text

    return help_text("mkfs.erofs", option)


FORMAT = Format("erofs", ErofsOptions, (_ErofsBackend(), _MkfsErofs()))
