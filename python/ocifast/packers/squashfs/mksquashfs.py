"""mksquashfs from a staged directory: for releases that take no tar, or lose part of one."""

from __future__ import annotations

import os
from pathlib import Path

from ocifast.errors import OutputUnsupportedError
from ocifast.packers import Backend, Loss, LossRow, Packing, PackOptions, rows, summarize
from ocifast.packers.squashfs.listing import fit, read_back
from ocifast.packers.squashfs.settings import help_text, resolve, tool_version
from ocifast.packers.squashfs.streamed import MKSQUASHFS_MEMORY, bar, compression_arguments
from ocifast.packers.stage import make_readable, set_mtime, stage
from ocifast.process import run_tool

__all__ = ["MKSQUASHFS"]


class _Mksquashfs(Backend):
    """mksquashfs of squashfs-tools, any release since 4.4.

    A plain user cannot give staged files away or make devices; then a list of pseudo file definitions tells mksquashfs
    the owners, modes and devices.
    """

    name = "mksquashfs"
    store = "directory"
    tells = True
    package = "squashfs-tools"

    def version(self) -> str | None:
        return tool_version("mksquashfs", "-version") if "-mkfs-time" in help_text("mksquashfs", "-help") else None

    def check(self, options: PackOptions) -> None:
        resolve(self.name, options)

    def pack(self, packing: Packing) -> list[Loss]:
        assert packing.path is not None
        settings = resolve(self.name, packing.options, zstd="\tzstd\n" in help_text("mksquashfs", "-help"))
        seconds = fit(packing.clamp_mtime)
        staged, losses = stage(packing)
        for path, _, _, _, _, mtime, *_ in rows(packing.tree):
            if mtime != seconds(mtime) and (packing.clamp_mtime is None or mtime < packing.clamp_mtime):
                # mksquashfs cuts the number: 1969 would become 2106.
                set_mtime(staged, path, seconds(mtime))
        definitions: list[str | os.PathLike[str]] = []
        if os.geteuid() != 0:
            definitions, losses = self._define(packing, staged, losses)
        run_tool(
            [
                *("mksquashfs", staged, packing.path, "-noappend", "-no-recovery", "-progress", "-no-exports"),
                *("-processors", str(packing.threads), "-mem", MKSQUASHFS_MEMORY),
                *("-mkfs-time", str(seconds(packing.created))),
                *definitions,
                *compression_arguments(settings),
            ],
            on_output=bar(packing, settings),
            folder=packing.folder,
            cancelled=packing.cancelled,
        )
        read_back(packing.path, packing.tree, tool="mksquashfs", seconds=seconds)
        return summarize(losses, packing.tree.squashfs_losses(clamp_mtime=packing.clamp_mtime))

    def _define(
        self, packing: Packing, staged: Path, losses: list[LossRow]
    ) -> tuple[list[str | os.PathLike[str]], list[LossRow]]:
        """Writes the definitions; returns the arguments, and the losses that are left."""
        ours = (os.geteuid(), os.getegid())
        devices = {name: (major, minor) for name, major, minor in packing.tree.devices()}
        path = packing.folder / "pseudo"
        root: list[str] = []
        with path.open("wb") as file:
            for name, kind, mode, uid, gid, mtime, _, _, _, _ in rows(packing.tree):
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
