"""The folders of the user who runs this: home, and those that the XDG Base Directory Specification puts in it.

A container often has neither `HOME` nor an entry of the user in /etc/passwd. Then there is no home: no file is found in
it, and nothing is made below the root or the current folder instead.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "config_folder", "home_folder"]


def home_folder() -> Path | None:
    """`HOME`, when it is an absolute path, or else what the user database says.

    None when both say nothing, or when it is somebody else's, which we may not enter: what we do not see is not there.
    """
    home = _absolute("HOME") or _recorded()
    return home if home is not None and _may_be_entered(home) else None


def config_folder() -> Path | None:
    """Where the user's configuration is: `XDG_CONFIG_HOME`, or `.config` at home. None when we may not look there."""
    folder = _folder("XDG_CONFIG_HOME", ".config")
    return folder if folder is not None and _may_be_entered(folder) else None


def cache_folder() -> Path | None:
    """Where the user's caches are: `XDG_CACHE_HOME`, or `.cache` at home."""
    return _folder("XDG_CACHE_HOME", ".cache")


def _may_be_entered(folder: Path) -> bool:
    """Whether it is ours to look into, or is not there yet; not so when it, or a folder above it, is closed to us."""
    try:
        os.stat(folder)  # noqa: PTH116 - once for all that may go wrong
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return os.access(folder, os.X_OK)


def _recorded() -> Path | None:
    import pwd

    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except (KeyError, OSError):
        return None
    return Path(found) if found.startswith("/") else None


def _folder(variable: str, name: str) -> Path | None:
    if (stated := _absolute(variable)) is not None:
        return stated
    home = home_folder()
    return None if home is None else home / name


def _absolute(variable: str) -> Path | None:
    """XDG base directory specification: a relative path is invalid, and ignored."""
    stated = os.environ.get(variable, "")
    return Path(stated) if stated.startswith("/") else None
