"""Removing what is in a folder by file descriptor: no link is followed, whoever puts one in our way.

Every step names one entry of a folder that is held open. What stands at a path may be another thing at each look; an
open folder stays the one that it was. Depth costs no stack and no file descriptors: the way up is `..`, compared with
the folder that was left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

__all__ = ["empty_folder", "remove_entry", "remove_folder"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_folder(name: str, parent: int, folder: int) -> bool:
    """Empties an open folder, and takes its name out of its parent unless something else has that name by now.

    Args:
        name: of the folder in `parent`.
        parent: an open folder.
        folder: the folder itself, open.

    Returns:
        Whether all of it is gone; what could not be removed is let be.
    """
    emptied = empty_folder(folder)
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not os.path.samestat(found, os.fstat(folder)):
            return False
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return emptied
    except OSError:
        return False
    return emptied


def remove_entry(path: Path) -> None:
    """Removes what stands at a path, a folder with all that is in it; nothing there is fine.

    The folders above it must be ours.

    Raises:
        OSError: not all of it could be removed.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        folder = _open_folder(path.name, parent)
        if folder is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=parent)
            return
        try:
            if not remove_folder(path.name, parent, folder):
                raise OSError(errno.EBUSY, "not all of it could be removed")
        finally:
            os.close(folder)
    finally:
        os.close(parent)


def _open_folder(name: str, parent: int) -> int | None:
    """Opens a folder; None for anything else."""
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
            return None
        raise


def empty_folder(folder: int) -> bool:
    """Removes all that is in an open folder, also from folders that their modes close to their owner.

    Other file systems that are mounted inside are let be.

    Returns:
        Whether all of it is gone.
    """
    whole = True
    device = os.fstat(folder).st_dev
    here = os.dup(folder)
    # One for each folder on the way down: its name, its identity, and the folders in it that are still to be removed.
    trail: list[tuple[str, tuple[int, int], list[str]]] = []
    try:
        waiting, clean = _remove_files(here)
        while True:
            whole = whole and clean
            if waiting:
                name = waiting.pop()
                inner = _open_inner(name, here, device)
                if inner is None:
                    clean = _remove_empty(name, here)
                    continue
                above = os.fstat(here)
                trail.append((name, (above.st_dev, above.st_ino), waiting))
                os.close(here)
                here = inner
                waiting, clean = _remove_files(here)
                continue
            if not trail:
                return whole
            name, identity, waiting = trail.pop()
            outer = os.open("..", _FOLDER, dir_fd=here)
            os.close(here)
            here = outer
            found = os.fstat(here)
            if (found.st_dev, found.st_ino) != identity:
                # Somebody has moved the folder away while we were in it: what is above it now is not ours.
                return False
            clean = _remove_empty(name, here)
    except OSError:
        return False
    finally:
        os.close(here)


def _remove_files(folder: int) -> tuple[list[str], bool]:
    """Removes what is no folder; returns the folders, and whether all else is gone."""
    folders, clean = [], True
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                continue
            try:
                os.unlink(entry.name, dir_fd=folder)
            except FileNotFoundError:
                pass
            except OSError:
                clean = False
    return folders, clean


def _open_inner(name: str, folder: int, device: int) -> int | None:
    """Opens a folder in a folder so that it can be emptied; None for anything else, or on another file system."""
    try:
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        found = os.fstat(held)
        if found.st_dev != device:
            return None
        if stat.S_IMODE(found.st_mode) & 0o700 != 0o700:
            # What is open for its path alone takes no fchmod; the link in /proc leads to it and to nothing else.
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{held}", 0o700)  # noqa: PTH101 - this is no path of a file
        return os.open(".", _FOLDER, dir_fd=held)
    except OSError:
        return None
    finally:
        os.close(held)


def _remove_empty(name: str, folder: int) -> bool:
    try:
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        # A link took its place: what it names is let be.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
            return True
        return False
    except OSError:
        return False
    return True
