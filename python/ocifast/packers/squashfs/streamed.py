"""Backends that take a tar stream: no root, no temporary tree."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ocifast.errors import OcifastError, UsageError
from ocifast.packers.backend import Backend
from ocifast.packers.losses import Loss, LossRow, summarize
from ocifast.packers.options import SquashfsOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.rows import rows, totals
from ocifast.packers.squashfs.listing import fit, read_back
from ocifast.packers.squashfs.settings import Settings, help_text, resolve, tool_version
from ocifast.patterns import pattern
from ocifast.process import run_tool

__all__ = ["MKSQUASHFS_MEMORY", "SQFSTAR", "TAR2SQFS", "bar", "compression_arguments"]

MKSQUASHFS_MEMORY = "512M"
"""By default it takes a quarter of the machine's memory."""


class _Sqfstar(Backend[SquashfsOptions]):
    """sqfstar of squashfs-tools 4.5 and later, run as `mksquashfs - IMAGE -tar`, which is the same program.

    (sqfstar of 4.5 does not take `-Xcompression-level` at all.) Releases before 4.6 drop the tar's entry for the root
    and stamp the root with the current time: they lose the root's owner and time, and are passed over when there is
    another backend.
    """

    name = "sqfstar"
    package = "squashfs-tools"

    def version(self) -> str | None:
        return tool_version("mksquashfs", "-version") if "\n-tar\t" in help_text("mksquashfs", "-help") else None

    def exact(self) -> bool:
        return _keeps_root()

    def tells(self, options: SquashfsOptions) -> bool:
        return True

    def write(self, request: WriteRequest[SquashfsOptions]) -> Written:
        settings = resolve(request.options, zstd="\tzstd\n" in help_text("mksquashfs", "-help"))
        seconds = fit(request.clamp_mtime)
        _, _, mode, uid, gid, mtime, *_ = request.tree.stat(b"")
        root = ["-root-mode", f"{mode:o}", "-root-uid", str(uid), "-root-gid", str(gid)]
        losses: list[Loss] = []
        environment: dict[str, str] = {}
        exact = self.exact()
        if exact:
            root += ["-root-time", str(seconds(mtime)), "-mkfs-time", str(seconds(request.created))]
        else:
            # The variable, which is not given by the caller but by us, is the only way to give the root any fixed time.
            # It must not cut the times of files.
            latest = max(seconds(row.seconds) for row in rows(request.tree))
            environment["SOURCE_DATE_EPOCH"] = str(latest)
            if latest != seconds(mtime):
                losses.append(Loss("mtime", f"{self.version()} gives the root a time of its own", 1, (b"",)))
            if uid or gid:
                losses.append(Loss("owner", f"{self.version()} gives the root to 0:0", 1, (b"",)))
        lost: list[LossRow] = []
        run_tool(
            [
                *("mksquashfs", "-", request.path, "-tar", "-exit-on-error", "-no-recovery", "-progress"),
                *("-processors", str(request.threads), "-mem", MKSQUASHFS_MEMORY),
                *compression_arguments(settings),
                *root,
            ],
            feed=lambda descriptor: lost.extend(_write(request, descriptor)),
            on_output=bar(request, settings),
            environment=environment,
            folder=request.folder,
            cancelled=request.cancelled,
            stall=request.stall,
        )
        read_back(request.path, request.tree, tool="mksquashfs", seconds=seconds, root=exact)
        return Written(request.path.stat().st_size, (*losses, *summarize(lost)))


