"""Packers: from a finished tree to a directory, an archive or a filesystem image.

One file per format, one line in `FORMATS`, and inside a format one table of backends in order of preference. The first
backend that is there and able is taken; one that is named is taken or refused, never replaced.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from ocifast.errors import UsageError
from ocifast.packers.backend import Backend, Format, choose_backend
from ocifast.packers.losses import Loss, LossRow, group, summarize
from ocifast.packers.options import (
    CompressedOptions,
    CpioOptions,
    DirOptions,
    DiskOptions,
    ErofsOptions,
    Ext4Options,
    FormatOptions,
    LayersOptions,
    PackOptions,
    SquashfsOptions,
    TarOptions,
    options_of,
)
from ocifast.packers.request import FileTarget, StreamTarget, WriteRequest, Written
from ocifast.packers.rows import Row, Totals, rows, totals

__all__ = [
    "ANY_IMAGE",
    "FORMATS",
    "SUFFIXES",
    "Backend",
    "CompressedOptions",
    "CpioOptions",
    "DirOptions",
    "DiskOptions",
    "ErofsOptions",
    "Ext4Options",
    "FileTarget",
    "Format",
    "FormatOptions",
    "LayersOptions",
    "Loss",
    "LossRow",
    "PackOptions",
    "Row",
    "SquashfsOptions",
    "StreamTarget",
    "TarOptions",
    "Totals",
    "WriteRequest",
    "Written",
    "check_suffix",
    "choose_backend",
    "format_of",
    "group",
    "load_format",
    "options_of",
    "rows",
    "summarize",
    "totals",
]

FORMATS: dict[str, str] = {
    "dir": "ocifast.packers.directory:FORMAT",
    "tar": "ocifast.packers.tar:FORMAT",
    "cpio": "ocifast.packers.cpio:FORMAT",
    "erofs": "ocifast.packers.erofs:FORMAT",
    "squashfs": "ocifast.packers.squashfs:FORMAT",
    "ext4": "ocifast.packers.ext4:FORMAT",
    "layers": "ocifast.packers.layers:FORMAT",
    "disk": "ocifast.packers.disk:FORMAT",
}
"""Name of each format, and where its `Format` is."""

SUFFIXES: dict[str, tuple[str, str | None]] = {
    ".tar": ("tar", None),
    ".tar.gz": ("tar", "gzip"),
    ".tgz": ("tar", "gzip"),
    ".tar.zst": ("tar", "zstd"),
    ".tzst": ("tar", "zstd"),
    ".cpio": ("cpio", None),
    ".cpio.gz": ("cpio", "gzip"),
    ".cpio.zst": ("cpio", "zstd"),
    ".erofs": ("erofs", None),
    ".squashfs": ("squashfs", None),
    ".sqfs": ("squashfs", None),
    ".ext4": ("ext4", None),
    ".img": ("ext4", None),
    ".disk": ("disk", None),
    ".raw": ("disk", None),
}
"""File name suffix: format, and the compression that the suffix says."""

ANY_IMAGE = ".img"
"""The suffix that people give to every kind of image; means ext4 where no format is chosen."""


def load_format(name: str) -> Format:
    """The format of that name. Raises UsageError when there is none."""
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    module, _, attribute = FORMATS[name].partition(":")
    found: Format = getattr(import_module(module), attribute)
    return found


def format_of(output: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Format and compression that an output's name asks for; a name without a suffix is a directory.

    Raises:
        UsageError: a suffix that is of no format; the caller must say which is meant.
    """
    known = _known_suffix(output)
    if known is not None:
        return SUFFIXES[known]
    suffix = Path(output).suffix.lower()
    if suffix and not os.fspath(output).endswith("/"):
        raise UsageError(f"{os.fspath(output)}: the suffix {suffix} is of no known format; choose one with --format")
    return "dir", None


def check_suffix(output: str | os.PathLike[str], name: str, compression: str | None) -> str | None:
    """Compares an output's name with what was chosen, so that no file is called what it is not.

    Args:
        output: a path.
        name: the format that was chosen.
        compression: the compression that was chosen, if any.

    Returns:
        The compression, which the suffix may say where it was not chosen.

    Raises:
        UsageError: the suffix is of another format, or of another compression.
    """
    suffix = _known_suffix(output)
    if suffix is None or (suffix == ANY_IMAGE and name not in ("dir", "tar")):
        return compression
    meant, implied = SUFFIXES[suffix]
    if meant != name:
        own = next((suffix for suffix, (format_, _) in SUFFIXES.items() if format_ == name), None)
        advice = f"call it *{own}" if own is not None else "a directory has no suffix"
        raise UsageError(
            f"{os.fspath(output)}: the suffix {suffix} means {meant}, not {name}; {advice}, or choose {meant}"
        )
    if implied is not None and compression not in (None, implied):
        raise UsageError(
            f"{os.fspath(output)}: the suffix {suffix} means {implied}, and --compression says {compression}"
        )
    return compression or implied


def _known_suffix(output: str | os.PathLike[str]) -> str | None:
    """The longest suffix of the table that the name has, after at least one other character."""
    name = Path(output).name.lower()
    known = (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix))
    return next((suffix for suffix in known if len(name) > len(suffix)), None)
