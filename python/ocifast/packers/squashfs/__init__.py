"""squashfs: a compressed, read-only image, written by whichever tool is there.

Nothing of ours writes squashfs; all backends are tools, and each result is compared name by name with the tree.
"""

from __future__ import annotations

from ocifast.packers.backend import Format
from ocifast.packers.options import SquashfsOptions
from ocifast.packers.squashfs.mksquashfs import MKSQUASHFS
from ocifast.packers.squashfs.streamed import SQFSTAR, TAR2SQFS

__all__ = ["FORMAT"]

FORMAT = Format("squashfs", SquashfsOptions, (SQFSTAR, TAR2SQFS, MKSQUASHFS))
