"""cpio: an archive in the "newc" form, written by the core, for booting as an initial root file system."""

from __future__ import annotations

import os

from ocifast.errors import UsageError
from ocifast.packers import Backend, Format, Loss, Packing, PackOptions, refuse_options, summarize

__all__ = ["FORMAT"]

LEVELS: dict[str, tuple[int, range]] = {"gzip": (6, range(1, 10)), "zstd": (3, range(1, 20))}
"""Compressions that Linux unpacks: the level by default, and those there are (beyond 19, zstd's windows grow)."""


class _CpioBackend(Backend):
    name = "cpio"
    store = "spool"

    def version(self) -> str | None:
        return "1"

    def check(self, options: PackOptions) -> None:
        refuse_options(self.name, options, known=("compression", "level"))
        compression = options.compression or "none"
        if compression == "none":
            refuse_options("cpio without compression", options, known=("compression",))
        elif compression not in LEVELS:
            raise UsageError(f"cpio has no compression {compression!r}; there are none, {', '.join(LEVELS)}")
        elif options.level is not None and options.level not in LEVELS[compression][1]:
            levels = LEVELS[compression][1]
            raise UsageError(f"{compression} has no level {options.level}; there are {levels[0]} to {levels[-1]}")

    def pack(self, packing: Packing) -> list[Loss]:
        compression = packing.options.compression or "none"
        level = packing.options.level
        if level is None and compression in LEVELS:
            level = LEVELS[compression][0]
        descriptor = packing.descriptor
        if descriptor is None:
            assert packing.path is not None
            descriptor = os.open(packing.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _, losses = packing.tree.write_cpio(
                descriptor, compression=compression, level=level or 0, clamp_mtime=packing.clamp_mtime
            )
        finally:
            if packing.descriptor is None:
                os.close(descriptor)
        return summarize(losses)


FORMAT = Format("cpio", (_CpioBackend(),), streams=True)
