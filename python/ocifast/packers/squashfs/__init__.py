"""squashfs: a compressed, read-only image; by the core's own writer, or by a tool.

What a tool writes is compared name by name with the tree.
"""

from __future__ import annotations

from ocifast.packers.backend import Format
from ocifast.packers.options import SquashfsOptions
from ocifast.packers.squashfs.mksquashfs import MKSQUASHFS
from ocifast.packers.squashfs.streamed import SQFSTAR, TAR2SQFS
from ocifast.packers.squashfs.writer import WRITER

__all__ = ["FORMAT"]

FORMAT = Format("squashfs", SquashfsOptions, (WRITER, SQFSTAR, TAR2SQFS, MKSQUASHFS))
