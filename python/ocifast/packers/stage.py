"""A staged directory, for tools that read nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ocifast.packers.losses import LossRow
from ocifast.packers.request import WriteRequest

__all__ = ["make_readable", "set_mtime", "stage"]


def stage(request: WriteRequest[Any]) -> tuple[Path, list[LossRow]]:
    """Makes the tree as a directory in the request's folder. Owners are set when running as root.

    Returns:
        The directory, and the losses of making it.
    """
    folder, waiting = request.folder / "stage", request.folder / "staged"
    folder.mkdir(mode=0o700)
    waiting.mkdir(mode=0o700)
    owners = os.geteuid() == 0
    return folder, request.tree.write_directory(folder, owners=owners, clamp_mtime=request.clamp_mtime, folder=waiting)


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
