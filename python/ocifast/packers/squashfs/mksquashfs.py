"""mksquashfs from a staged directory: for releases that take no tar, or lose part of one."""

from __future__ import annotations

import os
from pathlib import Path

from ocifast.errors import OutputUnsupportedError
from ocifast.layered import Store
from ocifast.packers.backend import Backend
from ocifast.packers.losses import LossRow, summarize
from ocifast.packers.options import SquashfsOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.rows import rows
from ocifast.packers.squashfs.listing import fit, read_back
from ocifast.packers.squashfs.settings import help_text, resolve, tool_version
from ocifast.packers.squashfs.streamed import MKSQUASHFS_MEMORY, bar, compression_arguments
from ocifast.packers.stage import make_readable, set_mtime, stage
from ocifast.process import run_tool

__all__ = ["MKSQUASHFS"]


class _Mksquashfs(Backend[SquashfsOptions]):
    """mksquashfs of squashfs-tools, any release since 4.4.

    A plain user cannot give staged files away or make devices; then a list of pseudo file definitions tells mksquashfs
    the owners, modes and devices.
    """

    name = "mksquashfs"
    package = "squashfs-tools"

    def version(self) -> str | None:
        return tool_version("mksquashfs", "-version") if "-mkfs-time" in help_text("mksquashfs", "-help") else None

    def store(self, options: SquashfsOptions, threads: int) -> Store:
        return Store.DIRECTORY

    def tells(self, options: SquashfsOptions) -> bool:
        return True

    def write(self, request: WriteRequest[SquashfsOptions]) -> Written:
        settings = resolve(request.options, zstd="\tzstd\n" in help_text("mksquashfs", "-help"))
        seconds = fit(request.clamp_mtime)
        staged, losses = stage(request)
        for row in rows(request.tree):
            mtime = row.seconds
            if mtime != seconds(mtime) and (request.clamp_mtime is None or mtime < request.clamp_mtime):
                # mksquashfs cuts the number: 1969 would become 2106.
                set_mtime(staged, row.path, seconds(mtime))
        definitions: list[str | os.PathLike[str]] = []
        if os.geteuid() != 0:
            definitions, losses = self._define(request, staged, losses)
        run_tool(
            [
                *("mksquashfs", staged, request.path, "-noappend", "-no-recovery", "-progress", "-no-exports"),
                *("-processors", str(request.threads), "-mem", MKSQUASHFS_MEMORY),
                *("-mkfs-time", str(seconds(request.created))),
                *definitions,
                *compression_arguments(settings),
            ],
            on_output=bar(request, settings),
            folder=request.folder,
            cancelled=request.cancelled,
            stall=request.stall,
        )
        read_back(request.path, request.tree, tool="mksquashfs", seconds=seconds)
        lost = summarize(losses, request.tree.squashfs_losses(clamp_mtime=request.clamp_mtime))
        return Written(request.path.stat().st_size, tuple(lost))

    def _define(
        self, request: WriteRequest[SquashfsOptions], staged: Path, losses: list[LossRow]
    ) -> tuple[list[str | os.PathLike[str]], list[LossRow]]:
        """Writes the definitions; returns the arguments, and the losses that are left."""
        ours = (os.geteuid(), os.getegid())
        devices = {name: (major, minor) for name, major, minor in request.tree.devices()}
        path = request.folder / "pseudo"
        root: list[str] = []
        with path.open("wb") as file:
            for name, kind, mode, uid, gid, mtime, _, _, _, _ in rows(request.tree):
                changed = make_readable(staged, name, kind, mode)
                if not name:
                    root = ["-root-mode", f"{mode:o}", "-root-uid", str(uid), "-root-gid", str(gid)]
                    continue
                if kind in ("char", "block"):
                    major, minor = devices[name]
                    what = b"%c %d %o %d %d %d %d" % (
                        b"C" if kind == "char" else b"B",
                        mtime,
                        mode,
                        uid,
                        gid,
                        major,
                        minor,
                    )
                elif changed or (uid, gid) != ours or mode & 0o7000:
                    what = b"m %o %d %d" % (0o777 if kind == "symlink" else mode, uid, gid)
                else:
                    continue
                file.write(b"%s %s\n" % (_quote(name), what))
        return [*root, "-pf", path], [loss for loss in losses if loss[0] not in ("owner", "device", "mode")]


MKSQUASHFS = _Mksquashfs()


def _quote(name: bytes) -> bytes:
    if b"\n" in name:
        shown = name.decode("utf-8", "backslashreplace").replace("\n", "\\n")
        raise OutputUnsupportedError(
            f"mksquashfs cannot be told the owner of /{shown!r}: its name has a line feed; run as root, or choose "
            "another backend"
        )
    return b'"/' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
