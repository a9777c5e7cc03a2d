"""What the types of entries are called, and their bits in `st_mode` (inode(7))."""

from __future__ import annotations

import stat

__all__ = ["FILE_TYPES"]

FILE_TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
