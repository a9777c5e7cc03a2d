"""What can be chosen about a squashfs image, with one meaning for all backends, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ocifast.errors import OcifastError, UsageError
from ocifast.packers import PackOptions, refuse_options
from ocifast.process import find_tool, run_tool

__all__ = ["TIME_MAX", "Settings", "help_text", "resolve", "tool_version"]

TIME_MAX = (1 << 32) - 1
"""Times in squashfs are unsigned 32-bit seconds since 1970."""

_LEVELS = {"zstd": (1, 22, 3), "gzip": (1, 9, 6)}
"""Smallest, largest and default level. mksquashfs' own defaults (zstd 15, gzip 9) take 10 to 20 times the processor
time of these for an image that is a few percent smaller."""
_WITHOUT_LEVEL = ("xz", "lz4", "none")
_BLOCK_MIN, _BLOCK_MAX, _BLOCK_DEFAULT = 4 << 10, 1 << 20, 128 << 10


@dataclass(frozen=True)
class Settings:
    """Options with their defaults filled in.

    Attributes:
        compression: "zstd", "gzip", "xz", "lz4" or "none".
        level: the compression's own level; None for those without.
        block_size: bytes of a data block, a power of two from 4 KiB to 1 MiB.
    """

    compression: str
    level: int | None
    block_size: int


def resolve(name: str, options: PackOptions, *, zstd: bool = True) -> Settings:
    """Fills in the defaults.

    Args:
        name: of the backend, for messages.
        options: as chosen.
        zstd: whether the tool that is installed was built with zstd; the default is gzip where not.

    Raises:
        UsageError: a value that squashfs does not have.
    """
    refuse_options(name, options, known=("compression", "level", "block_size"))
    compression = options.compression or ("zstd" if zstd else "gzip")
    if compression not in (*_LEVELS, *_WITHOUT_LEVEL):
        raise UsageError(
            f"squashfs has no compression {compression!r}; there are {', '.join((*_LEVELS, *_WITHOUT_LEVEL))}"
        )
    level = options.level
    if compression in _LEVELS:
        low, high, default = _LEVELS[compression]
        level = default if level is None else level
        if not low <= level <= high:
            raise UsageError(f"{compression} has the levels {low} to {high}, not {level}")
    elif level is not None:
        raise UsageError(f"{compression} has no levels in squashfs")
    block_size = options.block_size or _BLOCK_DEFAULT
    if not _BLOCK_MIN <= block_size <= _BLOCK_MAX or block_size & (block_size - 1):
        raise UsageError(f"blocks of squashfs have 4096 to 1048576 bytes, a power of two, not {block_size}")
    return Settings(compression, level, block_size)


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
