"""A staged directory, for tools that read nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from ocifast.packers import LossRow, Packing

__all__ = ["make_readable", "set_mtime", "stage"]


def stage(packing: Packing) -> tuple[Path, list[LossRow]]:
    """Makes the tree as a directory in the packing's folder.

    The flattener must have used the store "directory". Owners are set when running as root.

    Returns:
        The directory, and the losses of making it.
    """
    folder = packing.folder / "stage"
    folder.mkdir(mode=0o700)
    owners = os.geteuid() == 0
    return folder, packing.tree.write_directory(folder, owners=owners, clamp_mtime=packing.clamp_mtime)


def set_mtime(folder: Path, path: bytes, seconds: int) -> None:
    """Gives a staged name another time; what it is, if it is a link, is not followed."""
    os.utime(os.fsencode(folder) + b"/" + path, (seconds, seconds), follow_symlinks=False)


def make_readable(folder: Path, path: bytes, kind: str, mode: int) -> bool:
    """Lets a plain user's tool read a file or directory whose own mode forbids it; says whether it was changed.

    Entries must come parents first: no name on the way to `path` is a link, because it is a path of the tree.
    """
    needed = 0o700 if kind == "directory" else 0o400
    if kind not in ("file", "directory") or mode & needed == needed:
        return False
    os.chmod(os.fsencode(folder) + b"/" + path, (mode & 0o777) | needed)  # noqa: PTH101 - names are bytes
    return True