class _Tar2sqfs(Backend[SquashfsOptions]):
    """tar2sqfs of squashfs-tools-ng."""

    name = "tar2sqfs"
    package = "squashfs-tools-ng"

    def version(self) -> str | None:
        return tool_version("tar2sqfs", "--version") or None

    def tells(self, options: SquashfsOptions) -> bool:
        return True

    def check(self, options: SquashfsOptions) -> None:
        compression = options.compression
        if compression == "none":
            raise UsageError("tar2sqfs always compresses; choose another backend or compression")
        if options.fragments is False:
            raise UsageError("tar2sqfs always packs small files together; choose another backend or --fragments")
        if compression in ("lz4", "lz4hc"):
            # 1.2.0: "File system corruption detected", says unsquashfs of what it writes.
            raise UsageError(
                "other tools cannot read the lz4 images of tar2sqfs; choose another backend or compression"
            )

    def write(self, request: WriteRequest[SquashfsOptions]) -> Written:
        settings = resolve(request.options, zstd="\tzstd\n" in help_text("tar2sqfs", "--help"))
        seconds = fit(request.clamp_mtime)
        extra = ["-X", f"level={settings.level}"] if settings.level is not None else []
        total = totals(rows(request.tree)).bytes
        names = len(request.tree)
        seen = 0

        def count(chunk: bytes) -> None:
            nonlocal seen
            seen += chunk.count(b"\n")
            request.progress(min(total, total * seen // names), total)

        lost: list[LossRow] = []
        run_tool(
            [
                *("tar2sqfs", "--no-skip", "--num-jobs", str(request.threads), "--compressor", settings.compression),
                *("--block-size", str(settings.block_size)),
                *extra,
                request.path,
            ],
            feed=lambda descriptor: lost.extend(_write(request, descriptor)),
            on_output=count,
            environment={"SOURCE_DATE_EPOCH": str(seconds(request.created))},
            folder=request.folder,
            cancelled=request.cancelled,
            stall=request.stall,
        )
        read_back(request.path, request.tree, tool="tar2sqfs", seconds=seconds)
        return Written(request.path.stat().st_size, tuple(summarize(lost)))


SQFSTAR = _Sqfstar()
TAR2SQFS = _Tar2sqfs()


def compression_arguments(settings: Settings) -> list[str]:
    """The arguments of mksquashfs for compression and block size."""
    arguments = ["-b", str(settings.block_size)]
    if settings.fragments is not None:
        arguments.append("-always-use-fragments" if settings.fragments else "-no-fragments")
    if settings.compression == "none":
        return [*arguments, "-noI", "-noId", "-noD", "-noF", "-noX"]
    if settings.compression == "lz4hc":
        return [*arguments, "-comp", "lz4", "-Xhc"]
    arguments += ["-comp", settings.compression]
    return arguments if settings.level is None else [*arguments, "-Xcompression-level", str(settings.level)]


_BAR = pattern(rb"(\d+)/(\d+) +\d+%")


def bar(request: WriteRequest[SquashfsOptions], settings: Settings) -> Callable[[bytes], None]:
    """Reads mksquashfs' progress bar, which counts blocks, and tells bytes."""

    def read(chunk: bytes) -> None:
        found = _BAR.findall(chunk)
        if found:
            done, total = (int(number) * settings.block_size for number in found[-1])
            request.progress(done, total)

    return read


def _write(request: WriteRequest[SquashfsOptions], fd: int) -> list[LossRow]:
    return request.tree.write_squashfs_tar(fd, clamp_mtime=request.clamp_mtime)


@cache
def _keeps_root() -> bool:
    """Whether mksquashfs takes mode, owner and time of the root from us, found out by request a tree of one file."""
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        root = tarfile.TarInfo("./")
        root.type, root.mode, root.uid, root.gid, root.mtime = tarfile.DIRTYPE, 0o711, 7, 8, 86400
        archive.addfile(root)
        archive.addfile(tarfile.TarInfo("file"))
    with tempfile.TemporaryDirectory(prefix="ocifast-probe-") as folder:
        image = Path(folder, "image")
        options = ["-root-mode", "711", "-root-uid", "7", "-root-gid", "8", "-root-time", "86400", "-mkfs-time", "0"]
        try:
            run_tool(
                ["mksquashfs", "-", image, "-tar", "-no-recovery", "-no-progress", *options],
                feed=lambda descriptor: _all(descriptor, stream.getvalue()),
                folder=folder,
            )
            seen = run_tool(["unsquashfs", "-lln", "-UTC", image], folder=folder).stdout
        except OcifastError:
            return False
    return re.match(rb"drwx--x--x 7/8 +\d+ 1970-01-02 00:00 squashfs-root\n", seen) is not None


def _all(fd: int, data: bytes) -> None:
    with open(fd, "wb", closefd=False) as pipe:
        pipe.write(data)
