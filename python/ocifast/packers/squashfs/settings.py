"""What can be chosen about a squashfs image, with one meaning for all backends, and what they have in common."""

from __future__ import annotations

from functools import cache

from ocifast.errors import OcifastError
from ocifast.packers.options import RANGES, SquashfsOptions
from ocifast.process import find_tool, run_tool
from ocifast.records import dataclass

__all__ = ["TIME_MAX", "Settings", "help_text", "resolve", "tool_version"]

TIME_MAX = (1 << 32) - 1
"""Times in squashfs are unsigned 32-bit seconds since 1970."""


@dataclass(frozen=True)
class Settings:
    """Options with their defaults filled in.

    Attributes:
        compression: "zstd", "gzip", "xz", "lz4", "lz4hc" or "none".
        level: the compression's own level; None for those without.
        block_size: bytes of a data block, a power of two from 4 KiB to 1 MiB.
        fragments: whether the ends of files, and small files, are packed together; None for the tool's own way.
    """

    compression: str
    level: int | None
    block_size: int
    fragments: bool | None


def resolve(options: SquashfsOptions, *, zstd: bool) -> Settings:
    """Fills in the defaults.

    Args:
        options: as chosen.
        zstd: whether the tool that is installed was built with zstd; the default is gzip where not.
    """
    compression = options.compression or ("zstd" if zstd else "gzip")
    levels = RANGES["squashfs"].compressions[compression]
    level = options.level
    if level is None and levels is not None:
        level = levels.default
    return Settings(compression, level, options.block_bytes, options.fragments)


@cache
def help_text(*argv: str) -> str:
    """What a tool says about itself when asked for help: its options are its capabilities. Empty when not installed."""
    if find_tool(argv[0]) is None:
        return ""
    try:
        finished = run_tool(list(argv), stall=30)
    except OcifastError as error:
        # Older releases print their help with another status than 0, or to standard error.
        return str(error.context.get("stdout", "")) + str(error.context.get("stderr", ""))
    return (finished.stdout + finished.stderr).decode(errors="replace")


def tool_version(*argv: str) -> str:
    """The first line of what a tool says about its version."""
    return help_text(*argv).strip().partition("\n")[0].strip()
